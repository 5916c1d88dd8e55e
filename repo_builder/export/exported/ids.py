"""Where a look-up's ids come from: columns of a tensor, or ragged bags in one; an input, or computed from inputs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch.fx import Node

from repo_builder.export.exported.columns import columns_of, is_same
from repo_builder.export.exported.graph import ProgramGraph, Size, shape_of
from repo_builder.export.exported.lengths import find_lengths
from repo_builder.export.exported.probe import Probe, is_fixed, origin, read_by
from repo_builder.export.exported.sites import Site
from repo_builder.model.types import Columns


@dataclass(frozen=True, slots=True)
class RaggedNodes:
    """As `Ragged`, with the bounds' node."""

    bounds: Node
    kind: Literal["offsets", "ends", "lengths"]
    block: int = 0
    blocks: int = 1


@dataclass(frozen=True, slots=True)
class Found:
    """A look-up's ids: the tensor's node, and how bags lie in it, `count` of them for each of `rows`.

    Nodes that are no inputs are computed by the ids graph.
    """

    ids: Node
    layout: Columns | RaggedNodes
    weights: Node | None
    rows: Size
    count: int


def find_ids(graph: ProgramGraph, probes: Sequence[Probe], site: Site) -> Found:
    """Where a look-up's ids come from: straight from an input where they are some of its elements."""
    if site.offsets is None:
        return _a_row_each(probes, site) if site.mode == "none" else _a_bag_each(probes, site)
    if is_fixed(graph, site.offsets) and (found := _equal_bags(probes, site, site.offsets)) is not None:
        return found
    return _ragged(graph, probes, site, site.offsets)


def _a_row_each(probes: Sequence[Probe], site: Site) -> Found:
    """Of the ids' dimensions the last that varies, and those before it, are rows; the others are columns."""
    return _bags_of_shape(probes, site, shape_of(site.ids), 1)


def _a_bag_each(probes: Sequence[Probe], site: Site) -> Found:
    """The ids' last dimension is a bag; what is before it is taken as above."""
    *shape, bag = shape_of(site.ids)
    if isinstance(bag, int):
        return _bags_of_shape(probes, site, tuple(shape), bag)
    source = next(_sources(site.ids))
    if shape_of(source) != (*shape, bag) or not is_same(probes, source, site.ids):
        source = site.ids
    return Found(source, Columns(0, 0, None), None, shape[0], 1)


def _bags_of_shape(probes: Sequence[Probe], site: Site, shape: Sequence[Size], bag: int) -> Found:
    varying = [axis for axis, size in enumerate(shape) if not isinstance(size, int)]
    split = varying[-1] + 1 if varying else 0
    rows, count = _product(shape[:split]), int(_product(shape[split:]))
    for source in _sources(site.ids):
        # more than one that varies: they are read off the ids' tensor where the vectors get their shape back
        if len(varying) <= 1 or shape_of(source) == shape_of(site.ids):
            columns = columns_of(probes, source, site.ids, rows, count, bag)
            if columns is not None:
                return _by_first_size(Found(source, columns, None, rows, count))
    return Found(site.ids, Columns(0, bag, count * bag), None, rows, count)


def _equal_bags(probes: Sequence[Probe], site: Site, offsets: Node) -> Found | None:
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
            return _by_first_size(Found(source, columns, None, rows, 1))
        weights = origin(site.weights)
        alike = shape_of(weights) == shape_of(source) and _is_float32(weights)
        if alike and columns_of(probes, weights, site.weights, rows, 1, bag) == columns:
            return _by_first_size(Found(source, columns, weights, rows, 1))
    return Found(site.ids, Columns(0, bag, bag), site.weights, rows, 1) if bag else None


def _equal_bags_of_any_size(probes: Sequence[Probe], site: Site, rows: Size) -> Found | None:
    """Each bag is a whole row of a matrix whose width varies."""
    source, weights = origin(site.ids), None if site.weights is None else origin(site.weights)
    shape = shape_of(source)
    if len(shape) != 2 or shape[0] != rows or not is_same(probes, source, site.ids):
        return None
    if weights is not None and site.weights is not None:
        alike = shape_of(weights) == shape and _is_float32(weights)
        if not alike or not is_same(probes, weights, site.weights):
            return None
    return Found(source, Columns(0, 0, None), weights, rows, 1)


def _bag_size(probe: Probe, site: Site, offsets: Node, rows: int) -> int | None:
    """Ids of each bag at one size; None where bags differ."""
    starts, ids = probe.run([offsets, site.ids], {})
    bag, rest = divmod(ids.numel(), max(rows, 1))
    expected = torch.arange(rows + site.with_last) * bag
    return bag if not rest and torch.equal(starts.long(), expected) else None


def _ragged(graph: ProgramGraph, probes: Sequence[Probe], site: Site, offsets: Node) -> Found:
    rows = shape_of(site.result)[0]
    if (lengths := find_lengths(graph, probes, site, offsets)) is not None:
        layout = RaggedNodes(lengths.bounds, "lengths", lengths.block, lengths.blocks)
        return Found(lengths.ids, layout, lengths.weights, rows, 1)

    def same(node: Node) -> Node:
        source = origin(node)
        alone = {each for each in read_by(graph, [node]) if each in graph.inputs} == {source}
        return source if alone and is_same(probes, source, node) else node

    layout = RaggedNodes(same(offsets), "ends" if site.with_last else "offsets")
    weights = site.weights and same(site.weights)
    return Found(same(site.ids), layout, weights, rows, 1)


def _sources(ids: Node) -> Iterator[Node]:
    """Tensors that ids may be columns of: where their elements come from, and themselves."""
    source = origin(ids)
    if source.meta["val"].dtype in (torch.int64, torch.int32):
        yield source
    yield ids


def _by_first_size(found: Found) -> Found:
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
