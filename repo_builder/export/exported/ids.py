"""Where a look-up's ids come from: columns of a tensor, or ragged bags in one; an input, or computed from inputs."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch.fx import Node

from repo_builder.export.exported.graph import ProgramGraph, Size, shape_of
from repo_builder.export.exported.probe import MOVES, SPLITS, Probe, columns_of, is_fixed, is_same, origin, read_by
from repo_builder.export.exported.sites import ProgramSite
from repo_builder.model.types import Columns

_ATEN = torch.ops.aten
_COUNTING = (
    MOVES
    | SPLITS
    | {
        operator.getitem,
        _ATEN.cumsum.default,
        _ATEN.sum.default,
        _ATEN.sum.dim_IntList,
        _ATEN.cat.default,
        _ATEN.zeros.default,
        _ATEN.new_zeros.default,
        _ATEN.full.default,
        _ATEN.constant_pad_nd.default,
        _ATEN.pad.default,
        _ATEN.empty.memory_format,
        _ATEN.fill.Scalar,
        _ATEN.copy.default,
        _ATEN.slice_scatter.default,
        _ATEN._to_copy.default,
        _ATEN.to.dtype,
        _ATEN.diff.default,
        _ATEN.sub.Tensor,
        _ATEN.stack.default,
        _ATEN.item.default,
        _ATEN._local_scalar_dense.default,
        _ATEN.sym_size.int,
        _ATEN.sym_numel.default,
        operator.add,
        operator.mul,
        operator.sub,
        operator.floordiv,
    }
)


@dataclass(frozen=True, slots=True)
class Lengths:
    """Bags are the block-th of `blocks` equal parts of `bounds`, how many ids each has, in one tensor of ids."""

    ids: Node
    bounds: Node
    weights: Node | None
    block: int
    blocks: int


def find_lengths(graph: ProgramGraph, probes: Sequence[Probe], site: ProgramSite, offsets: Node) -> Lengths | None:
    """Say whether a look-up's bags lie so; its ids, offsets and weights are counted from lengths, and no other work."""
    ids, weights = origin(site.ids), None if site.weights is None else origin(site.weights)
    within = read_by(graph, [site.ids, offsets, *([site.weights] if site.weights is not None else [])])
    given = [node for node in within if node in graph.inputs]
    integers = [node for node in given if not node.meta["val"].dtype.is_floating_point and node is not ids]
    sources = {ids, *integers, *([weights] if weights is not None else [])}
    if ids not in given or len(integers) != 1 or len(shape_of(ids)) != 1 or set(given) != sources:
        return None
    if any(node.op == "call_function" and node.target not in _COUNTING for node in within):
        return None
    blocks = {
        _block_of(probe, site, offsets, Lengths(ids, integers[0], weights, 0, 1), few)
        for probe in probes
        for few in (0, 1)
    }
    if len(blocks) != 1 or (found := blocks.pop()) is None:
        return None
    return Lengths(ids, integers[0], weights, *found)


def _block_of(probe: Probe, site: ProgramSite, offsets: Node, nodes: Lengths, fewest: int) -> tuple[int, int] | None:
    """Which part of the lengths, of how many, the look-up's bags have at one size, with lengths drawn at random."""
    shape = [probe.size(size) for size in shape_of(nodes.bounds)]
    lengths = torch.randint(fewest, 4, shape, generator=torch.Generator().manual_seed(0)).to(
        nodes.bounds.meta["val"].dtype
    )
    total = int(lengths.sum())
    feeds = {nodes.bounds: lengths, nodes.ids: torch.arange(total, dtype=nodes.ids.meta["val"].dtype)}
    wanted = [site.ids, offsets]
    if nodes.weights is not None and site.weights is not None:
        feeds[nodes.weights] = torch.arange(total, dtype=nodes.weights.meta["val"].dtype)
        wanted.append(site.weights)
    taken, starts, *weights = probe.run(wanted, feeds)
    bags = len(starts) - site.with_last
    if bags < 1 or lengths.numel() % bags:
        return None
    flat = lengths.reshape(-1, bags).long()
    for block, each in enumerate(flat):
        begin = int(flat[:block].sum())
        ids = torch.arange(begin, begin + int(each.sum()))
        ends = torch.cat([torch.zeros(1, dtype=torch.int64), each.cumsum(0)])
        if (
            all(torch.equal(got.long(), ids) for got in (taken, *weights))
            and torch.equal(starts.long(), ends if site.with_last else ends[:-1])
            and (fewest or len(ids))
        ):
            return block, len(flat)
    return None


@dataclass(frozen=True, slots=True)
class RaggedNodes:
    """As `Ragged`, with the bounds' node."""

    bounds: Node
    kind: Literal["offsets", "ends", "lengths"]
    block: int = 0
    blocks: int = 1


@dataclass(frozen=True, slots=True)
class ProgramIds:
    """A look-up's ids: the tensor's node, and how bags lie in it, `count` of them for each of `rows`.

    Nodes that are no inputs are computed by the ids graph.
    """

    ids: Node
    layout: Columns | RaggedNodes
    weights: Node | None
    rows: Size
    count: int


def find_ids(graph: ProgramGraph, probes: Sequence[Probe], site: ProgramSite) -> ProgramIds:
    """Where a look-up's ids come from: straight from an input where they are some of its elements."""
    if site.offsets is None:
        return _a_row_each(probes, site) if site.mode == "none" else _a_bag_each(probes, site)
    if is_fixed(graph, site.offsets) and (found := _equal_bags(probes, site, site.offsets)) is not None:
        return found
    return _ragged(graph, probes, site, site.offsets)


