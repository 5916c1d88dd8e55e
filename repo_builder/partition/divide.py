"""The exact optimum with real replica counts, by divide and conquer.

Problem as in `dp.py`, with cost(k, j) = max(1, load(G[j] - G[k])) * ((j - k) * row_bytes + min_memory).
State: best[u][k], the least cost of the rows k + 1 ... N in u services.
Recurrence: best[u][k] = min over j > k of cost(k, j) + best[u - 1][j], best[0][N] = 0; answer: the least best[u][0].
The replicas are a convex, non-decreasing function of an interval's gathers, and the bytes grow with its rows; a product
of two such terms obeys the quadrangle inequality cost(k, j) + cost(k', j') <= cost(k, j') + cost(k', j) for
k < k' <= j < j' (its mixed difference in k and j is nowhere positive). So the first best j of a state never moves left
as k moves right: solve the middle k, and each half has its own range of j.
Complexity: O(S * W * log W) for windows of W places; `bounds.py` gives windows that hold every optimal cut.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from repo_builder.partition.bounds import Bounds
from repo_builder.partition.cost import CostModel

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

DEPTH = 64
"""Room for the halvings of 2^63 places: a split pops one range and pushes two."""


def best_real(prefix: Floats, model: CostModel, s_max: int, bounds: Bounds | None) -> list[int]:
    """The inner cuts, ascending, of the least cost with real replicas; `prefix` is (N + 1,) float64, from 0, N >= 1.

    Of equal costs the fewest services win, then in each service from the hottest on the hottest end.
    """
    rows = len(prefix) - 1
    time = model.service_time
    per_gather = model.target_qps * time.per_gather_s
    rates = model.target_qps * time.fixed_s, per_gather, float(model.row_bytes), float(model.min_memory_bytes)
    begin, best = rows, np.zeros(1)  # the layer's first place, and the cost of each place from there on
    layers: list[tuple[int, Ints]] = []
    least, answer = np.inf, [rows]
    for after in range(s_max):
        whole, ends = _layer(prefix, 0, 1, begin, best, *rates)  # a service that takes all the rest
        if whole[0] < least:
            least, answer = float(whole[0]), _trace(layers, int(ends[0]))
        low, high = bounds.inner_windows[after + 1] if bounds and after + 1 < s_max else (1, rows - 1)
        if low > high or after + 1 == s_max:
            break
        best, choice = _layer(prefix, int(low), int(high - low + 1), begin, best, *rates)
        begin = int(low)
        layers.append((begin, choice))
    return answer[:-1]


@njit(cache=True)
def _layer(
    prefix: Floats,
    first: int,
    count: int,
    begin: int,
    best: Floats,
    fixed_load: float,
    load_per_gather: float,
    row_bytes: float,
    min_memory_bytes: float,
) -> tuple[Floats, Ints]:
    """For each place first ... first + count - 1 the least cost of the rows after it, and the end of its first service.

    `best` holds the least costs of the rows after the places begin, begin + 1, ... with a service less. A place
    before no finite end costs infinity.
    """
    values, choice = np.full(count, np.inf), np.full(count, begin)
    stack = np.empty((DEPTH * 2, 4), np.int64)  # places from, to; their ends from, to
    stack[0] = first, first + count - 1, begin, begin + len(best) - 1
    top = 1
    while top > 0:
        top -= 1
        left, right, low, high = stack[top]
        middle = (left + right) // 2
        least, end = np.inf, high
        for j in range(max(low, middle + 1), high + 1):
            load = max(1.0, fixed_load + load_per_gather * (prefix[j] - prefix[middle]))
            cost = load * ((j - middle) * row_bytes + min_memory_bytes) + best[j - begin]
            if cost < least:
                least, end = cost, j
        values[middle - first], choice[middle - first] = least, end
        if left < middle:
            stack[top] = left, middle - 1, low, end
            top += 1
        if middle < right:
            stack[top] = middle + 1, right, end if least < np.inf else low, high
            top += 1
    return values, choice


def _trace(layers: list[tuple[int, Ints]], place: int) -> list[int]:
    """The ends of the services from `place` on, and `place` itself."""
    ends = [place]
    for low, choice in reversed(layers):
        ends.append(int(choice[ends[-1] - low]))
    return ends
