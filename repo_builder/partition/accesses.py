"""What a query gathers of a model's tables, and what was merged of that.

Merging takes most of a plan's time; the traffic, the price of a call and S_max only change what comes after it. So a
sweep makes one `ModelAccesses` that keeps what it merged, and plans on it as often as it likes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from repo_builder.access.hotness import Hotness
from repo_builder.machine import check_memory
from repo_builder.model.row_rule import RowRule
from repo_builder.partition.cost import ServiceTime
from repo_builder.partition.merging import merged_order, ranks_in_tables
from repo_builder.partition.order import Order
from repo_builder.partition.steps import Steps
from repo_builder.partition.table_accesses import TableAccesses, check_cdf
from repo_builder.spec import Spec


@dataclass(frozen=True, slots=True)
class ModelAccesses:
    """The accesses of every table of a spec, in its order; `keep` trades memory (8 bytes per row) for time."""

    tables: tuple[TableAccesses, ...]
    keep: bool = False
    _kept: dict[tuple[tuple[float | None, ...], ...], Order] = field(default_factory=dict, compare=False, repr=False)
    _steps: dict[int, Steps] = field(default_factory=dict, compare=False, repr=False)  # by the CDF's id

    def stored_by(self, rule: RowRule) -> ModelAccesses:
        """The same accesses to rows stored by another rule; what either keeps serves both."""
        return replace(self, tables=tuple(replace(table, rule=rule) for table in self.tables))

    def order(self, tables: Sequence[TableAccesses], time: ServiceTime) -> Order:
        """`merged_order` of some of the tables; not to be written into."""
        of_one_size = len({table.sizes for table in tables}) == 1  # whatever it is, rows stand in the same order
        key = tuple(table.key[:2] if of_one_size else (*table.key, time.per_row_s, time.per_byte_s) for table in tables)
        order = self._kept.get(key)
        if order is None:
            order = merged_order(tables, time, self._steps_of)
            if self.keep:
                self._kept[key] = order
        if of_one_size:
            order = replace(order, row_bytes=tables[0].row_bytes, hot_row_bytes=tables[0].hot_row_bytes)
        return order

    def ranks(self, cuts: Sequence[int], time: ServiceTime) -> list[list[int]]:
        """`ranks_in_tables` of all tables."""
        return ranks_in_tables(self.tables, cuts, time, self._steps_of)

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
        ranks = self.ranks([self.rows_within(size_bytes, time)], time)[0]
        held = zip(self.tables, ranks, strict=True)
        return _with_bytes(self.tables, [table.gathers * float(table.cdf[rank]) for table, rank in held])

    def _steps_of(self, table: TableAccesses) -> Steps:
        """Its steps, made once for each CDF."""
        key = id(table.cdf)
        if key not in self._steps:
            self._steps[key] = table.steps()
        return self._steps[key]


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
