"""One hotness order out of many tables', and its places taken back to each table.

The merged order takes the rows of all tables by gathers a query, most first; all rows have the same bytes, so this is
also the order by gathers a query and byte. Ties go to the earlier table, then to the earlier place in its order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from repo_builder.errors import PlanError

Floats = NDArray[np.float64]

CONCAVITY_TOLERANCE = 1e-9
"""A CDF may lie this far under its least concave majorant: room for rounding, not for another order of the rows."""

CHUNK_ROWS = 1 << 16


@dataclass(frozen=True, slots=True)
class Accesses:
    """A table's accesses: `cdf` (rows + 1,) float64 over its hotness order, and the rows a query gathers in all."""

    table: str
    cdf: Floats
    gathers: int

    @property
    def rows(self) -> int:
        """Rows of the table."""
        return len(self.cdf) - 1

    @property
    def key(self) -> tuple[int, int]:
        """Equal for tables alike: of one CDF and as many gathers. Good for as long as the table lives."""
        return id(self.cdf), self.gathers

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
        steps *= float(self.gathers)
        return steps


def check_cdf(accesses: Accesses, rows: int) -> None:
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
        raise PlanError(f"{where}: expected non-decreasing values, got a fall after place {falls.argmax()}")


def merged_prefix(tables: Sequence[Accesses]) -> Floats:
    """The gathers of a query among the j first rows of the merged order: (all rows + 1,) float64, from 0.

    O(n) for n rows of one table or of tables alike, O(n * log(tables)) otherwise; 8 bytes a row, half as much again
    while sorting.
    """
    alike = _alike(tables)
    prefix = np.empty(1 + sum(table.rows for table in tables))
    prefix[0] = 0.0
    begin = 1
    for table, count in alike:
        end = begin + count * table.rows
        prefix[begin:end].reshape(table.rows, count)[:] = -table.row_gathers()[:, None]
        begin = end
    if len(alike) > 1:
        prefix[1:].sort(kind="stable")  # merges the runs
    _accumulate(prefix)
    return prefix


def places_in_tables(tables: Sequence[Accesses], cuts: Sequence[int]) -> list[list[int]]:
    """For each cut of the merged order how many rows of each table come before it: over the cuts, then the tables."""
    alike = _alike(tables)
    kinds = {table.key: kind for kind, (table, _) in enumerate(alike)}
    ascending = [(-table.row_gathers(), count) for table, count in alike]
    kind_of = [kinds[table.key] for table in tables]
    return [_split(ascending, kind_of, cut) for cut in cuts]


def _alike(tables: Sequence[Accesses]) -> list[tuple[Accesses, int]]:
    """The tables that differ in cdf or gathers, and how many there are of each."""
    counts: dict[tuple[int, int], int] = {}
    first: dict[tuple[int, int], Accesses] = {}
    for table in tables:
        counts[table.key] = counts.get(table.key, 0) + 1
        first.setdefault(table.key, table)
    return [(first[key], count) for key, count in counts.items()]


def _split(ascending: Sequence[tuple[Floats, int]], kind_of: Sequence[int], cut: int) -> list[int]:
    """The first `cut` rows of the merged order, by table.

    `ascending` holds the negated row gathers of each kind of table, and how many tables are of it; only the ties, which
    go to the earlier table, are worked out table by table.
    """
    if cut == 0:
        return [0] * len(kind_of)
    low, high = 0, int(np.array(np.inf).view(np.int64))  # floats >= 0 are ordered as their bits are
    while low < high:  # the largest value that at least `cut` rows reach: the gathers of the last row before the cut
        middle = (low + high + 1) // 2
        value = -np.array(middle, np.int64).view(np.float64)
        if sum(count * int(np.searchsorted(steps, value, side="right")) for steps, count in ascending) >= cut:
            low = middle
        else:
            high = middle - 1
    value = -np.array(low, np.int64).view(np.float64)
    begins = [int(np.searchsorted(steps, value, side="left")) for steps, _ in ascending]
    ties = [int(np.searchsorted(steps, value, side="right")) - begins[i] for i, (steps, _) in enumerate(ascending)]
    missing = cut - sum(begins[kind] for kind in kind_of)
    places = []
    for kind in kind_of:
        tied = min(missing, ties[kind])
        places.append(begins[kind] + tied)
        missing -= tied
    return places


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
    from repo_builder.partition.pooling import pool_rising  # numba takes half a second to import

    gap = float(pool_rising(cdf, steps, np.empty(len(cdf), np.int64)))
    return steps, gap
