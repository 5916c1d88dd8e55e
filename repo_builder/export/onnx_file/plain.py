"""A model in a plain form: constants as initializers, functions inlined, nothing that no output needs."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, inliner, numpy_helper, version_converter

from repo_builder.errors import ModelFileError
from repo_builder.export.join import all_names, free_prefix, rename_tensors
from repo_builder.export.onnx_file.tensors import all_reads, inner_graphs

MAX_OPSET = 21
"""The newest that onnxruntime 1.19 reads, Triton 2.51's."""

CUT_OPSET = 13
"""The oldest that a graph is cut in: older ones are converted to it."""


def plain(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    """The same model with constants as initializers, functions inlined, and without what no output needs.

    It has opset 13 or later. Raises ModelFileError where it cannot be converted to that.
    """
    made = onnx.ModelProto()
    made.CopyFrom(model)
    if made.functions:
        made = inliner.inline_local_functions(made)
    if (opset := opset_of(made)) < CUT_OPSET:
        try:
            made = version_converter.convert_version(made, CUT_OPSET)
        except (RuntimeError, version_converter.ConvertError) as exc:
            raise ModelFileError(
                f"{path}: expected opset {CUT_OPSET} to {MAX_OPSET}, or one that can be converted, got {opset} and: "
                f"{str(exc).strip().splitlines()[0]}; export the model with opset_version=18"
            ) from exc
    _constants_to_initializers(made.graph)
    _drop_unread(made.graph)
    _strip(made.graph)
    _free_lookup_names(made.graph, path)
    return made


def _free_lookup_names(graph: onnx.GraphProto, path: Path) -> None:
    """Rename what is called as look-ups are in the cut graph (`lookup_name`)."""
    names = all_names(graph)
    taken = sorted(name for name in names if re.fullmatch(r"lookup_\d+", name))
    fixed = [entry.name for entry in (*graph.input, *graph.output) if entry.name in taken]
    if fixed:
        raise ModelFileError(f"{path}: {fixed[0]}: expected inputs and outputs not called lookup_N; rename it")
    prefix = free_prefix("was_", names)
    rename_tensors(graph, {name: f"{prefix}{name}" for name in taken})


def _constants_to_initializers(graph: onnx.GraphProto) -> None:
    nodes = []
    for node in graph.node:
        tensor = _constant(node) if node.op_type == "Constant" else None
        if tensor is None:
            nodes.append(node)
        else:
            tensor.name = node.output[0]
            graph.initializer.append(tensor)
    del graph.node[:]
    graph.node.extend(nodes)
    given = {tensor.name for tensor in graph.initializer}
    inputs = [entry for entry in graph.input if entry.name not in given]  # old files list weights as inputs too
    del graph.input[:]
    graph.input.extend(inputs)


def _drop_unread(graph: onnx.GraphProto) -> None:
    """Drop the nodes that no output needs, so that what they read is read by the others alone."""
    read = {entry.name for entry in graph.output}
    nodes = []
    for node in reversed(graph.node):
        if read.intersection(node.output):
            nodes.append(node)
            read.update(all_reads(node))
    del graph.node[:]
    graph.node.extend(reversed(nodes))


def _constant(node: onnx.NodeProto) -> TensorProto | None:
    (attribute,) = node.attribute
    if attribute.name == "value":
        tensor = TensorProto()
        tensor.CopyFrom(attribute.t)
        return tensor
    kinds = {"value_int": np.int64, "value_ints": np.int64, "value_float": np.float32, "value_floats": np.float32}
    if attribute.name not in kinds:
        return None
    return numpy_helper.from_array(np.array(helper.get_attribute_value(attribute), kinds[attribute.name]))


def _strip(graph: onnx.GraphProto) -> None:
    """Drop what a runtime does not need: stack traces with the exporting machine's paths, notes."""
    graph.doc_string = ""
    del graph.metadata_props[:]
    for item in (*graph.node, *graph.input, *graph.output, *graph.initializer):
        del item.metadata_props[:]
        item.doc_string = ""
    for node in graph.node:
        for inner in inner_graphs(node):
            _strip(inner)


def opset_of(model: onnx.ModelProto) -> int:
    """The model's opset of ONNX's own operators; 0 where it names none."""
    return next((int(each.version) for each in model.opset_import if each.domain in ("", "ai.onnx")), 0)
