"""What a query gathers of a spec's tables, for one plan or for many.

Merging the tables takes most of a plan's time; the traffic, the profile and S_max only change what comes after it. So a
sweep makes one Workload that keeps what it merged, and plans on it as often as it likes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from repo_builder.access.hotness import Hotness
from repo_builder.memory import check_memory
from repo_builder.partition.merge import Accesses, Order, check_cdf, merged_order
from repo_builder.spec import Spec


@dataclass(frozen=True, slots=True)
class Workload:
    """The accesses of every table of a spec, in its order; `keep` trades memory (8 bytes a row) for time."""

    tables: tuple[Accesses, ...]
    keep: bool = False
    _kept: dict[tuple[tuple[int, float, int], ...], Order] = field(default_factory=dict, init=False, compare=False)

    def order(self, tables: Sequence[Accesses]) -> Order:
        """`merged_order` of some of the tables; not to be written into."""
        key = tuple(table.key for table in tables)
        order = self._kept.get(key)
        if order is None:
            order = merged_order(tables)
            if self.keep:
                self._kept[key] = order
        return order

    def rows_within(self, size_bytes: int) -> int:
        """How many of the hottest rows of all tables fit into so many bytes, 0 or more."""
        sizes = {table.row_bytes for table in self.tables}
        if len(sizes) == 1:  # no order needed
            return min(sum(table.rows for table in self.tables), size_bytes // sizes.pop())
        return int(np.searchsorted(self.order(self.tables).row_bytes, size_bytes, side="right")) - 1


def read_workload(spec: Spec, hotness: Hotness, keep: bool = False) -> Workload:
    """The workload of a spec at its batch; raises PlanError for a CDF that is none.

    A CDF that serves several tables is checked once.
    """
    _check_memory(spec)
    checked: dict[int, int] = {}
    tables = []
    for table, ids in zip(spec.model.tables, spec.model.ids_per_row, strict=True):
        accesses = Accesses(table.name, hotness.cdf(table), ids * spec.serving.batch, table.format.row_bytes)
        if checked.get(id(accesses.cdf)) != table.rows:
            check_cdf(accesses, table.rows)
            checked[id(accesses.cdf)] = table.rows
        tables.append(accesses)
    return Workload(tuple(tables), keep)


def _check_memory(spec: Spec) -> None:
    """A plan holds a CDF for each number of rows, the merged order, and two arrays of the largest table."""
    rows = [table.rows for table in spec.model.tables]
    needed_bytes = 8 * (sum(set(rows)) + sum(rows) + 2 * max(rows))
    what = f"tables: a plan for {sum(rows):,} rows of {len(rows):,} tables"
    check_memory(needed_bytes, what, "fewer rows, or a larger machine")
