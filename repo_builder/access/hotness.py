"""What the partitioner and the exporter need to know of a table's accesses, and how counted accesses say it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from repo_builder.output import Tell

Counts = NDArray[Any]
"""Accesses of each row by id: (rows,), any integer or float dtype, finite, >= 0, not all 0."""

_NAMED = 12  # names that a note spells out


class AccessedTable(Protocol):
    """What accesses are told of: so many rows under a name."""

    @property
    def name(self) -> str:
        """As in the files of accesses."""

    @property
    def rows(self) -> int:
        """Ids go from 0 to rows - 1."""


class Hotness(Protocol):
    """Where the accesses of a model's tables fall. Hotness order: most accesses first, ties by smaller id."""

    def cdf(self, table: AccessedTable) -> NDArray[np.float64]:
        """The share of the table's accesses that its j hottest rows take, for j = 0 ... rows.

        (rows + 1,) float64, non-decreasing and concave up to rounding, from 0.0 to exactly 1.0.
        """

    def order(self, table: AccessedTable) -> NDArray[np.uint32]:
        """The row id at each rank of the hotness order: a permutation, (rows,) uint32."""


@dataclass(frozen=True, slots=True)
class CountedHotness:
    """Hotness of tables whose accesses were counted; `read` brings one table's counts.

    Nothing of the size of a table is held here beyond what `read` holds: a CDF (8 bytes per row) is shared as long as
    somebody keeps it and made anew after that; an order (4 bytes per row) is made anew at each call.
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
    """The row id at each rank: most accesses first, ties by smaller id; (rows,) uint32."""
    if counts.dtype.kind == "f":
        coldness = -counts
    else:
        most = counts.max()
        coldness = (most - counts).astype(np.min_scalar_type(int(most)))  # up to 16 bits numpy sorts by radix
    return np.argsort(coldness, kind="stable").astype(np.uint32)


class AccessCounter:
    """How often each of `rows` rows was accessed; ids come in pieces, -1 is padding and counts for nothing.

    The counts are held in `dtype` (uint32: 4 bytes per row) until so many ids have come that one row's might overflow;
    then they are widened to uint64.
    """

    def __init__(self, rows: int, dtype: type[np.unsignedinteger[Any]] = np.uint32) -> None:
        self.counts: NDArray[np.unsignedinteger[Any]] = np.zeros(rows, dtype)
        self._seen = 0

    def add(self, ids: NDArray[np.integer[Any]]) -> int | None:
        """Count (n,) ids of any integer dtype; or count none and return the index of the first one out of range."""
        if not len(ids):
            return None
        if ids.min() < -1 or ids.max() >= len(self.counts):
            return int(((ids < -1) | (ids >= len(self.counts))).argmax())
        if ids.min() < 0:
            ids = ids[ids >= 0]
        self._seen += len(ids)
        if self._seen > np.iinfo(self.counts.dtype).max:
            self.counts = self.counts.astype(np.uint64, copy=False)
        np.add.at(self.counts, ids.astype(np.intp, copy=False), self.counts.dtype.type(1))
        return None


def counted_hotness(where: str, counts: Mapping[str, Counts], tell: Tell) -> CountedHotness:
    """The hotness of tables by name; one without any access counts as read evenly, which is told once.

    where: what the note calls what was counted.
    """
    unseen = [name for name, found in counts.items() if not found.any()]
    for name in unseen:
        counts[name].fill(1)
    if unseen:
        tell(f"{where}: no access to {some_names(unseen)}: all of their rows count as equally hot")
    return CountedHotness(lambda table: counts[table.name])


def some_names(names: Sequence[str]) -> str:
    """The first of many names, and how many more there are."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(ascii(name)[1:-1][:60] for name in names[:_NAMED]) + more
