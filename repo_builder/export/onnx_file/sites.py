"""Where a graph looks up rows: Gather nodes on initializers, with the sums and means that they go into.

table (Identity, Cast) ── Gather(axis 0) ─┬────────────────────────────── every id's row
ids ──────────────────────────┘           ├── ReduceSum, ReduceMean ───── a bag's sum or mean
                                          └── Mul(weights) ── ReduceSum ── a weighted sum

Of a table in fewer bits DequantizeLinear stands before the Gather, or right behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Literal

import onnx
from onnx import TensorProto, helper

from repo_builder.export.onnx_file.graph import Graph, Size
from repo_builder.export.onnx_file.quantized import HALF_BYTES, LEAST, Quantization, read_quantization
from repo_builder.export.onnx_file.tensors import FLOATS, inner_graphs, node_name, values
from repo_builder.model.types import Mode

BoundsKind = Literal["offsets", "ends"]


@dataclass(frozen=True, slots=True)
class OnnxSite:
    """A look-up as the graph has it.

    node: the Gather's position. output: the tensor that the look-up makes, of the graph's type `type`: the Gather's,
    or where it is pooled that of the reduction over the last `bag_axes` axes of the ids, which are kept with size 1
    where `keeps_axes`. weights: a tensor of a float32 per id, in their order. Where a loop makes bags of ids in a
    row: `bag` ids each, or from one bound to the next in the tensor `bounds`; `kind`: whether the last end is in it.
    quantization: how the table's numbers are read, where they are quantized.
    """

    node: int
    table: str
    ids: str
    output: str
    type: int
    mode: Mode = "none"
    bag_axes: int = 0
    keeps_axes: bool = False
    weights: str | None = None
    bag: int = 0
    bounds: str | None = None
    kind: BoundsKind = "ends"
    padding: int | None = None
    quantization: Quantization | None = None


def find_sites(graph: Graph) -> tuple[Sequence[OnnxSite], Mapping[str, str]]:
    """All look-ups, un-pooled, in the graph's order; and the tables with a reason why they cannot be cut off."""
    sites: list[OnnxSite] = []
    reasons: dict[str, str] = {}
    for table in graph.initializers:
        if graph.types[table] not in FLOATS and graph.types[table] not in LEAST:
            continue
        found = list((_gathers if graph.types[table] in FLOATS else _quantized)(graph, table, table))
        if not any(isinstance(each, OnnxSite) for each in found) and not _is_looked_up(graph, table):
            continue
        sites += [each for each in found if isinstance(each, OnnxSite)]
        reason = next((each for each in found if isinstance(each, str)), None) or _odd_shape(graph, table)
        if len({each.quantization for each in found if isinstance(each, OnnxSite)}) > 1:
            reason = reason or "its numbers are read by two scales"
        if reason is not None:
            reasons[table] = reason
    return sorted(sites, key=lambda site: site.node), reasons


def _gathers(graph: Graph, table: str, tensor: str, past: str | None = None) -> Iterator[OnnxSite | str]:
    """Each use of a table's values: a look-up, or why it is none. past: why what was passed on the way is not exact."""
    if tensor in graph.outputs:
        yield "it is an output of the model too"
    for position in graph.read_by.get(tensor, ()):
        node = graph.nodes[position]
        if (
            node.op_type == "Gather"
            and node.input[0] == tensor
            and attribute(node, "axis", 0) in _first_axis(graph, table)
        ):
            yield OnnxSite(position, table, node.input[1], node.output[0], graph.types.get(tensor, graph.types[table]))
            if past is not None:
                yield past
            if node.input[1] == tensor:
                yield f"node {node_name(node)} reads it as ids too"
        elif tensor not in node.input:
            yield f"it is read inside node {node_name(node)} ({node.op_type}){_INSIDE.get(node.op_type, _ELSEWHERE)}"
        elif node.op_type in ("Identity", "Cast"):
            inexact = node.op_type == "Cast" and not _is_exact(graph, tensor, node)
            yield from _gathers(graph, table, node.output[0], past or (_reason(node) if inexact else None))
        elif node.op_type in ("Transpose", "Reshape", "Squeeze", "Unsqueeze"):
            found = list(_gathers(graph, table, node.output[0], _reason(node)))
            yield from found or [_reason(node)]
        else:
            yield _reason(node)


_LOOP_REMEDY = (
    ": torch's exporters write EmbeddingBag as a loop; give the program of torch.export (source: exported), or export "
    "nn.Embedding and a sum in its place"
)
_INSIDE = {"Loop": _LOOP_REMEDY, "Scan": _LOOP_REMEDY}
_ELSEWHERE = ", where look-ups are not cut; look its rows up outside of that node"


