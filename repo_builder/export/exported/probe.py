"""What views do to their elements, found by sending numbered elements through them at two sizes.

Views, slices and their kin only move elements. So where the path from one tensor to another is made of these alone,
the positions at which its elements come out, at sizes of different factors, say what it does at any size.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sympy
import torch
from torch.fx import Node

from repo_builder.export.exported.graph import ProgramGraph, Size, ancestors, shape_of
from repo_builder.model.types import Columns

_ATEN = torch.ops.aten
MOVES = frozenset(
    {
        _ATEN.view.default,
        _ATEN.reshape.default,
        _ATEN._unsafe_view.default,
        _ATEN.flatten.using_ints,
        _ATEN.unflatten.int,
        _ATEN.ravel.default,
        _ATEN.unsqueeze.default,
        _ATEN.squeeze.default,
        _ATEN.squeeze.dim,
        _ATEN.squeeze.dims,
        _ATEN.slice.Tensor,
        _ATEN.select.int,
        _ATEN.narrow.default,
        _ATEN.transpose.int,
        _ATEN.permute.default,
        _ATEN.t.default,
        _ATEN.alias.default,
        _ATEN.clone.default,
        _ATEN.contiguous.default,
        _ATEN.detach.default,
        _ATEN.lift_fresh_copy.default,
    }
)
SPLITS = frozenset(
    {_ATEN.split.Tensor, _ATEN.split.sizes, _ATEN.split_with_sizes.default, _ATEN.unbind.int, _ATEN.chunk.default}
)
_CASTS = frozenset(
    {_ATEN._to_copy.default, _ATEN.to.dtype, _ATEN.to.device, _ATEN.to.dtype_layout, _ATEN.type_as.default}
)
_SAFE_CASTS = frozenset({(torch.int32, torch.int64)})


def origin(node: Node) -> Node:
    """The tensor whose elements a node has, moved about but not changed."""
    while True:
        before = node.args[0] if node.args else None
        if node.target is operator.getitem and isinstance(before, Node) and before.target in SPLITS:
            before = before.args[0]
        elif node.target not in MOVES and not (node.target in _CASTS and _keeps_values(node)):
            return node
        if not isinstance(before, Node):
            return node
        node = before


def _keeps_values(node: Node) -> bool:
    before = node.args[0]
    if not isinstance(before, Node):
        return False
    dtypes = (before.meta["val"].dtype, node.meta["val"].dtype)
    return dtypes[0] == dtypes[1] or dtypes in _SAFE_CASTS


@dataclass(frozen=True, slots=True)
class Probe:
    """The program's inputs at some size of each symbol, all zeros."""

    graph: ProgramGraph
    sizes: Mapping[sympy.Symbol, int]

    def size(self, size: Size) -> int:
        """A size in numbers."""
        return size if isinstance(size, int) else int(size.subs(dict(self.sizes)))

    def numbered(self, source: Node, wanted: Sequence[Node]) -> list[torch.Tensor]:
        """What nodes are where the elements of a source are 0, 1, 2, ... in row-major order."""
        shape = [self.size(size) for size in shape_of(source)]
        numbers = torch.arange(int(torch.Size(shape).numel())).reshape(shape).to(source.meta["val"].dtype)
        return self.run(wanted, {source: numbers})

    def run(self, wanted: Sequence[Node], feeds: Mapping[Node, torch.Tensor]) -> list[torch.Tensor]:
        """What nodes are for some tensors; inputs that are not given are zeros."""
        zeros = {
            node: torch.zeros([self.size(size) for size in shape_of(node)], dtype=node.meta["val"].dtype)
            for node in self.graph.inputs
        }
        values = self.graph.run(wanted, {**zeros, **feeds})
        return [values[node] for node in wanted]


