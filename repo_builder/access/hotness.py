"""The one thing the partitioner and the exporter need to know of a table's accesses."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray


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
        """The row id at each place of the hotness order: a permutation, (rows,) uint32."""
