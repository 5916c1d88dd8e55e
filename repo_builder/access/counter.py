"""Counting the accesses of one table, piece by piece."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


class AccessCounter:
    """How often each of `rows` rows was accessed; ids come in pieces, -1 is padding and counts for nothing.

    The counts are held in `dtype` (uint32: 4 bytes a row) until so many ids have come that one row's might overflow;
    then they are widened to uint64.
    """

    def __init__(self, rows: int, dtype: type[np.unsignedinteger[Any]] = np.uint32) -> None:
        self.counts: NDArray[np.unsignedinteger[Any]] = np.zeros(rows, dtype)
        self._seen = 0

    def add(self, ids: NDArray[np.integer[Any]]) -> int | None:
        """Count (n,) ids of any integer dtype; or count none and return the place of the first one out of range."""
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