def probes(graph: ProgramGraph, example: Mapping[Node, torch.Tensor] | None) -> tuple[Probe, Probe]:
    """Two probes of sizes that differ in every symbol that may: the example's twice and three times, else 6 and 9.

    What they may be at most makes them less, and one of them one less than the other.
    """
    known: dict[sympy.Symbol, int] = dict.fromkeys(_symbols(graph), 3)
    for node, value in (example or {}).items():
        for size, got in zip(shape_of(node), value.shape, strict=True):
            if isinstance(size, sympy.Symbol):
                known[size] = int(got)
    smaller: dict[sympy.Symbol, int] = {}
    larger: dict[sympy.Symbol, int] = {}
    for symbol, usual in known.items():
        bounds = graph.program.exported.range_constraints.get(symbol)
        most = int(bounds.upper) if bounds is not None and _is_finite(bounds.upper) else 3 * usual
        least = int(bounds.lower) if bounds is not None and _is_finite(bounds.lower) else 1
        larger[symbol] = min(3 * usual, most)
        smaller[symbol] = max(min(2 * usual, larger[symbol] - 1), least)
    return Probe(graph, smaller), Probe(graph, larger)


def _is_finite(value: Any) -> bool:
    return value is not None and getattr(value, "is_Integer", False)


def _symbols(graph: ProgramGraph) -> Iterator[sympy.Symbol]:
    for node in graph.inputs:
        for size in shape_of(node):
            if not isinstance(size, int):
                yield from sorted(size.free_symbols, key=str)


def read_by(graph: ProgramGraph, nodes: Iterable[Node], stop: Iterable[Node] = ()) -> set[Node]:
    """What nodes are computed from, but for what they need the sizes of only."""
    readers = [each for each in graph.nodes if each.target in _SIZE_READERS]
    return ancestors(nodes, stop=[*readers, *stop])


def is_fixed(graph: ProgramGraph, node: Node) -> bool:
    """Whether a node's values depend on the inputs' sizes at most, not on what is in them."""
    return not any(each in graph.inputs for each in read_by(graph, [node]))


_SIZE_READERS = frozenset({_ATEN.sym_size.int, _ATEN.sym_numel.default, _ATEN.sym_stride.int})


def columns_of(probes: Sequence[Probe], source: Node, taken: Node, rows: Size, bags: int, bag: int) -> Columns | None:
    """The columns of a source, as a matrix of so many rows, that a tensor is: of each row `bags` bags, in order.

    None where the tensor is not that, or another input says which they are.
    """
    if _reads_others(probes, source, taken):
        return None
    found = {_columns_at(probe, source, taken, probe.size(rows), bags * bag) for probe in probes}
    (begin, width), *others = found
    return None if others or not width else Columns(begin, bag, width)


def _reads_others(probes: Sequence[Probe], source: Node, taken: Node) -> bool:
    """Whether what is in another input bears on which elements of a source are taken: probes have zeros there."""
    graph = probes[0].graph
    return any(node in graph.inputs for node in read_by(graph, [taken], stop=[source]) - {source})


def _columns_at(probe: Probe, source: Node, taken: Node, rows: int, columns: int) -> tuple[int, int]:
    """First column and width of the source, at one size; a width of 0 where the tensor is none of its columns."""
    width, rest = divmod(math.prod(probe.size(size) for size in shape_of(source)), max(rows, 1))
    (numbers,) = probe.numbered(source, [taken])
    if rest or not columns or numbers.numel() != rows * columns:
        return 0, 0
    begin = int(numbers.reshape(-1)[0])
    expected = torch.arange(rows)[:, None] * width + begin + torch.arange(columns)
    inside = begin + columns <= width
    return (begin, width) if inside and torch.equal(numbers.reshape(rows, columns).long(), expected) else (0, 0)


def is_same(probes: Sequence[Probe], source: Node, taken: Node) -> bool:
    """Whether a tensor has all of a source's elements in their order, in whatever shape, whatever other inputs say."""
    if _reads_others(probes, source, taken):
        return False
    for probe in probes:
        (numbers,) = probe.numbered(source, [taken])
        total = math.prod(probe.size(size) for size in shape_of(source))
        if not torch.equal(numbers.reshape(-1).long(), torch.arange(total)):
            return False
    return True
