"""The concave majorant of a CDF, compiled: one pass over tens of millions of rows."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray


@njit(cache=True)
def pool_rising(cdf: NDArray[np.float64], steps: NDArray[np.float64], starts: NDArray[np.int64]) -> float:
    """Turn the steps of a CDF, in place, into those of its least concave majorant; returns how far it is above.

    cdf (rows + 1,) float64; steps (rows,) float64 = diff(cdf) before, never increasing after; starts (rows + 1,) int64,
    scratch. Neighbouring pools of rows whose mean slopes rise are joined (isotonic regression). O(rows).
    """
    rows = len(steps)
    pools = 0  # pool p: rows starts[p] ... starts[p + 1] - 1, with slope steps[p]
    for row in range(rows):
        start, slope = row, steps[row]
        while pools > 0 and steps[pools - 1] < slope:
            pools -= 1
            start = starts[pools]
            slope = (cdf[row + 1] - cdf[start]) / (row + 1 - start)
        starts[pools], steps[pools] = start, slope
        pools += 1
    starts[pools] = rows
    gap = 0.0
    for pool in range(pools - 1, -1, -1):  # backwards: pool <= starts[pool], so no slope is overwritten before its turn
        start, slope = starts[pool], steps[pool]
        for row in range(starts[pool + 1] - 1, start - 1, -1):
            gap = max(gap, cdf[start] + (row - start) * slope - cdf[row])
            steps[row] = slope
    return gap
