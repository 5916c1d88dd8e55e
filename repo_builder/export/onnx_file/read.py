"""Reading an `.onnx` file without its weights, and seeing that they lie where they may."""

from __future__ import annotations

import re
from collections.abc import Iterator
from math import prod
from pathlib import Path, PurePosixPath

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import TensorProto, helper, inliner, numpy_helper, version_converter

from repo_builder.errors import ModelFileError
from repo_builder.export.join import all_names, free_prefix, rename_tensors
from repo_builder.export.onnx_file.wire import lean_message

MAX_OPSET = 21
"""The newest that onnxruntime 1.19 reads, Triton 2.51's."""

CUT_OPSET = 13
"""The oldest that a graph is cut in: older ones are converted to it."""

MIN_OPSET = 7
_HALF_BYTES = {TensorProto.INT4, TensorProto.UINT4, TensorProto.FLOAT4E2M1}
_DOMAINS = {"", "ai.onnx", "ai.onnx.ml", "com.microsoft"}


def read_without_weights(path: Path) -> onnx.ModelProto:
    """Parse a model; large tensors are external ones, in the file itself or in others of its folder.

    Raises ModelFileError where the file is none of ONNX, a tensor lies elsewhere, or an operator or opset is one that
    Triton cannot serve.
    """
    try:
        model: onnx.ModelProto = onnx.ModelProto.FromString(lean_message(path))
    except FileNotFoundError as exc:
        raise ModelFileError(f"{path}: expected an ONNX file, found none; check model.path") from exc
    except OSError as exc:
        raise ModelFileError(f"{path}: cannot be read: {exc.strerror}") from exc
    except (DecodeError, ValueError, RecursionError) as exc:
        raise ModelFileError(f"{path}: expected an ONNX file, got another or a damaged one; copy it again") from exc
    if not model.graph.node or not model.opset_import:
        raise ModelFileError(f"{path}: expected an ONNX model with nodes, got none; export it again")
    _refuse(path, (problem for tensor in tensors(model.graph) for problem in _misplaced(tensor, path)))
    _refuse(path, _unknown_operators(inliner.inline_local_functions(model) if model.functions else model))
    _refuse(path, _wrong_opset(model))
    return model


