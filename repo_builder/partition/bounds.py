"""Bounds on the dynamic program from a coarse grid: which cuts can be in an optimal partition at all.

The positions 0 ... N of the hotness order are grouped into blocks of neighbours; 0 is one of its own, so that the first
service, whose rows may have another format, is known by its begin. A segment that starts in block I and ends in block J
holds at least the rows between the last position of I and the first of J, so the cost of those rows is a lower bound on
its cost, and a dynamic program over blocks bounds every partition from below. A partition along the blocks' first
positions bounds the optimum from above. A block whose lower bound is above that upper bound holds no optimal cut.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from repo_builder.partition.priced import PricedOrder

Floats = NDArray[np.float64]
Positions = NDArray[np.int64]

MARGIN = 1e-12
"""Bounds are compared with this relative margin, far above the rounding of the sums and far below a row's bytes."""


@dataclass(frozen=True, slots=True)
class CoarseBounds:
    """Bounds for the blocks that start at `first`; the last one is the position N alone, the first the position 0.

    first   (blocks,) int64, the first position of each block, from 0 to N
    prefix  (s_max + 1, blocks) float64: no cover of the rows up to a position of block J by at most s services costs
            less
    windows (s_max, 2) int64: with u services after it, an optimal cut lies from windows[u, 0] to windows[u, 1]; the
            position 0 counts as a cut
    upper   the cost of some partition
    """

    first: Positions
    prefix: Floats
    windows: Positions
    upper: float

    def below(self, services: int, position: Positions) -> Floats:
        """Lower bounds on covering the rows up to each position by at most so many services, (positions,)."""
        block = np.searchsorted(self.first, position, side="right") - 1
        bounds: Floats = self.prefix[services, block]
        return bounds


def coarse_bounds(priced: PricedOrder, s_max: int, blocks: int) -> CoarseBounds:
    """Bounds from about so many blocks. O(N + s_max * blocks^2) time."""
    first = grid(priced.order.gathers, blocks)
    last = np.append(first[1:] - 1, first[-1])
    upper = float(at_most(segment_costs(priced, first, first), s_max)[s_max, -1])
    low = segment_costs(priced, last, first)
    forward = at_most(low, s_max)
    backward = exactly(low.T[::-1, ::-1], s_max)[:, ::-1]
    windows = np.zeros((s_max, 2), np.int64)
    windows[0] = first[-1], first[-1]
    for after in range(1, s_max):
        alive = np.flatnonzero(forward[s_max - after] + backward[after] <= upper * (1 + MARGIN))
        if len(alive):
            windows[after] = first[alive[0]], last[alive[-1]]
    return CoarseBounds(first, forward, windows, upper)


def grid(gathers: Floats, blocks: int) -> Positions:
    """The first position of each block: even steps by gathers and by rows; 0, 1 and N are in. `gathers` is (N + 1,)."""
    rows = len(gathers) - 1
    even = np.linspace(0, rows, max(2, blocks // 2)).astype(np.int64)
    hot = np.searchsorted(gathers, np.linspace(0, gathers[-1], max(2, blocks // 2)))
    first: Positions = np.unique(np.concatenate([even, hot, np.array([0, min(1, rows), rows])]))
    return first


def segment_costs(priced: PricedOrder, begins: Positions, ends: Positions) -> Floats:
    """Cost of the rows from each begin (down) to each end (across), infinite where a block comes before itself."""
    costs = priced.costs(begins[:, None], ends[None, :])
    costs[np.tril_indices(len(costs), -1)] = np.inf
    return costs


def at_most(costs: Floats, s_max: int) -> Floats:
    """(s_max + 1, blocks): the cheapest path from block 0 to each block by at most s steps."""
    best = np.full((s_max + 1, len(costs)), np.inf)
    best[:, 0] = 0.0
    totals = np.empty_like(costs)  # one for all steps: made anew, each would be faulted in and given back
    for s in range(1, s_max + 1):
        np.add(best[s - 1][:, None], costs, out=totals)
        best[s] = np.minimum(best[s - 1], totals.min(axis=0))
    return best


def exactly(costs: Floats, s_max: int) -> Floats:
    """(s_max + 1, blocks): the cheapest path from block 0 to each block by exactly s steps."""
    best = np.full((s_max + 1, len(costs)), np.inf)
    best[0, 0] = 0.0
    totals = np.empty_like(costs)
    for s in range(1, s_max + 1):
        np.add(best[s - 1][:, None], costs, out=totals)
        best[s] = totals.min(axis=0)
    return best


def cheapest_path(costs: Floats, s_max: int) -> Positions:
    """The blocks on the cheapest path from the first to the last by at most s_max steps; the fewest of equal ones."""
    best = np.full(len(costs), np.inf)
    best[0] = 0.0
    begins: list[NDArray[np.intp]] = []
    least, services = np.inf, 0
    totals = np.empty_like(costs)
    for s in range(1, s_max + 1):
        np.add(best[:, None], costs, out=totals)
        begins.append(totals.argmin(axis=0))
        best = totals.min(axis=0)
        if best[-1] < least:
            least, services = float(best[-1]), s
    path = [len(costs) - 1]
    for s in range(services, 0, -1):
        path.append(int(begins[s - 1][path[-1]]))
    return np.array(path[::-1])
