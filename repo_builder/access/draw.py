"""Random ids that follow a table's accesses."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from repo_builder.access.hotness import AccessedTable, Hotness
from repo_builder.memory import check_memory

_TABLE_ROW_BYTES = 24
"""Of the largest table: its CDF, its order, and an array to sort it with."""


def check_tables(tables: Sequence[AccessedTable]) -> None:
    """Raise InputError where the accesses of the largest table do not fit into this machine's memory."""
    largest = max(tables, key=lambda table: table.rows)
    what = f"tables: {largest.name}: the accesses of {largest.rows:,} rows"
    check_memory(_TABLE_ROW_BYTES * largest.rows, what, "fewer rows, or a larger machine")


class IdSampler:
    """Draws ids of one table; holds its CDF and its hotness order (12 bytes a row), so that drawing again is cheap.

    without: an id that is not drawn, unless the table has no other.
    """

    def __init__(self, hotness: Hotness, table: AccessedTable, without: int | None = None) -> None:
        self._cdf = hotness.cdf(table)
        self._order = hotness.order(table)
        self._begin = self._share = 0.0
        if without is not None and 0 <= without < table.rows:
            place = int(np.flatnonzero(self._order == without)[0])
            self._begin = float(self._cdf[place])
            self._share = float(self._cdf[place + 1]) - self._begin

    def draw(self, shape: int | tuple[int, ...], rng: np.random.Generator) -> NDArray[np.int64]:
        """Independent ids, each row as likely as its share of the accesses: `shape` int64.

        Place j of the order is drawn where CDF(j) <= u < CDF(j + 1) for a uniform u. The uniform numbers are looked
        up in ascending order, which walks through the CDF instead of jumping about in it, and shuffled afterwards. The
        part of the interval that the id left out would have is passed over.
        """
        uniform = rng.random(int(np.prod(shape)))
        if self._share:
            uniform *= 1 - self._share
            uniform[uniform >= self._begin] += self._share
        uniform.sort()
        places = np.minimum(np.searchsorted(self._cdf, uniform, side="right") - 1, len(self._order) - 1)
        rng.shuffle(places)
        ids: NDArray[np.int64] = self._order[places].astype(np.int64)
        return ids.reshape(shape)


def draw_ids(
    hotness: Hotness, table: AccessedTable, shape: int | tuple[int, ...], rng: np.random.Generator
) -> NDArray[np.int64]:
    """Ids of a table that follow its accesses, `shape` int64; to draw more than once, keep an IdSampler."""
    return IdSampler(hotness, table).draw(shape, rng)