def plain(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    """The same model with constants as initializers, functions inlined, and without what no output needs.

    It has opset 13 or later. Raises ModelFileError where it cannot be converted to that.
    """
    made = onnx.ModelProto()
    made.CopyFrom(model)
    if made.functions:
        made = inliner.inline_local_functions(made)
    if (opset := _opset(made)) < CUT_OPSET:
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


def _refuse(path: Path, problems: Iterator[str]) -> None:
    found = list(problems)
    if found:
        raise ModelFileError(*(f"{path}: {problem}" for problem in found))


def tensors(graph: onnx.GraphProto) -> Iterator[TensorProto]:
    """All tensors of a graph: initializers, and attributes of its nodes and of those of their sub-graphs."""
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        for attribute in node.attribute:
            yield from ([attribute.t] if attribute.HasField("t") else attribute.tensors)
        for inner in inner_graphs(node):
            yield from tensors(inner)


def inner_graphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """A node's sub-graphs: bodies of loops, branches."""
    for attribute in node.attribute:
        yield from ([attribute.g] if attribute.HasField("g") else attribute.graphs)


def is_external(tensor: TensorProto) -> bool:
    """Whether its values lie in a file."""
    return bool(tensor.data_location == TensorProto.EXTERNAL)


def external_place(tensor: TensorProto) -> tuple[str, int]:
    """Where an external tensor's values lie: the file's name, relative to the model's folder, and the first byte."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    return entries.get("location", ""), int(entries.get("offset", "0"))


def tensor_bytes(tensor: TensorProto) -> int:
    """Bytes of its values."""
    numbers = int(prod(tensor.dims))
    if tensor.data_type in _HALF_BYTES:
        return (numbers + 1) // 2
    return numbers * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize


def values(tensor: TensorProto, folder: Path) -> NDArray[np.generic]:
    """A tensor's values, read whole."""
    if not is_external(tensor):
        return numpy_helper.to_array(tensor)
    location, offset = external_place(tensor)
    whole = TensorProto(data_type=tensor.data_type, dims=tensor.dims)
    with (folder / location).open("rb") as file:
        file.seek(offset)
        whole.raw_data = file.read(tensor_bytes(tensor))
    return numpy_helper.to_array(whole)


def _misplaced(tensor: TensorProto, path: Path) -> Iterator[str]:
    if not is_external(tensor):
        return
    try:
        location, offset = external_place(tensor)
        expected_bytes = tensor_bytes(tensor)
        got = {entry.key: entry.value for entry in tensor.external_data}.get("length", expected_bytes)
        size_bytes = int(got)
    except (ValueError, KeyError):
        yield f"{tensor.name}: expected whole numbers for the place of its external data; export the model again"
        return
    place, pure = path.parent / location, PurePosixPath(location)
    if not location or pure.is_absolute() or ".." in pure.parts or "\\" in location or "\0" in location:
        yield f"{tensor.name}: expected external data in the model's folder, got {location!r}; save the model with it"
    elif not place.is_file():
        yield f"{tensor.name}: expected its external data in {place}, found no such file; copy it beside the model"
    elif place != path and not place.resolve().is_relative_to(path.parent.resolve()):
        yield f"{tensor.name}: expected external data in the model's folder, got {place}, a link out; copy it"
    elif offset < 0 or min(tensor.dims, default=0) < 0 or size_bytes != expected_bytes:
        yield f"{tensor.name}: expected {expected_bytes} bytes from a place of {place}, got {size_bytes} from {offset}"
    elif place.stat().st_size < offset + size_bytes:
        there = place.stat().st_size
        yield f"{tensor.name}: expected {offset + size_bytes} bytes in {place}, got {there}; copy it again"


def _unknown_operators(model: onnx.ModelProto) -> Iterator[str]:
    for node in _all_nodes(model.graph):
        known = node.domain in _DOMAINS
        if known and node.domain != "com.microsoft":
            known = onnx.defs.has(node.op_type, "" if node.domain == "ai.onnx" else node.domain)
        if not known:
            domain = f"{node.domain}." if node.domain else ""
            yield (
                f"node {node_name(node)}: expected operators of ONNX or onnxruntime, got {domain}{node.op_type}; "
                "Triton has no such custom operator: export the model without it"
            )


def _all_nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for inner in inner_graphs(node):
            yield from _all_nodes(inner)


def _wrong_opset(model: onnx.ModelProto) -> Iterator[str]:
    opset = _opset(model)
    if not MIN_OPSET <= opset <= MAX_OPSET:
        yield (
            f"opset_import: expected opset {MIN_OPSET} to {MAX_OPSET}, the newest of Triton 2.51's onnxruntime 1.19, "
            f"got {opset}; export the model with opset_version=18"
        )


def _opset(model: onnx.ModelProto) -> int:
    return next((int(each.version) for each in model.opset_import if each.domain in ("", "ai.onnx")), 0)


def node_name(node: onnx.NodeProto) -> str:
    """What to call a node in a message: its name, else what it gives."""
    return node.name or next(iter(node.output), "") or node.op_type


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


def all_reads(node: onnx.NodeProto) -> Iterator[str]:
    """The names that a node reads, in its sub-graphs too, where they are the outer graph's."""
    yield from (name for name in node.input if name)
    for inner in inner_graphs(node):
        yield from _free_names(inner)


def _free_names(graph: onnx.GraphProto) -> set[str]:
    """What a sub-graph reads of the graphs around it."""
    own = {entry.name for entry in (*graph.input, *graph.initializer)}
    own |= {name for node in graph.node for name in node.output}
    read = {name for node in graph.node for name in all_reads(node)} | {entry.name for entry in graph.output}
    return read - own


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
