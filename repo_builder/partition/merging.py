"""The rows of several tables in one order, hottest first, whose cuts are taken back to each table.

The rows of all tables stand by the time per byte that a query's gathers of them take from memory, most first: rows of
one size, by gathers. A table's own rows keep their hotness order. Where the first service stores rows in another format
than the rest, the bytes are the rest's: most rows lie there.
Ties go to the size of row that comes first among the tables, then to the earlier table, then to the hotter row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from math import gcd
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from repo_builder.partition.cost import ServiceTime
from repo_builder.partition.order import Order
from repo_builder.partition.steps import BLOCK_ROWS, Steps
from repo_builder.partition.table_accesses import Key, TableAccesses

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

StepsOf = Callable[[TableAccesses], Steps]

CHUNK_ROWS = 1 << 16


def merged_order(tables: Sequence[TableAccesses], time: ServiceTime, steps_of: StepsOf = TableAccesses.steps) -> Order:
    """The rows of all tables in one order.

    O(n) for n rows of one table or of tables alike, O(n * log(tables)) otherwise; 8 bytes per row, half as much again
    while sorting. Where rows differ in size 24 bytes per row, and 40 while sorting; 16 more for two formats.
    """
    kinds = _kinds(tables, _Scale.of(tables, time), steps_of)
    prefix = np.empty(1 + sum(table.rows for table in tables))
    prefix[0] = 0.0
    begin = 1
    for kind in kinds:
        for block in kind.blocks():
            end = begin + kind.count * len(block)
            prefix[begin:end].reshape(len(block), kind.count)[:] = block[:, None]
            begin = end
    if len({table.sizes for table in tables}) > 1:
        return _mixed(prefix, kinds)
    if len(kinds) > 1:
        prefix[1:].sort(kind="stable")  # merges the runs
    _accumulate(prefix)
    return Order(prefix, tables[0].row_bytes, tables[0].hot_row_bytes)


def _mixed(prefix: Floats, kinds: Sequence[_Kind]) -> Order:
    """The order of rows that differ in size: `prefix[1:]` is (rows,), not sorted yet."""
    counts = [kind.count * kind.table.rows for kind in kinds]
    order = np.argsort(prefix[1:], kind="stable")
    sizes = np.repeat([kind.table.row_bytes for kind in kinds], counts)[order]
    prefix[1:] = prefix[1:][order] * np.repeat([kind.scale for kind in kinds], counts)[order]
    hot_bytes, hot_gathered = None, None
    if kinds[0].table.hot_row_bytes is not None:  # one rule for all
        hot_sizes = np.repeat([kind.table.hot_row_bytes or 0 for kind in kinds], counts)[order]
        hot_bytes, hot_gathered = _sums(hot_sizes), _gathered(prefix, hot_sizes)
    del order
    gathered = _gathered(prefix, sizes)
    _accumulate(prefix)
    return Order(prefix, _sums(sizes), hot_bytes, gathered, hot_gathered)


def _gathered(negated: Floats, sizes: Ints) -> Floats:
    """(rows + 1,) bytes gathered of the first rows, of their negated gathers (rows + 1,) and bytes (rows,)."""
    gathered = negated.copy()
    gathered[1:] *= sizes
    _accumulate(gathered)
    return gathered


def _sums(sizes: Ints) -> Ints:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])


def ranks_in_tables(
    tables: Sequence[TableAccesses], cuts: Sequence[int], time: ServiceTime, steps_of: StepsOf = TableAccesses.steps
) -> list[list[int]]:
    """For each cut of the merged order how many rows of each table come before it: over the cuts, then the tables."""
    kinds = _kinds(tables, _Scale.of(tables, time), steps_of)
    index = {kind.table.key: i for i, kind in enumerate(kinds)}
    kind_of = [index[table.key] for table in tables]
    sizes = {size: i for i, size in enumerate(dict.fromkeys(table.sizes for table in tables))}
    first = sorted(range(len(tables)), key=lambda i: sizes[tables[i].sizes])
    return [_split(kinds, kind_of, first, cut) for cut in cuts]


@dataclass(frozen=True, slots=True)
class _Scale:
    """By which gathers of rows that differ in size are compared: the bytes of a row over the time that it takes.

    unit  the largest number of bytes of which every row is a multiple: with rows of one size no gathers are rounded
    """

    unit: int
    time: ServiceTime

    @staticmethod
    def of(tables: Sequence[TableAccesses], time: ServiceTime) -> _Scale:
        return _Scale(gcd(*(table.row_bytes for table in tables)), time)

    def of_row(self, row_bytes: int) -> float:
        """What the gathers of such a row are divided by; 1 of a row of `unit` bytes."""
        unit_s, row_s = (self.time.rows_s(1, size) for size in (self.unit, row_bytes))
        return row_bytes // self.unit * (unit_s / row_s if row_s else 1.0)


@dataclass(slots=True)
class _Kind:
    """The rows of `count` tables alike, by their negated gathers on the scale by which rows stand, so ascending.

    firsts: of the first row of each block of `Steps`; the block that was looked at last is held
    """

    table: TableAccesses
    count: int
    scale: float
    steps: Steps
    firsts: Floats = field(init=False)
    _held: tuple[int, Floats] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.firsts = self._ascending(self.steps.firsts.copy())

    def blocks(self) -> Iterator[Floats]:
        """All of one table's rows."""
        return map(self._ascending, self.steps.blocks())

    def rank(self, value: float, side: Literal["left", "right"]) -> int:
        """`np.searchsorted` of a value among one table's rows."""
        index = int(np.searchsorted(self.firsts, value, side=side)) - 1
        if index < 0:
            return 0
        if self._held is None or self._held[0] != index:
            self._held = index, self._ascending(self.steps.block(index))
        return index * BLOCK_ROWS + int(np.searchsorted(self._held[1], value, side=side))

    def _ascending(self, steps: Floats) -> Floats:
        """In place."""
        steps *= self.table.gathers
        steps /= -self.scale
        return steps


