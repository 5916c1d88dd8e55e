"""Random queries: ids as likely as the accesses of a model's tables."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from repo_builder.access.filling import Integers, Queried, fill_queries
from repo_builder.access.hotness import AccessedTable, Hotness
from repo_builder.access.query_file import QueryFile
from repo_builder.machine import check_memory
from repo_builder.model.arrays import Arrays
from repo_builder.model.types import Lookup

_TABLE_ROW_BYTES = 24
"""Of the largest table: its CDF, its order, and an array to sort it with."""


def draw_queries(
    model: Queried, hotness: Hotness, queries: int, batch: int, seed: int, samples: Arrays | None = None
) -> QueryFile:
    """So many queries of `batch` rows, reproducibly. Bags of columns are full, ragged ones of their mean size on
    average.

    samples: a query of any number of rows, some of which are chosen for what is not drawn. Raises InputError where
    memory does not hold the queries, or where samples are needed and there are none.
    """
    check_tables(model.tables)
    rng = np.random.default_rng(seed)
    return fill_queries(model, _Drawn(model, hotness, rng), queries, batch, rng, samples)


def check_queries(model: Queried, batch: int, samples: Arrays | None = None) -> None:
    """Raise the InputError that drawing queries of `batch` rows ends in, whatever their ids: for want of samples."""
    fill_queries(model, _Zeros(), 1, batch, np.random.default_rng(0), samples)


class _Zeros:
    """Bags of one id, 0."""

    def columns(self, lookup: Lookup, shape: tuple[int, int]) -> Integers:
        return np.zeros(shape, np.int64)

    def lengths(self, lookup: Lookup, shape: tuple[int, int]) -> Integers:
        return np.ones(shape, np.int64)

    def ragged(self, lookup: Lookup, ids: int) -> Integers:
        return np.zeros(ids, np.int64)


class _Drawn:
    """Ids as likely as the accesses, the look-up's padding left out; lengths Poisson around the look-up's mean.

    The last table's sampler is kept for a look-up that follows.
    """

    def __init__(self, model: Queried, hotness: Hotness, rng: np.random.Generator) -> None:
        self._tables, self._hotness, self._rng = model.tables, hotness, rng
        self._last: tuple[object, IdSampler] | None = None

    def columns(self, lookup: Lookup, shape: tuple[int, int]) -> Integers:
        return self._sampler(lookup).draw(shape, self._rng)

    def lengths(self, lookup: Lookup, shape: tuple[int, int]) -> Integers:
        return self._rng.poisson(lookup.mean_ids, shape)

    def ragged(self, lookup: Lookup, ids: int) -> Integers:
        return self._sampler(lookup).draw(ids, self._rng)

    def _sampler(self, lookup: Lookup) -> IdSampler:
        of = (lookup.table, lookup.ids.padding)
        if self._last is None or self._last[0] != of:
            self._last = None  # its memory first
            self._last = of, IdSampler(self._hotness, self._tables[lookup.table], lookup.ids.padding)
        return self._last[1]


def check_tables(tables: Sequence[AccessedTable]) -> None:
    """Raise InputError where the accesses of the largest table do not fit into this machine's memory."""
    largest = max(tables, key=lambda table: table.rows)
    what = f"tables: {largest.name}: the accesses of {largest.rows:,} rows"
    check_memory(_TABLE_ROW_BYTES * largest.rows, what, "fewer rows, or a larger machine")


class IdSampler:
    """Draws ids of one table; holds its CDF and its hotness order (12 bytes per row), so that drawing again is cheap.

    without: an id that is not drawn, unless the table has no other.
    """

    def __init__(self, hotness: Hotness, table: AccessedTable, without: int | None = None) -> None:
        self._cdf = hotness.cdf(table)
        self._order = hotness.order(table)
        self._begin = self._share = 0.0
        if without is not None and 0 <= without < table.rows:
            rank = int(np.flatnonzero(self._order == without)[0])
            self._begin = float(self._cdf[rank])
            self._share = float(self._cdf[rank + 1]) - self._begin

    def draw(self, shape: int | tuple[int, ...], rng: np.random.Generator) -> NDArray[np.int64]:
        """Independent ids, each row as likely as its share of the accesses: `shape` int64.

        Rank j of the order is drawn where CDF(j) <= u < CDF(j + 1) for a uniform u. The uniform numbers are looked
        up in ascending order, which walks through the CDF instead of jumping about in it, and shuffled afterwards. The
        part of the interval that the id left out would have is passed over.
        """
        uniform = rng.random(int(np.prod(shape)))
        if self._share:
            uniform *= 1 - self._share
            uniform[uniform >= self._begin] += self._share
        uniform.sort()
        ranks = ranks_at(self._cdf, uniform)
        rng.shuffle(ranks)
        ids: NDArray[np.int64] = self._order[ranks].astype(np.int64)
        return ids.reshape(shape)


def ranks_at(cdf: NDArray[np.float64], uniform: NDArray[np.float64]) -> NDArray[np.int64]:
    """The ranks j of a hotness order where CDF(j) <= u < CDF(j + 1), for each u in [0, 1); same shape as `uniform`."""
    ranks: NDArray[np.int64] = np.minimum(np.searchsorted(cdf, uniform, side="right") - 1, len(cdf) - 2)
    return ranks


def draw_ids(
    hotness: Hotness, table: AccessedTable, shape: int | tuple[int, ...], rng: np.random.Generator
) -> NDArray[np.int64]:
    """Ids of a table that follow its accesses, `shape` int64; to draw more than once, keep an IdSampler."""
    return IdSampler(hotness, table).draw(shape, rng)
