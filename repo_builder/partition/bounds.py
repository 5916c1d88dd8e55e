"""Bounds on the dynamic program from a coarse grid: which cuts can be in an optimal partition at all.

The positions 0 ... N of the hotness order are grouped into blocks of neighbours; 0 is one of its own, so that the first
service, whose rows may have another format, is known by its begin. A segment that starts in block I and ends in block J
holds at least the rows between the last position of I and the first of J, so the cost of those rows is a lower bound on
its cost, and a dynamic program over blocks bounds every partition from below. A partition along the blocks' first
positions bounds the optimum from above. A block whose lower bound is above that upper bound holds no optimal cut.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from repo_builder.partition.priced import PricedOrder

Floats = NDArray[np.float64]
Positions = NDArray[np.int64]

CostsOf = Callable[[Positions, Positions], Floats]

BAND_ROWS = 32

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
    return path_costs(priced.costs, begins, ends)


def path_costs(costs_of: CostsOf, begins: Positions, ends: Positions) -> Floats:
    """What `costs_of` says of each begin (down) and end (across), which go by broadcast; infinite below the diagonal.

    Made in bands of some rows, from the diagonal on: what a band takes stays in the caches, and is not made anew.
    """
    costs = np.full((len(begins), len(ends)), np.inf)
    for band in _bands(len(begins)):
        costs[band, band.start :] = costs_of(begins[band, None], ends[None, band.start :])
        square = costs[band, band]
        square[np.tril_indices(len(square), -1)] = np.inf
    return costs


def at_most(costs: Floats, s_max: int) -> Floats:
    """(s_max + 1, blocks): the cheapest path from block 0 to each block by at most s steps."""
    return np.minimum.accumulate(useful_steps(costs, s_max), axis=0)


def exactly(costs: Floats, s_max: int) -> Floats:
    """(s_max + 1, blocks): the cheapest path from block 0 to each block by exactly s steps."""
    best, costs = _start(costs, s_max)
    for s in range(1, s_max + 1):
        best[s] = _step(best[s - 1], costs)
    return best


def useful_steps(costs: Floats, s_max: int) -> Floats:
    """`exactly`, up to the first number of steps by which no block is reached cheaper than by fewer; infinite then.

    More steps than that bring no block nearer either.
    """
    best, costs = _start(costs, s_max)
    least = best[0]
    for s in range(1, s_max + 1):
        reached = _step(best[s - 1], costs)
        if (reached >= least).all():
            break
        best[s] = reached
        least = np.minimum(least, reached)
    return best


def cheapest_path(costs: Floats, s_max: int) -> Positions:
    """The blocks on the cheapest path from the first to the last by at most s_max steps; the fewest of equal ones."""
    best = useful_steps(costs, s_max)
    services = int(best[:, -1].argmin())
    path = [len(costs) - 1]
    for s in range(services, 0, -1):
        path.append(int((best[s - 1] + costs[:, path[-1]]).argmin()))
    return np.array(path[::-1])


def _start(costs: Floats, s_max: int) -> tuple[Floats, Floats]:
    """What no step reaches, with room for more, and the costs row by row."""
    best = np.full((s_max + 1, len(costs)), np.inf)
    best[0, 0] = 0.0
    return best, np.ascontiguousarray(costs)


def _step(best: Floats, costs: Floats) -> Floats:
    """The cheapest way to each block by one step more; nothing leads back, so that `costs` below the diagonal is not
    read.
    """
    reached = np.full_like(best, np.inf)
    for band in _bands(len(best)):
        ahead = reached[band.start :]
        np.minimum(ahead, (best[band, None] + costs[band, band.start :]).min(axis=0), out=ahead)
    return reached


def _bands(rows: int) -> Iterator[slice]:
    return (slice(begin, min(begin + BAND_ROWS, rows)) for begin in range(0, rows, BAND_ROWS))