def _reason(node: onnx.NodeProto) -> str:
    return f"it is read by node {node_name(node)} ({node.op_type}), which is no look-up"


def _is_looked_up(graph: Graph, table: str) -> bool:
    """Whether a node looks up its rows in a way that is none of ours: by another operator, or in a loop."""
    readers = [graph.nodes[position] for position in graph.read_by.get(table, ())]
    inner = [node for reader in readers for body in inner_graphs(reader) for node in body.node]
    return any(node.op_type in _OTHER_LOOK_UPS for node in readers) or any(
        node.op_type == "Gather" and node.input[0] == table for node in inner
    )


_OTHER_LOOK_UPS = {"EmbedLayerNormalization", "GatherBlockQuantized", "GatherElements", "GatherND"}


def _quantized(graph: Graph, table: str, tensor: str) -> Iterator[OnnxSite | str]:
    """Each use of a table of whole numbers that are dequantized; nothing where none is."""
    readers = graph.read_by.get(table, ())
    found = [list(_dequantized(graph, table, graph.nodes[position], position)) for position in readers]
    if any(isinstance(each, OnnxSite) for of_node in found for each in of_node):
        yield from (each for of_node in found for each in of_node)
        if tensor in graph.outputs:
            yield "it is an output of the model too"


def _dequantized(graph: Graph, table: str, node: onnx.NodeProto, position: int) -> Iterator[OnnxSite | str]:
    """The look-ups behind a node that reads a table of whole numbers, or why they are none."""
    if _odd_shape(graph, table) is not None:
        return
    rank, quantized = len(graph.shapes[table]), list[OnnxSite | str]()
    if node.input[:1] == [table] and node.op_type == "DequantizeLinear":
        axis, block = attribute(node, "axis", 1), attribute(node, "block_size", 0)
        read = read_quantization(graph, table, node.input[1:], axis % rank if axis < rank else axis, block)
        quantized = list(_gathers(graph, table, node.output[0]))
    elif node.input[:1] == [table] and node.op_type == "Gather" and attribute(node, "axis", 0) in (0, -rank):
        after = only_reader(graph, node.output[0])
        if after is None or after.op_type != "DequantizeLinear" or after.input[0] != node.output[0]:
            yield f"node {node_name(node)} looks up its whole numbers"
            return
        read = read_quantization(graph, table, after.input[1:], _column_axis(graph, after), 0)
        if attribute(after, "block_size", 0):
            read = f"node {node_name(after)} has scales for blocks of what is looked up"
        quantized = [_site(graph, position, table, node.input[1], after.output[0])]
    elif node.input[:1] == [table] and node.op_type == "GatherBlockQuantized":
        axis, block = attribute(node, "quantize_axis", 1), attribute(node, "block_size", 128)
        read = read_quantization(graph, table, node.input[2:], axis % rank, block)
        if graph.types[table] not in HALF_BYTES or attribute(node, "gather_axis", 0) not in (0, -rank):
            read = f"node {node_name(node)} looks up other than rows of INT4 or UINT4"
        quantized = [_site(graph, position, table, node.input[1], node.output[0])]
    else:
        yield _reason(node)
        return
    yield from (each if isinstance(each, str) else replace(each, quantization=_known(read)) for each in quantized)
    if isinstance(read, str):
        yield read


def _column_axis(graph: Graph, after: onnx.NodeProto) -> int:
    """Which axis of the table that of a node is which dequantizes looked-up rows: the columns', or none."""
    rank = len(graph.shapes.get(after.input[0], ()))
    return 1 if rank > 1 and attribute(after, "axis", 1) in (-1, rank - 1) else -1


def _site(graph: Graph, position: int, table: str, ids: str, output: str) -> OnnxSite:
    return OnnxSite(position, table, ids, output, graph.types.get(output, TensorProto.FLOAT))


def _known(read: Quantization | str) -> Quantization | None:
    return None if isinstance(read, str) else read


def _is_exact(graph: Graph, tensor: str, cast: onnx.NodeProto) -> bool:
    """Whether every float of a tensor is the same in the type that it is cast to, and in float32."""
    to = attribute(cast, "to", 0)
    source = graph.types.get(tensor)
    return source == to or (to == TensorProto.FLOAT and source in (TensorProto.FLOAT16, TensorProto.BFLOAT16))


