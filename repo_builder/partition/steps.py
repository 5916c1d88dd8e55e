"""What each row adds to a CDF, hottest first, put right where rounding has rows rise: looked up, never held as a whole.

A CDF over a hotness order is concave but for rounding, and its steps never rise but for that. Where they do they are
those of its least concave majorant, in which runs of rows, *pools*, take the mean of theirs. That fit takes seconds of
tens of millions of rows, and is the same for whatever is planned: so it is made once, and a bit a row is kept of it,
which says where pools begin. Steps are made of that and the CDF when asked for, a block at a time.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

BLOCK_ROWS = 1 << 13
"""As many as the processor's first caches hold; a multiple of 8, the bits of a byte."""

_ROUNDING = 1e-12


class Steps:
    """The steps of the least concave majorant of `cdf` (rows + 1,): (rows,) float64, never increasing.

    They are `np.diff` where that never rises. `gap` is how far the majorant lies above the CDF at most, `firsts`
    (blocks,) the first step of each block. The CDF must not change meanwhile.
    """

    def __init__(self, cdf: Floats) -> None:
        self._cdf = cdf
        begins = np.arange(0, len(cdf) - 1, BLOCK_ROWS)
        self.gap = 0.0
        self._pools = _Pools.of(cdf, begins) if _rises(cdf) else None
        if self._pools is None:
            self.firsts = cdf[begins + 1] - cdf[begins]
        else:
            found = np.array([self._pools.first_and_gap(cdf, i) for i in range(len(begins))])
            self.firsts, self.gap = found[:, 0].copy(), max(0.0, float(found[:, 1].max()))

    def block(self, index: int) -> Floats:
        """The steps of up to BLOCK_ROWS rows from the row index * BLOCK_ROWS on; an array of the caller's own."""
        if self._pools is not None:
            return self._pools.steps(self._cdf, index)
        begin = index * BLOCK_ROWS
        return np.diff(self._cdf[begin : begin + BLOCK_ROWS + 1])

    def blocks(self) -> Iterator[Floats]:
        """All of them."""
        return map(self.block, range(-(-(len(self._cdf) - 1) // BLOCK_ROWS)))


class _Pools:
    """Runs of rows in one order: `begins` has a bit for each row, set where a run begins.

    before, after  (blocks,): the last begin up to a block's first row, and the first one, or the end, after the block
    """

    def __init__(self, pools: Ints, blocks: Ints) -> None:
        """`pools` (runs + 1,): the first row of each, then the end; `blocks` the first rows of blocks."""
        self.rows = int(pools[-1])
        flags = np.zeros(self.rows, np.bool_)
        flags[pools[:-1]] = True
        self.begins = np.packbits(flags)
        self.before = pools[np.searchsorted(pools, blocks, side="right") - 1]
        self.after = pools[np.searchsorted(pools, np.append(blocks[1:], self.rows), side="left")]

    @staticmethod
    def of(cdf: Floats, blocks: Ints) -> _Pools:
        """Those of the least concave majorant."""
        return _Pools(majorant_pools(cdf), blocks)

    def steps(self, cdf: Floats, index: int) -> Floats:
        """The steps of one block's rows."""
        pools, lengths = self._within(index)
        steps: Floats = np.repeat(np.diff(cdf[pools]) / np.diff(pools), lengths)
        return steps

    def first_and_gap(self, cdf: Floats, index: int) -> tuple[float, float]:
        """The first step of a block, and how far the majorant lies above the CDF at most at its rows."""
        pools, lengths = self._within(index)
        steps = np.diff(cdf[pools]) / np.diff(pools)
        begins = np.repeat(pools[:-1], lengths)
        rows = np.arange(index * BLOCK_ROWS, index * BLOCK_ROWS + len(begins))
        majorant = cdf[begins] + (rows - begins) * np.repeat(steps, lengths)
        return float(steps[0]), float(np.max(majorant - cdf[rows]))

    def _within(self, index: int) -> tuple[Ints, Ints]:
        """The pools that have rows of a block, with the end of the last, and how many rows of the block each has."""
        begin = index * BLOCK_ROWS
        flags = np.unpackbits(self.begins[begin // 8 : (begin + BLOCK_ROWS) // 8])
        end = min(begin + BLOCK_ROWS, self.rows)
        inner = np.flatnonzero(flags[1 : end - begin]) + (begin + 1)
        pools = np.concatenate([self.before[index : index + 1], inner, self.after[index : index + 1]])
        return pools, np.diff(np.clip(pools, begin, end))


def _rises(cdf: Floats) -> bool:
    """Whether a step is above the one before it."""
    return any(bool((steps[1:] > steps[:-1]).any()) for _, steps in _overlapping(cdf))


def majorant_pools(cdf: Floats) -> Ints:
    """The rows of each step of the least concave majorant: the first row of each, then the end.

    The hottest rows stand alone where each adds more than all colder ones: they need no fit.
    """
    from scipy.optimize import isotonic_regression  # slow to import, and rarely wanted

    alone = _hottest_alone(cdf)
    blocks = np.asarray(isotonic_regression(np.diff(cdf[alone:]), increasing=False).blocks, np.int64)
    return np.concatenate([np.arange(alone), blocks + alone])


def _hottest_alone(cdf: Floats) -> int:
    """How many of the hottest rows fall from one to the next, and are above all that come after them, all rounding
    aside.
    """
    falling = len(cdf) - 2
    most = 0.0  # of the steps that come after the falling ones
    for begin, steps in _overlapping(cdf):
        if falling < begin:
            most = max(most, float(steps.max()))
            continue
        level = np.flatnonzero(steps[1:] >= steps[:-1])
        if len(level):
            falling = begin + int(level[0])
            most = float(steps[level[0] :].max())
    return int(np.searchsorted(-np.diff(cdf[: falling + 1]), -most * (1 + _ROUNDING), side="left"))


def _overlapping(cdf: Floats) -> Iterator[tuple[int, Floats]]:
    """The steps as they are, by blocks that share a row with the next, and the first row of each."""
    for begin in range(0, len(cdf) - 1, BLOCK_ROWS):
        yield begin, np.diff(cdf[begin : begin + BLOCK_ROWS + 2])
