"""Ragged bags of several features in one tensor, told apart by lengths: TorchRec's KeyedJaggedTensor."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.fx import Node

from repo_builder.export.exported.graph import ProgramGraph, shape_of
from repo_builder.export.exported.probe import MOVES, SPLITS, Probe, origin, read_by
from repo_builder.export.exported.sites import Site

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


def find_lengths(graph: ProgramGraph, probes: Sequence[Probe], site: Site, offsets: Node) -> Lengths | None:
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
        _block(probe, site, offsets, Lengths(ids, integers[0], weights, 0, 1), few)
        for probe in probes
        for few in (0, 1)
    }
    if len(blocks) != 1 or (found := blocks.pop()) is None:
        return None
    return Lengths(ids, integers[0], weights, *found)


def _block(probe: Probe, site: Site, offsets: Node, nodes: Lengths, fewest: int) -> tuple[int, int] | None:
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
