"""The graphs that are cut out: the dense one, which takes looked-up vectors, and the one that makes the ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

import onnx
from onnx import TensorProto, helper

from repo_builder.export.join import all_names, free_prefix, lookup_name
from repo_builder.export.onnx_file.cut import OnnxCut, OnnxLookup
from repo_builder.export.onnx_file.graph import Graph, Size
from repo_builder.export.onnx_file.sites import OnnxSite
from repo_builder.export.onnx_file.tensors import tensor_bytes, tensors
from repo_builder.model.types import BATCH, Tensor


def lookup_shape(found: OnnxLookup, dim: int) -> tuple[int | str, ...]:
    """What a look-up gives: (rows, dim), or (rows, count, dim) where a row has several bags."""
    rows, count = found.read.bags.rows.dimension, found.read.bags.count
    return (rows, dim) if count == 1 else (rows, count, dim)


def dims(graph: Graph, cut: OnnxCut, table: int) -> list[int]:
    """The columns of each member of a table."""
    shapes = (graph.shapes[member] for member in cut.members[table])
    return [shape[1].number if len(shape) == 2 else 1 for shape in shapes]


def dense_graph(graph: Graph, cut: OnnxCut, outputs: Sequence[Tensor]) -> onnx.ModelProto:
    """The cut graph: inputs those of the model that it still reads, then `lookup_name(i)`; outputs the model's."""
    glue = _Glue(graph, cut)
    made = {name for node in glue.nodes for name in node.output}
    read = {name for node in glue.nodes for name in node.input} | set(graph.outputs)
    positions = graph.needed(read, made)
    read |= {name for position in positions for name in graph.reads[position]}
    inputs = [graph.info(name, _dimensions(graph, name)) for name in graph.inputs if name in read]
    inputs += [
        helper.make_tensor_value_info(
            lookup_name(i), TensorProto.FLOAT, lookup_shape(found, sum(dims(graph, cut, found.table)))
        )
        for i, found in enumerate(cut.lookups)
    ]
    answers = [graph.info(tensor.name, tensor.shape) for tensor in outputs]
    return graph.extract(inputs, answers, glue.nodes, glue.numbers)


def ids_graph(graph: Graph, cut: OnnxCut) -> onnx.ModelProto | None:
    """What makes the tensors of ids and weights that are no inputs; None where all are."""
    named = [name for found in cut.lookups for name in found.read.source.tensors]
    outputs = [name for name in dict.fromkeys(named) if name not in graph.inputs]
    if not outputs:
        return None
    read = {name for position in graph.needed(outputs) for name in graph.reads[position]}
    inputs = [graph.info(name, _dimensions(graph, name)) for name in graph.inputs if name in read]
    return graph.extract(inputs, [graph.info(name, _dimensions(graph, name)) for name in outputs])


def _dimensions(graph: Graph, name: str) -> list[int | str]:
    return [size.dimension for size in graph.shapes[name]]


class _Glue:
    """Nodes from the look-ups to the tensors that the graph had: each member's columns, in their shape and type."""

    def __init__(self, graph: Graph, cut: OnnxCut) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.numbers: list[TensorProto] = []
        self._graph = graph
        self._prefix = free_prefix("looked_up_", all_names(graph.model.graph))
        for position, found in enumerate(cut.lookups):
            columns = dims(graph, cut, found.table)
            parts = [lookup_name(position)]
            if len(columns) > 1:
                parts = [f"{self._prefix}{len(self.nodes)}_{i}" for i in range(len(columns))]
                self.nodes.append(
                    helper.make_node("Split", [lookup_name(position), self._number(columns)], parts, axis=-1)
                )
            by_member = dict(zip(cut.members[found.table], zip(parts, columns, strict=True), strict=True))
            for site in found.sites:
                self._write(site, found, *by_member[site.table])

    def _write(self, site: OnnxSite, found: OnnxLookup, part: str, dim: int) -> None:
        """One site's tensor, from its columns of the look-up."""
        ids = self._graph.shapes[site.ids]
        if site.bag or site.bounds is not None:
            self._node("Identity", [part], site.output)
            return
        kept = ids[: len(ids) - site.bag_axes]
        row = (Size(dim),) if len(self._graph.shapes[site.table]) == 2 else ()
        shape = (*kept, *((Size(1),) * site.bag_axes if site.keeps_axes else ()), *row)
        bags = found.read.bags
        given = (bags.rows, *((Size(bags.count),) if bags.count > 1 else ()), Size(dim))
        last = "Identity" if site.type == TensorProto.FLOAT else "Cast"
        if shape != given:
            part = self._node("Reshape", [part, self._shape(shape, site, len(kept))])
        self._node(last, [part], site.output, **({"to": site.type} if last == "Cast" else {}))

    def _shape(self, shape: Sequence[Size], site: OnnxSite, kept: int) -> str:
        """The shape as a tensor: numbers and one -1, or else the ids' own sizes and then numbers."""
        if sum(bool(size.symbols) for size in shape) < 2:
            return self._number([-1 if size.symbols else size.number for size in shape])
        sizes = self._node("Shape", [site.ids])
        if site.bag_axes:
            sizes = self._node("Slice", [sizes, self._number([0]), self._number([kept])])
        if len(shape) == kept:
            return sizes
        return self._node("Concat", [sizes, self._number([size.number for size in shape[kept:]])], axis=0)

    def _node(self, op_type: str, inputs: Sequence[str], output: str | None = None, **attributes: int) -> str:
        name = f"{self._prefix}{len(self.nodes)}"
        node = helper.make_node(op_type, inputs, [output or name], name)
        node.attribute.extend(helper.make_attribute(key, value) for key, value in attributes.items())
        self.nodes.append(node)
        return output or name

    def _number(self, values: Sequence[int]) -> str:
        name = f"{self._prefix}number_{len(self.numbers)}"
        self.numbers.append(helper.make_tensor(name, TensorProto.INT64, [len(values)], values))
        return name


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
