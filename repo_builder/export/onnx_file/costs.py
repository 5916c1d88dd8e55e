"""What a dense graph costs: its multiplications, and the bytes of its parameters."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import onnx

from repo_builder.export.onnx_file.read import tensor_bytes, tensors
from repo_builder.model.types import BATCH


def parameter_bytes(graph: onnx.GraphProto) -> int:
    """Bytes of all tensors in it."""
    return sum(tensor_bytes(tensor) for tensor in tensors(graph))


def flops(model: onnx.ModelProto, sizes: Mapping[str, int]) -> float:
    """Of its matrix products and convolutions, where varying dimensions have these sizes.

    A product of matrices whose result's shape cannot be told is taken for one row of the batch each.
    """
    sized = onnx.ModelProto()
    sized.CopyFrom(model)
    for entry in (*sized.graph.input, *sized.graph.output):
        for dimension in entry.type.tensor_type.shape.dim:
            if dimension.dim_param:
                dimension.dim_value = _product(dimension.dim_param, sizes)
    del sized.graph.value_info[:]
    for entry in sized.graph.output:
        entry.type.tensor_type.ClearField("shape")
    graph = onnx.shape_inference.infer_shapes(sized, data_prop=True).graph
    shapes = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    for entry in (*graph.value_info, *graph.input, *graph.output):
        shape = entry.type.tensor_type.shape.dim
        if all(dimension.HasField("dim_value") for dimension in shape):
            shapes[entry.name] = [dimension.dim_value for dimension in shape]
    return float(sum(_flops(node, shapes, sizes[BATCH]) for node in graph.node))


def _product(name: str, sizes: Mapping[str, int]) -> int:
    """The size of a product of numbers and symbols; 1 for what is not known."""
    return prod(int(factor) if factor.isdigit() else sizes.get(factor, 1) for factor in name.split("*"))


def _flops(node: onnx.NodeProto, shapes: Mapping[str, list[int]], batch: int) -> int:
    """2 for each number of the result and each that is summed up in it."""
    if node.op_type not in ("Conv", "FusedMatMul", "Gemm", "MatMul") or node.input[1] not in shapes:
        return 0
    right, result = shapes[node.input[1]], shapes.get(node.output[0])
    if node.op_type == "Conv":
        return 2 * prod(result or [batch, right[0]]) * prod(right[1:])
    transposed = any(each.name == "transB" and each.i for each in node.attribute)
    summed, columns = right[-2:][::-1] if transposed else (right[-2], right[-1]) if len(right) > 1 else (right[0], 1)
    return 2 * prod(result or [batch, columns]) * summed
