"""What a query gathers of one table, and how its rows are stored."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from repo_builder.errors import PlanError
from repo_builder.model.row_rule import AS_THEY_COME, RowRule
from repo_builder.model.types import RowFormat
from repo_builder.partition.steps import Steps

Floats = NDArray[np.float64]
Key = tuple[int, float, int, int | None]

CONCAVITY_TOLERANCE = 1e-9
"""A CDF may lie this far under its least concave majorant: room for rounding, not for another order of the rows."""


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

    def steps(self) -> Steps:
        """What each row adds to the CDF, hottest first.

        Raises PlanError for a CDF that is not concave, so not that of a hotness order.
        """
        steps = Steps(self.cdf)
        if steps.gap > CONCAVITY_TOLERANCE:
            raise PlanError(
                f"table {self.table}: cdf: expected the hottest rows first, got colder rows before hotter ones "
                f"(the CDF is {steps.gap:.3g} under its concave majorant)"
            )
        return steps


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
