"""The partition of a hotness order into services with the least memory (ElasticRec, ISCA 2024, algorithm 2), exactly.

Problem. Given G[j], the rows gathered in a query from the j hottest rows, find cuts 0 = c_0 < c_1 < ... < c_s = N,
s <= s_max, with the least sum of `CostModel.cost` over the segments (c_{i-1}, c_i].
State: best[s][j], the least cost of the rows 1 ... j in s services.
Recurrence: best[s][j] = min over k < j of best[s - 1][k] + cost(k, j), best[0][0] = 0; answer: the least best[s][N].
Complexity: as written, O(s_max * N^2). The paper coarsens the rows into bins; here every row stays a possible cut:
  whole replicas   `chain.py`: only cuts that fill a service to the row are worth looking at
  real replicas    `divide.py`: the cost obeys the quadrangle inequality
both within windows from a coarse grid (`bounds.py`) that provably hold every optimal cut.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from repo_builder.errors import PlanError
from repo_builder.partition.bounds import coarse_bounds
from repo_builder.partition.chain import best_chain
from repo_builder.partition.cost import CostModel

S_MAX = 16
"""The most services that a table, or the merged tables, may be cut into."""

SMALL_ROWS = 512
GRID_BLOCKS = 1024
LARGEST_COST_BYTES = 2**62


@dataclass(frozen=True, slots=True)
class Partition:
    """The cheapest cuts of a hotness order.

    cost_bytes  over all replicas: an int with whole replicas
    cuts        0 = c_0 < c_1 < ... < c_s = N: service i holds the rows c_i + 1 ... c_{i+1}
    replicas    of each service, ints with whole replicas
    """

    cost_bytes: float
    cuts: tuple[int, ...]
    replicas: tuple[float, ...]


def partition(prefix: NDArray[np.float64], model: CostModel, s_max: int) -> Partition:
    """Cut a hotness order at the least cost.

    `prefix` is (N + 1,) float64, N >= 1: the gathers of a query among the j hottest rows, from 0, non-decreasing and
    concave up to rounding. Of equal costs the fewest services win, then the choice that `chain.py` and `divide.py`
    state.
    Raises PlanError for s_max outside 1 ... 16, or costs beyond 64 bits.
    """
    if not 1 <= s_max <= S_MAX:
        raise PlanError(f"s_max: expected 1 to {S_MAX} services, got {s_max}")
    rows = len(prefix) - 1
    whole = model.cost(rows, float(prefix[-1]))
    if whole >= LARGEST_COST_BYTES:
        raise PlanError(f"target_qps: expected a fleet under 2^62 bytes, got {whole:.3g} bytes; lower the traffic")
    if model.service_time.per_gather_s == 0 or s_max == 1:  # every service has the same replicas: cuts only cost
        return _partition(prefix, model, [])
    return _partition(prefix, model, _inner_cuts(prefix, model, s_max))


def _inner_cuts(prefix: NDArray[np.float64], model: CostModel, s_max: int) -> list[int]:
    bounds = coarse_bounds(prefix, model, s_max, GRID_BLOCKS) if len(prefix) > SMALL_ROWS else None
    if model.ceiling:
        return best_chain(prefix, model, s_max, bounds)[1]
    from repo_builder.partition.divide import best_real  # numba takes half a second to import

    return best_real(prefix, model, s_max, bounds)


def _partition(prefix: NDArray[np.float64], model: CostModel, inner: list[int]) -> Partition:
    cuts = (0, *inner, len(prefix) - 1)
    gathers = [float(prefix[end] - prefix[begin]) for begin, end in pairwise(cuts)]
    costs = [model.cost(end - begin, g) for (begin, end), g in zip(pairwise(cuts), gathers, strict=True)]
    return Partition(sum(costs), cuts, tuple(model.replicas(g) for g in gathers))
