"""Graphs that compute in bfloat16, in float32 instead: onnxruntime has hardly an operator of the former on processors.

Weights stay as they are, and are cast when a session is made. What is not rounded in between is nearer to the exact
answer than the model's own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from repo_builder.errors import ModelFileError
from repo_builder.export.join import all_names, free_prefix


def refuse_bfloat16(path: Path, names: Iterable[str]) -> None:
    """Raises ModelFileError where there are inputs and outputs of bfloat16, by name."""
    problems = [
        f"{path}: {name}: expected another type than bfloat16, which Triton's onnxruntime neither takes nor gives; let "
        "the model take and give float32, and cast inside it"
        for name in dict.fromkeys(names)
    ]
    if problems:
        raise ModelFileError(*problems)


def in_float32(model: onnx.ModelProto) -> bool:
    """Let a model compute in float32 where it does in bfloat16; whether it did anywhere but in casts of its weights."""
    graph = model.graph
    narrow = {tensor.name for tensor in graph.initializer if tensor.data_type == TensorProto.BFLOAT16}
    readers = [node for node in graph.node if node.op_type != "Cast" and narrow & {*_read(node)}]
    changed = [_retyped(nodes) for nodes in (graph.node, *(function.node for function in model.functions))]
    if not readers and not any(changed):
        return False
    prefix = free_prefix("wide_", all_names(graph))
    wide = {name: f"{prefix}{name}" for name in sorted(narrow)}
    _read_instead(readers, wide)
    casts = [helper.make_node("Cast", [name], [new], new, to=TensorProto.FLOAT) for name, new in wide.items()]
    nodes = [*casts, *graph.node]
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)
    for function in model.functions:
        del function.value_info[:]
    return True


def _read(node: onnx.NodeProto) -> Iterable[str]:
    """What a node and those within it read."""
    yield from node.input
    for attribute in node.attribute:
        for inner in (attribute.g, *attribute.graphs):
            for each in inner.node:
                yield from _read(each)


def _read_instead(nodes: Iterable[onnx.NodeProto], names: Mapping[str, str]) -> None:
    for node in nodes:
        node.input[:] = [names.get(name, name) for name in node.input]
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                _read_instead(inner.node, names)


def _retyped(nodes: Iterable[onnx.NodeProto]) -> bool:
    """Make float32 of the types that nodes name, and of their constants; whether there was something to change."""
    changed = False
    for node in nodes:
        for attribute in node.attribute:
            if (node.op_type, attribute.name) in _TYPES and attribute.i == TensorProto.BFLOAT16:
                attribute.i, changed = TensorProto.FLOAT, True
            if attribute.HasField("t"):
                changed |= _widened(attribute.t)
            for inner in (attribute.g, *attribute.graphs):
                for tensor in inner.initializer:
                    changed |= _widened(tensor)
                for entry in (*inner.input, *inner.output, *inner.value_info):
                    if entry.type.tensor_type.elem_type == TensorProto.BFLOAT16:
                        entry.type.tensor_type.elem_type, changed = TensorProto.FLOAT, True
                changed |= _retyped(inner.node)
    return changed


_TYPES = {
    ("Cast", "to"),
    *((op_type, "dtype") for op_type in ("EyeLike", "HannWindow", "RandomNormal", "RandomNormalLike", "RandomUniform")),
}


def _widened(tensor: TensorProto) -> bool:
    if tensor.data_type != TensorProto.BFLOAT16:
        return False
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))
    return True
