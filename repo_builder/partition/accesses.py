"""What a query gathers of tables, and their rows in one order, hottest first, whose cuts are taken back to each table.

The rows of all tables stand by the time per byte that a query's gathers of them take from memory, most first: rows of
one size, by gathers. A table's own rows keep their hotness order. Where the first service stores rows in another format
than the rest, the bytes are the rest's: most rows lie there.
Ties go to the size of row that comes first among the tables, then to the earlier table, then to the hotter row.

Merging takes most of a plan's time; the traffic, the price of a call and S_max only change what comes after it. So a
sweep makes one `ModelAccesses` that keeps what it merged, and plans on it as often as it likes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import gcd

import numpy as np
from numpy.typing import NDArray

from repo_builder.access.hotness import Hotness
from repo_builder.errors import PlanError
from repo_builder.machine import check_memory
from repo_builder.model.row_rule import AS_THEY_COME, RowRule
from repo_builder.model.types import RowFormat
from repo_builder.partition.cost import ServiceTime
from repo_builder.partition.order import Order
from repo_builder.spec import Spec

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Key = tuple[int, float, int, int | None]

CONCAVITY_TOLERANCE = 1e-9
"""A CDF may lie this far under its least concave majorant: room for rounding, not for another order of the rows."""

CHUNK_ROWS = 1 << 16


@dataclass(frozen=True, slots=True)
class TableAccesses:
    """A table's accesses: `cdf` (rows + 1,) float64 over its hotness order, rows per query, and how rows are stored."""

    table: str
    cdf: Floats
    gathers: float
    format: RowFormat
    rule: RowRule = AS_THEY_COME

    @property
    def rows(self) -> int:
        """Rows of the table."""
        return len(self.cdf) - 1

    @property
    def row_bytes(self) -> int:
        """Bytes of a row in every service but the hottest."""
        return self.format.stored_as(self.rule.cold).row_bytes

    @property
    def hot_row_bytes(self) -> int | None:
        """Bytes of a row in the hottest service, where the rule asks for a format of its own there."""
        return None if self.rule.hot == self.rule.cold else self.format.stored_as(self.rule.hot).row_bytes

    @property
    def sizes(self) -> tuple[int, int | None]:
        """The bytes of its rows: those of tables alike in them can stand for each other."""
        return self.row_bytes, self.hot_row_bytes

    @property
    def key(self) -> Key:
        """Equal for tables alike: of one CDF, as many gathers, rows as large. Good while the table lives."""
        return id(self.cdf), self.gathers, *self.sizes

    def row_gathers(self) -> Floats:
        """What a query gathers of each row, hottest first: (rows,) float64, never increasing.

        Raises PlanError for a CDF that is not concave, so not that of a hotness order.
        """
        steps, gap = _concave_steps(self.cdf)
        if gap > CONCAVITY_TOLERANCE:
            raise PlanError(
                f"table {self.table}: cdf: expected the hottest rows first, got colder rows before hotter ones "
                f"(the CDF is {gap:.3g} under its concave majorant)"
            )
        steps *= self.gathers
        return steps


