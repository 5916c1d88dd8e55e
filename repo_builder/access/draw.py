"""Random ids and queries that follow the tables' accesses, for sample queries and load tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repo_builder.access.hotness import AccessedTable, Hotness
from repo_builder.memory import check_memory
from repo_builder.model.dlrm import DlrmTable, IndexDtype

_TABLE_ROW_BYTES = 24
"""Of the largest table: its CDF, its order, and an array to sort it with."""


def check_tables(tables: Sequence[AccessedTable]) -> None:
    """Raise InputError where the accesses of the largest table do not fit into this machine's memory."""
    largest = max(tables, key=lambda table: table.rows)
    what = f"tables: {largest.name}: the accesses of {largest.rows:,} rows"
    check_memory(_TABLE_ROW_BYTES * largest.rows, what, "fewer rows, or a larger machine")


class IdSampler:
    """Draws ids of one table; holds its CDF and its hotness order (12 bytes a row), so that drawing again is cheap."""

    def __init__(self, hotness: Hotness, table: AccessedTable) -> None:
        self._cdf = hotness.cdf(table)
        self._order = hotness.order(table)

    def draw(self, shape: int | tuple[int, ...], rng: np.random.Generator) -> NDArray[np.int64]:
        """Independent ids, each row as likely as its share of the accesses: `shape` int64.

        Place j of the order is drawn where CDF(j) <= u < CDF(j + 1) for a uniform u. The uniform numbers are looked
        up in ascending order, which walks through the CDF instead of jumping about in it, and shuffled afterwards.
        """
        uniform = rng.random(int(np.prod(shape)))
        uniform.sort()
        places = np.searchsorted(self._cdf, uniform, side="right") - 1
        rng.shuffle(places)
        ids: NDArray[np.int64] = self._order[places].astype(np.int64)
        return ids.reshape(shape)


def draw_ids(
    hotness: Hotness, table: AccessedTable, shape: int | tuple[int, ...], rng: np.random.Generator
) -> NDArray[np.int64]:
    """Ids of a table that follow its accesses, `shape` int64; to draw more than once, keep an IdSampler."""
    return IdSampler(hotness, table).draw(shape, rng)


def draw_queries(
    hotness: Hotness, tables: Sequence[DlrmTable], dense_features: int, index_dtype: IndexDtype, rows: int, seed: int
) -> tuple[NDArray[np.float32], NDArray[Any]]:
    """Rows to score, reproducibly: `dense` (rows, dense_features) float32, and `indices` (rows, sum of pooling) as on
    the wire, all slots full.
    """
    check_tables(tables)
    columns_bytes = 2 * 8 * sum(table.pooling for table in tables)  # as drawn, and side by side
    check_memory(rows * (4 * dense_features + columns_bytes), f"queries: {rows:,} rows of them", "ask for fewer")
    rng = np.random.default_rng(seed)
    dense = rng.standard_normal((rows, dense_features), np.float32)
    columns = [draw_ids(hotness, table, (rows, table.pooling), rng) for table in tables]
    return dense, np.hstack(columns).astype(index_dtype)