def _first_axis(graph: Graph, table: str) -> tuple[int, ...]:
    return 0, -len(graph.shapes[table])


def _odd_shape(graph: Graph, table: str) -> str | None:
    shape = [size.number for size in graph.shapes[table]]
    if len(shape) not in (1, 2) or not prod(shape):
        return f"expected a table of rows and columns, got the shape {shape}"
    return None


def attribute(node: onnx.NodeProto, name: str, default: int) -> int:
    """An attribute that is a whole number."""
    return next((int(each.i) for each in node.attribute if each.name == name), default)


def pooled(graph: Graph, site: OnnxSite, weighable: Callable[[str], bool]) -> OnnxSite:
    """The look-up with the sum or mean that all it makes goes into, or as it is where there is none.

    weighable: whether a tensor can be made before the look-ups.
    """
    node = only_reader(graph, site.output)
    if node is None or site.type not in (TensorProto.FLOAT, TensorProto.DOUBLE):
        return site
    if node.op_type in ("ReduceSum", "ReduceMean"):
        return _reduced(graph, site, node, site)
    if node.op_type == "MatMul" and node.input[1] == site.output and _are_a_row(graph, site, node.input[0], weighable):
        output, weights = node.output[0], node.input[0]
        return replace(site, output=output, mode="sum", bag_axes=1, keeps_axes=True, weights=weights)
    if node.op_type == "Mul":
        (other,) = [name for name in node.input if name != site.output] or [""]
        sum_node = only_reader(graph, node.output[0])
        if sum_node is not None and sum_node.op_type == "ReduceSum" and _are_weights(graph, site, other, weighable):
            return _reduced(graph, site, sum_node, replace(site, weights=other))
    return site


def _are_weights(graph: Graph, site: OnnxSite, name: str, weighable: Callable[[str], bool]) -> bool:
    """Whether a tensor has one float32 per id, and a last axis of 1 that spreads it over the row."""
    ids = graph.shapes.get(site.ids)
    is_matrix = len(graph.shapes[site.table]) == 2 and graph.types.get(name) == TensorProto.FLOAT
    return ids is not None and is_matrix and graph.shapes.get(name) == (*ids, Size(1)) and weighable(name)


def _are_a_row(graph: Graph, site: OnnxSite, name: str, weighable: Callable[[str], bool]) -> bool:
    """Whether a tensor has for each bag a row of one float32 per id, so that a product with a bag's rows sums them."""
    ids = graph.shapes.get(site.ids, ())
    is_matrix = len(graph.shapes[site.table]) == 2 and graph.types.get(name) == TensorProto.FLOAT
    row = (*ids[:-1], Size(1), *ids[-1:])
    return len(ids) > 1 and is_matrix and graph.shapes.get(name) == row and weighable(name)


def _reduced(graph: Graph, site: OnnxSite, node: onnx.NodeProto, found: OnnxSite) -> OnnxSite:
    axes, ids = _axes(graph, node), graph.shapes.get(site.ids)
    if axes is None or ids is None:
        return site
    rank = len(ids) + len(graph.shapes[site.table]) - 1
    axes = sorted(axis % rank for axis in axes)
    last = [axis for axis in range(1, len(ids)) if axis >= len(ids) - len(axes)]
    varies = any(size.symbols for size in ids[len(ids) - len(axes) :])
    if not axes or axes != last or (varies and len(axes) > 1):
        return site  # over the batch, over a row's own numbers, over some axes before others: not a bag
    mode: Mode = "mean" if node.op_type == "ReduceMean" else "sum"
    keeps = bool(attribute(node, "keepdims", 1))
    return replace(found, output=node.output[0], mode=mode, bag_axes=len(axes), keeps_axes=keeps)


def _axes(graph: Graph, node: onnx.NodeProto) -> list[int] | None:
    """The axes of a reduction, an attribute or an input; None where they are computed."""
    for each in node.attribute:
        if each.name == "axes":
            return [int(axis) for axis in helper.get_attribute_value(each)]
    if len(node.input) < 2 or node.input[1] not in graph.initializers:
        return None
    return [int(axis) for axis in values(graph.initializers[node.input[1]], graph.folder).reshape(-1).tolist()]


def only_reader(graph: Graph, tensor: str) -> onnx.NodeProto | None:
    """The node that alone reads a tensor, once; None where there are others."""
    positions = graph.read_by.get(tensor, ())
    if len(positions) != 1 or tensor in graph.outputs:
        return None
    node = graph.nodes[positions[0]]
    return node if list(node.input).count(tensor) == 1 else None