@dataclass(frozen=True, slots=True)
class ModelAccesses:
    """The accesses of every table of a spec, in its order; `keep` trades memory (8 bytes per row) for time."""

    tables: tuple[TableAccesses, ...]
    keep: bool = False
    _kept: dict[tuple[tuple[float | None, ...], ...], Order] = field(default_factory=dict, compare=False, repr=False)

    def stored_by(self, rule: RowRule) -> ModelAccesses:
        """The same accesses to rows stored by another rule; what either keeps serves both."""
        return replace(self, tables=tuple(replace(table, rule=rule) for table in self.tables))

    def order(self, tables: Sequence[TableAccesses], time: ServiceTime) -> Order:
        """`merged_order` of some of the tables; not to be written into."""
        of_one_size = len({table.sizes for table in tables}) == 1  # whatever it is, rows stand in the same order
        key = tuple(table.key[:2] if of_one_size else (*table.key, time.per_row_s, time.per_byte_s) for table in tables)
        order = self._kept.get(key)
        if order is None:
            order = merged_order(tables, time)
            if self.keep:
                self._kept[key] = order
        if of_one_size:
            order = replace(order, row_bytes=tables[0].row_bytes, hot_row_bytes=tables[0].hot_row_bytes)
        return order

    def rows_within(self, size_bytes: int, time: ServiceTime) -> int:
        """How many of the hottest rows of all tables fit, stored as in the hottest service, into so many bytes."""
        sizes = {table.hot_row_bytes or table.row_bytes for table in self.tables}
        if len(sizes) == 1:  # no order needed
            return min(sum(table.rows for table in self.tables), size_bytes // sizes.pop())
        return self.order(self.tables, time).rows_within(size_bytes)

    def gathered(self) -> tuple[float, float]:
        """All gathers of a query, and their bytes, stored as in the hottest service."""
        return _with_bytes(self.tables, [table.gathers for table in self.tables])

    def hottest(self, size_bytes: int, time: ServiceTime) -> tuple[float, float]:
        """The same of those that go to the hottest rows of so many bytes."""
        ranks = ranks_in_tables(self.tables, [self.rows_within(size_bytes, time)], time)[0]
        held = zip(self.tables, ranks, strict=True)
        return _with_bytes(self.tables, [table.gathers * float(table.cdf[rank]) for table, rank in held])


def _with_bytes(tables: Sequence[TableAccesses], gathers: Sequence[float]) -> tuple[float, float]:
    """The sum of the tables' gathers, and that of their bytes in the hottest service."""
    sizes = [table.hot_row_bytes or table.row_bytes for table in tables]
    return sum(gathers), sum(each * size for each, size in zip(gathers, sizes, strict=True))


def model_accesses(spec: Spec, hotness: Hotness, keep: bool = False) -> ModelAccesses:
    """The accesses of a spec at its batch; raises PlanError for a CDF that is none.

    A CDF that serves several tables is checked once.
    """
    _check_memory(spec)
    checked: dict[int, int] = {}
    tables = []
    for table, ids in zip(spec.model.tables, spec.model.ids_per_row, strict=True):
        accesses = TableAccesses(table.name, hotness.cdf(table), ids * spec.serving.batch, table.format, spec.rows)
        if checked.get(id(accesses.cdf)) != table.rows:
            check_cdf(accesses, table.rows)
            checked[id(accesses.cdf)] = table.rows
        tables.append(accesses)
    return ModelAccesses(tuple(tables), keep)


def _check_memory(spec: Spec) -> None:
    """A plan holds a CDF for each number of rows, the merged order, and two arrays of the largest table."""
    rows = [table.rows for table in spec.model.tables]
    needed_bytes = 8 * (sum(set(rows)) + sum(rows) + 2 * max(rows))
    what = f"tables: a plan for {sum(rows):,} rows of {len(rows):,} tables"
    check_memory(needed_bytes, what, "fewer rows, or a larger machine")


def check_cdf(accesses: TableAccesses, rows: int) -> None:
    """Raise PlanError unless the CDF has rows + 1 values from 0 to 1, finite and non-decreasing."""
    cdf, where = accesses.cdf, f"table {accesses.table}: cdf"
    if cdf.shape != (rows + 1,):
        raise PlanError(f"{where}: expected {rows + 1} values for {rows} rows, got shape {cdf.shape}")
    if not np.isfinite(cdf).all():
        raise PlanError(f"{where}: expected finite values, got {cdf[~np.isfinite(cdf)][0]} among them")
    if cdf[0] != 0.0 or cdf[-1] != 1.0:
        raise PlanError(f"{where}: expected 0 first and 1 last, got {cdf[0]} and {cdf[-1]}")
    falls = cdf[1:] < cdf[:-1]
    if falls.any():
        raise PlanError(f"{where}: expected non-decreasing values, got a fall after rank {falls.argmax()}")


def merged_order(tables: Sequence[TableAccesses], time: ServiceTime) -> Order:
    """The rows of all tables in one order.

    O(n) for n rows of one table or of tables alike, O(n * log(tables)) otherwise; 8 bytes per row, half as much again
    while sorting. Where rows differ in size 24 bytes per row, and 40 while sorting; 16 more for two formats.
    """
    alike = _alike(tables)
    scale = _Scale.of(tables, time)
    prefix = np.empty(1 + sum(table.rows for table in tables))
    prefix[0] = 0.0
    begin = 1
    for table, count in alike:
        end = begin + count * table.rows
        prefix[begin:end].reshape(table.rows, count)[:] = _ascending(table, scale)[:, None]
        begin = end
    if len({table.sizes for table in tables}) > 1:
        return _mixed(prefix, alike, scale)
    if len(alike) > 1:
        prefix[1:].sort(kind="stable")  # merges the runs
    _accumulate(prefix)
    return Order(prefix, tables[0].row_bytes, tables[0].hot_row_bytes)


def _mixed(prefix: Floats, alike: Sequence[tuple[TableAccesses, int]], scale: _Scale) -> Order:
    """The order of rows that differ in size: `prefix[1:]` is (rows,), not sorted yet."""
    counts = [count * table.rows for table, count in alike]
    order = np.argsort(prefix[1:], kind="stable")
    sizes = np.repeat([table.row_bytes for table, _ in alike], counts)[order]
    prefix[1:] = prefix[1:][order] * np.repeat([scale.of_row(table.row_bytes) for table, _ in alike], counts)[order]
    hot_bytes, hot_gathered = None, None
    if alike[0][0].hot_row_bytes is not None:  # one rule for all
        hot_sizes = np.repeat([table.hot_row_bytes or 0 for table, _ in alike], counts)[order]
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


def ranks_in_tables(tables: Sequence[TableAccesses], cuts: Sequence[int], time: ServiceTime) -> list[list[int]]:
    """For each cut of the merged order how many rows of each table come before it: over the cuts, then the tables."""
    scale, alike = _Scale.of(tables, time), _alike(tables)
    kinds = {table.key: kind for kind, (table, _) in enumerate(alike)}
    ascending = [(_ascending(table, scale), count) for table, count in alike]
    kind_of = [kinds[table.key] for table in tables]
    sizes = {size: i for i, size in enumerate(dict.fromkeys(table.sizes for table in tables))}
    first = sorted(range(len(tables)), key=lambda i: sizes[tables[i].sizes])
    return [_split(ascending, kind_of, first, cut) for cut in cuts]


def _ascending(table: TableAccesses, scale: _Scale) -> Floats:
    """The negated gathers of each row on the scale by which rows stand: (rows,) float64, ascending from the hottest."""
    steps = table.row_gathers()
    steps /= -scale.of_row(table.row_bytes)
    return steps


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


def _alike(tables: Sequence[TableAccesses]) -> list[tuple[TableAccesses, int]]:
    """The tables that differ in CDF, gathers or size of row, and how many there are of each; by size, as they come."""
    counts: dict[Key, int] = {}
    first: dict[Key, TableAccesses] = {}
    for table in tables:
        counts[table.key] = counts.get(table.key, 0) + 1
        first.setdefault(table.key, table)
    sizes = list(dict.fromkeys(table.sizes for table in tables))
    return sorted(((first[key], count) for key, count in counts.items()), key=lambda item: sizes.index(item[0].sizes))


def _split(
    ascending: Sequence[tuple[Floats, int]], kind_of: Sequence[int], first: Sequence[int], cut: int
) -> list[int]:
    """The first `cut` rows of the merged order, by table.

    `ascending` holds the negated gathers of each kind of table, and how many tables are of it; only the ties, which go
    to the tables in the order `first`, are worked out table by table.
    """
    if cut == 0:
        return [0] * len(kind_of)
    low, high = 0, int(np.array(np.inf).view(np.int64))  # floats >= 0 are ordered as their bits are
    while low < high:  # the largest value that at least `cut` rows reach: that of the last row before the cut
        middle = (low + high + 1) // 2
        value = -np.array(middle, np.int64).view(np.float64)
        if sum(count * int(np.searchsorted(steps, value, side="right")) for steps, count in ascending) >= cut:
            low = middle
        else:
            high = middle - 1
    value = -np.array(low, np.int64).view(np.float64)
    begins = [int(np.searchsorted(steps, value, side="left")) for steps, _ in ascending]
    ties = [int(np.searchsorted(steps, value, side="right")) - begins[i] for i, (steps, _) in enumerate(ascending)]
    ranks = [begins[kind] for kind in kind_of]
    missing = cut - sum(ranks)
    for i in first:
        tied = min(missing, ties[kind_of[i]])
        ranks[i] += tied
        missing -= tied
    return ranks


def _accumulate(prefix: Floats) -> None:
    """Turn negated gathers of each row into sums, in place; summed by chunks, so that errors stay near one rounding."""
    base = 0.0
    for begin in range(1, len(prefix), CHUNK_ROWS):
        chunk = prefix[begin : begin + CHUNK_ROWS]
        np.negative(chunk, out=chunk)
        total = base + float(np.sum(chunk))
        np.cumsum(chunk, out=chunk)
        chunk += base
        base = max(total, float(chunk[-1]))
    np.maximum.accumulate(prefix, out=prefix)


def _concave_steps(cdf: Floats) -> tuple[Floats, float]:
    """The steps of the least concave majorant, and how far it rises above the CDF, which is concave up to rounding.

    The steps are (rows,) float64, never increasing; `np.diff` where that never rises.
    """
    steps = np.diff(cdf)
    if not (steps[1:] > steps[:-1]).any():
        return steps, 0.0
    from scipy.optimize import isotonic_regression  # slow to import, and rarely wanted

    pools = np.asarray(isotonic_regression(steps, increasing=False).blocks, np.intp)  # first row of each, then the end
    sizes = np.diff(pools)
    steps = np.repeat(np.diff(cdf[pools]) / sizes, sizes)
    begins = np.repeat(pools[:-1], sizes)
    gap = float(np.max(cdf[begins] + (np.arange(len(steps)) - begins) * steps - cdf[:-1]))
    return steps, max(gap, 0.0)