def _kinds(tables: Sequence[TableAccesses], scale: _Scale, steps_of: StepsOf) -> list[_Kind]:
    """The tables that differ in CDF, gathers or size of row; by size, as they come."""
    counts: dict[Key, int] = {}
    first: dict[Key, TableAccesses] = {}
    for table in tables:
        counts[table.key] = counts.get(table.key, 0) + 1
        first.setdefault(table.key, table)
    sizes = list(dict.fromkeys(table.sizes for table in tables))
    return [
        _Kind(first[key], count, scale.of_row(first[key].row_bytes), steps_of(first[key]))
        for key, count in sorted(counts.items(), key=lambda item: sizes.index(first[item[0]].sizes))
    ]


def _split(kinds: Sequence[_Kind], kind_of: Sequence[int], first: Sequence[int], cut: int) -> list[int]:
    """The first `cut` rows of the merged order, by table; `kind_of` has the kind of each.

    Only the ties, which go to the tables in the order `first`, are worked out table by table.
    """
    if cut == 0:
        return [0] * len(kind_of)
    low, high = 0, int(np.array(np.inf).view(np.int64))  # floats >= 0 are ordered as their bits are
    while low < high:  # the largest value that at least `cut` rows reach: that of the last row before the cut
        middle = (low + high + 1) // 2
        value = -float(np.array(middle, np.int64).view(np.float64))
        if sum(kind.count * kind.rank(value, "right") for kind in kinds) >= cut:
            low = middle
        else:
            high = middle - 1
    value = -float(np.array(low, np.int64).view(np.float64))
    begins = [kind.rank(value, "left") for kind in kinds]
    ties = [kind.rank(value, "right") - begin for kind, begin in zip(kinds, begins, strict=True)]
    ranks = [begins[kind] for kind in kind_of]
    missing = cut - sum(ranks)
    for i in first:
        tied = min(missing, ties[kind_of[i]])
        ranks[i] += tied
        missing -= tied
    return ranks


def _accumulate(prefix: Floats) -> None:
    """Turn negated gathers of each row, none above 0, into sums, in place, which so never fall.

    Summed by chunks, so that errors stay near one rounding.
    """
    base = 0.0
    for begin in range(1, len(prefix), CHUNK_ROWS):
        chunk = prefix[begin : begin + CHUNK_ROWS]
        total = base - float(np.sum(chunk))
        np.cumsum(chunk, out=chunk)
        np.subtract(base, chunk, out=chunk)
        base = max(total, float(chunk[-1]))
