"""Hotness from how often each row was accessed: exact shares, and the order they give."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from repo_builder.access.hotness import AccessedTable

Counts = NDArray[Any]
"""Accesses of each row by id: (rows,), any integer or float dtype, finite, >= 0, not all 0."""


def counts_cdf(counts: Counts) -> NDArray[np.float64]:
    """The share of all accesses that the j most accessed rows take, j = 0 ... rows: (rows + 1,) float64, ending in 1.0.

    Integers are summed exactly (their total must be below 2**64) and divided once; floats are summed from the largest
    down, in units of the largest so that no sum overflows.
    """
    descending = np.sort(counts, kind="stable")[::-1]  # ten times as fast as quicksort where most counts are 0
    cdf = np.zeros(len(counts) + 1)
    if counts.dtype.kind == "f":
        np.cumsum(np.divide(descending, descending[0], dtype=np.float64), out=cdf[1:])
        cdf /= cdf[-1]
    else:
        sums = np.cumsum(descending, dtype=np.uint64)
        np.true_divide(sums, sums[-1], out=cdf[1:])
    return cdf


def counts_order(counts: Counts) -> NDArray[np.uint32]:
    """The row id at each place: most accesses first, ties by smaller id; (rows,) uint32."""
    if counts.dtype.kind == "f":
        coldness = -counts
    else:
        most = counts.max()
        coldness = (most - counts).astype(np.min_scalar_type(int(most)))  # up to 16 bits numpy sorts by radix
    return np.argsort(coldness, kind="stable").astype(np.uint32)


@dataclass(frozen=True, slots=True)
class CountedHotness:
    """Hotness of tables whose accesses were counted; `read` brings one table's counts.

    Nothing of the size of a table is held here beyond what `read` holds: a CDF (8 bytes a row) is shared as long as
    somebody keeps it and made anew after that; an order (4 bytes a row) is made anew at each call.
    """

    read: Callable[[AccessedTable], Counts]
    _cdfs: WeakValueDictionary[str, NDArray[np.float64]] = field(
        default_factory=WeakValueDictionary, init=False, repr=False, compare=False
    )

    def cdf(self, table: AccessedTable) -> NDArray[np.float64]:
        """See Hotness.cdf; read-only."""
        cdf = self._cdfs.get(table.name)
        if cdf is None:
            cdf = counts_cdf(self.read(table))
            cdf.setflags(write=False)
            self._cdfs[table.name] = cdf
        return cdf

    def order(self, table: AccessedTable) -> NDArray[np.uint32]:
        """See Hotness.order."""
        return counts_order(self.read(table))
