"""The rows of tables in the order in which they are cut: their bytes, and what a query gathers of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Order:
    """N rows in the order in which they are cut.

    gathers  (N + 1,) float64: what a query gathers of the first j rows; from 0, non-decreasing, and, with rows of one
             size, concave up to rounding
    row_bytes  the bytes of every row; or, where rows differ, (N + 1,) int64, the bytes of the first j rows
    hot_row_bytes  the same in the first service, where a format of its own is asked for there
    gathered_bytes  where rows differ, (N + 1,) float64: the bytes that a query gathers of the first j rows
    hot_gathered_bytes  the same in the first service, where it has a format of its own
    """

    gathers: Floats
    row_bytes: int | Ints
    hot_row_bytes: int | Ints | None = None
    gathered_bytes: Floats | None = None
    hot_gathered_bytes: Floats | None = None

    @property
    def rows(self) -> int:
        """N."""
        return len(self.gathers) - 1

    @property
    def alike(self) -> bool:
        """Whether all rows are of one size, in the first service as in the others."""
        return not isinstance(self.row_bytes, np.ndarray) and not isinstance(self.hot_row_bytes, np.ndarray)

    def bytes_between(self, begin: Ints, end: Ints) -> Ints:
        """Bytes of the rows (begin, end] in one service, which is the first where begin is 0; shapes go by broadcast.

        Negative where an end comes before its begin.
        """
        held = _before(self.row_bytes, end) - _before(self.row_bytes, begin)
        return held if self.hot_row_bytes is None else np.where(begin == 0, _before(self.hot_row_bytes, end), held)

    def first_rows(self, rows: int) -> Order:
        """The first so many of the rows; no copies."""
        within = slice(rows + 1)
        held = self.row_bytes if isinstance(self.row_bytes, int) else self.row_bytes[within]
        hot = self.hot_row_bytes[within] if isinstance(self.hot_row_bytes, np.ndarray) else self.hot_row_bytes
        gathered, hot_gathered = (
            None if each is None else each[within] for each in (self.gathered_bytes, self.hot_gathered_bytes)
        )
        return Order(self.gathers[within], held, hot, gathered, hot_gathered)

    def stored(self, hot: bool) -> int | Ints:
        """`row_bytes`, or `hot`, those in the first service."""
        return self.hot_row_bytes if hot and self.hot_row_bytes is not None else self.row_bytes

    def gathered_bytes_before(self, position: Ints | slice, hot: bool = False) -> Floats:
        """Bytes that a query gathers of the rows before each position, `hot` in the first service."""
        row_bytes, sums = self.stored(hot), self.gathered_bytes
        if hot and self.hot_row_bytes is not None:
            sums = self.hot_gathered_bytes
        return self.gathers[position] * row_bytes if isinstance(row_bytes, int) else _given(sums)[position]

    def rows_within(self, size_bytes: int, hot: bool = True) -> int:
        """How many of the first rows fit into so many bytes, stored as in services that are not the first, or `hot`, as
        in the first.
        """
        held = self.stored(hot)
        if isinstance(held, int):
            return min(self.rows, size_bytes // held)
        return int(np.searchsorted(held, size_bytes, side="right")) - 1


def _given(sums: Floats | None) -> Floats:
    assert sums is not None, "rows that differ in size come with the bytes that are gathered of them"  # noqa: S101 - the caller's own mistake, no user's
    return sums


def _before(row_bytes: int | Ints, position: Ints) -> Ints:
    """Bytes of the rows before each position, 0 to N; same shape as `position`."""
    return position * row_bytes if isinstance(row_bytes, int) else row_bytes[position]