def _a_row_each(probes: Sequence[Probe], site: ProgramSite) -> ProgramIds:
    """Of the ids' dimensions the last that varies, and those before it, are rows; the others are columns."""
    return _bags_of_shape(probes, site, shape_of(site.ids), 1)


def _a_bag_each(probes: Sequence[Probe], site: ProgramSite) -> ProgramIds:
    """The ids' last dimension is a bag; what is before it is taken as above."""
    *shape, bag = shape_of(site.ids)
    if isinstance(bag, int):
        return _bags_of_shape(probes, site, tuple(shape), bag)
    source = next(_sources(site.ids))
    if shape_of(source) != (*shape, bag) or not is_same(probes, source, site.ids):
        source = site.ids
    return ProgramIds(source, Columns(0, 0, None), None, shape[0], 1)


def _bags_of_shape(probes: Sequence[Probe], site: ProgramSite, shape: Sequence[Size], bag: int) -> ProgramIds:
    varying = [axis for axis, size in enumerate(shape) if not isinstance(size, int)]
    split = varying[-1] + 1 if varying else 0
    rows, count = _product(shape[:split]), int(_product(shape[split:]))
    for source in _sources(site.ids):
        # more than one that varies: they are read off the ids' tensor where the vectors get their shape back
        if len(varying) <= 1 or shape_of(source) == shape_of(site.ids):
            columns = columns_of(probes, source, site.ids, rows, count, bag)
            if columns is not None:
                return _by_first_size(ProgramIds(source, columns, None, rows, count))
    return ProgramIds(site.ids, Columns(0, bag, count * bag), None, rows, count)


def _equal_bags(probes: Sequence[Probe], site: ProgramSite, offsets: Node) -> ProgramIds | None:
    """Bags of one size: the offsets are its multiples, whatever the ids are. None where they are not."""
    rows = shape_of(site.result)[0]
    sizes = [_bag_size(probe, site, offsets, probe.size(rows)) for probe in probes]
    if None in sizes:
        return None
    if sizes[0] != sizes[1]:
        return _equal_bags_of_any_size(probes, site, rows)
    bag = sizes[0] or 0
    for source in _sources(site.ids):
        columns = columns_of(probes, source, site.ids, rows, 1, bag)
        if columns is None:
            continue
        if site.weights is None:
            return _by_first_size(ProgramIds(source, columns, None, rows, 1))
        weights = origin(site.weights)
        alike = shape_of(weights) == shape_of(source) and _is_float32(weights)
        if alike and columns_of(probes, weights, site.weights, rows, 1, bag) == columns:
            return _by_first_size(ProgramIds(source, columns, weights, rows, 1))
    return ProgramIds(site.ids, Columns(0, bag, bag), site.weights, rows, 1) if bag else None


def _equal_bags_of_any_size(probes: Sequence[Probe], site: ProgramSite, rows: Size) -> ProgramIds | None:
    """Each bag is a whole row of a matrix whose width varies."""
    source, weights = origin(site.ids), None if site.weights is None else origin(site.weights)
    shape = shape_of(source)
    if len(shape) != 2 or shape[0] != rows or not is_same(probes, source, site.ids):
        return None
    if weights is not None and site.weights is not None:
        alike = shape_of(weights) == shape and _is_float32(weights)
        if not alike or not is_same(probes, weights, site.weights):
            return None
    return ProgramIds(source, Columns(0, 0, None), weights, rows, 1)


def _bag_size(probe: Probe, site: ProgramSite, offsets: Node, rows: int) -> int | None:
    """Ids of each bag at one size; None where bags differ."""
    starts, ids = probe.run([offsets, site.ids], {})
    bag, rest = divmod(ids.numel(), max(rows, 1))
    expected = torch.arange(rows + site.with_last) * bag
    return bag if not rest and torch.equal(starts.long(), expected) else None


def _ragged(graph: ProgramGraph, probes: Sequence[Probe], site: ProgramSite, offsets: Node) -> ProgramIds:
    rows = shape_of(site.result)[0]
    if (lengths := find_lengths(graph, probes, site, offsets)) is not None:
        layout = RaggedNodes(lengths.bounds, "lengths", lengths.block, lengths.blocks)
        return ProgramIds(lengths.ids, layout, lengths.weights, rows, 1)

    def same(node: Node) -> Node:
        source = origin(node)
        return source if source in graph.inputs and is_same(probes, source, node) else node

    layout = RaggedNodes(same(offsets), "ends" if site.with_last else "offsets")
    weights = site.weights and same(site.weights)
    return ProgramIds(same(site.ids), layout, weights, rows, 1)


def _sources(ids: Node) -> Iterator[Node]:
    """Tensors that ids may be columns of: where their elements come from, and themselves."""
    source = origin(ids)
    if source.meta["val"].dtype in (torch.int64, torch.int32):
        yield source
    yield ids


def _by_first_size(found: ProgramIds) -> ProgramIds:
    """Where there are some rows for each of the tensor's first dimension, that is the rows, and they are counted."""
    columns, first = found.layout, shape_of(found.ids)[:1]
    if isinstance(found.rows, int) or not isinstance(columns, Columns) or not columns.width:
        return found
    many, rows = found.rows.as_coeff_Mul()
    if not many.is_Integer or many <= 1 or first != (rows,) or columns.bag * found.count != columns.width:
        return found
    return replace(
        found, rows=rows, count=found.count * int(many), layout=replace(columns, width=columns.width * int(many))
    )


def _is_float32(node: Node) -> bool:
    return bool(node.meta["val"].dtype == torch.float32)


def _product(sizes: Sequence[Size]) -> Size:
    return math.prod(sizes)
