"""Cuts that stay cheap where the profile is off: the least memory on average over its errors.

A cut that loads a service to the brim is the cheapest by the profile to the letter, and the worst where the service
turns out a little slower: it then takes a whole copy more. Cuts are made once, while replicas follow what is seen: so
the cuts are to be cheap over all that may be seen.

Problem. Let a service's load be off by a share e between -error and +error, all alike likely. Find the cuts with the
least mean of `CostModel.cost` over e: the price of rows (k, j] is mean_replicas(load) * (their bytes + min_memory),

    mean_replicas(load) = mean over e of max(1, ceil(load * (1 + e))).

A mean of sums is the sum of means, so it does not matter whether services are off by as much as each other or each by a
share of its own. The price is that of the recurrence with a smoother count: a load of 0.99 with an error of 20% takes
1.48 replicas, one below 1 / 1.2 takes 1.

Method. The recurrence over a grid of positions, which gives cuts, and over blocks between them, which bounds the mean
of any cuts from below (`bounds.py`). Blocks that hold no optimal cut are joined, the others divided, until the two are
within `ENOUGH` of each other, or `ROUNDS` are over: `RobustCuts.gap` says how far they are. Up to SMALL_ROWS rows every
row is a position, and the cuts are the optimum. With N rows and P positions O(N + rounds * s_max * P^2) time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from repo_builder.partition.bounds import MARGIN, at_most, cheapest_path, grid, path_costs, useful_steps
from repo_builder.partition.priced import PricedOrder

Floats = NDArray[np.float64]
Positions = NDArray[np.int64]

SMALL_ROWS = 512
BLOCKS = 384
MOST_BLOCKS = 1024
NEAR_ROWS = 8
ROUNDS = 5
ENOUGH = 1e-3


@dataclass(frozen=True, slots=True)
class RobustCuts:
    """Cuts of an order, 0 = c_0 < ... < c_s = N, the mean bytes that they take, and what no cuts get by with less."""

    cuts: tuple[int, ...]
    mean_bytes: float
    bound_bytes: float

    @property
    def gap(self) -> float:
        """The share that the mean may at most be above the least."""
        return self.mean_bytes / self.bound_bytes - 1


def mean_replicas(loads: Floats, error: float) -> Floats:
    """The mean of whole replicas over loads that are off by up to `error` (0 < error < 1) either way; same shape."""
    low, high = loads * (1 - error), loads * (1 + error)
    with np.errstate(invalid="ignore", divide="ignore"):
        means = (_replicas_up_to(high) - _replicas_up_to(low)) / (high - low)
    counts: Floats = np.where(high <= 1, 1.0, means)
    return counts


def _replicas_up_to(loads: Floats) -> Floats:
    """The integral of whole replicas over all smaller loads."""
    whole = np.floor(loads)
    sums: Floats = whole * (whole + 1) / 2 + (loads - whole) * (whole + 1)
    return sums


def mean_costs(priced: PricedOrder, begins: Positions, ends: Positions, error: float) -> Floats:
    """Mean cost of the rows (begin, end] in each service, which go by broadcast; of none, that of empty containers."""
    held = priced.replica_bytes(begins, ends).astype(np.float64)
    return mean_replicas(priced.loads(begins, ends), error) * held + float(priced.model.service_bytes)


def mean_cost(priced: PricedOrder, cuts: Sequence[int], error: float) -> float:
    """Of all services of these cuts."""
    return float(mean_costs(priced, np.array(cuts[:-1]), np.array(cuts[1:]), error).sum())


def robust_cuts(priced: PricedOrder, s_max: int, error: float, known: Sequence[Sequence[int]]) -> RobustCuts:
    """The cuts with the least mean memory; `known` are some that may be good, and are not fallen behind."""
    order = priced.order
    best = min((RobustCuts(tuple(cuts), mean_cost(priced, cuts, error), 0.0) for cuts in known), key=_mean)
    bound = 0.0
    if order.rows <= SMALL_ROWS:
        first = np.arange(order.rows + 1)
    else:
        first = np.union1d(grid(order.gathers, BLOCKS), _near(best.cuts, order.rows))
    alive = np.ones(len(first), np.bool_)
    costs_of = partial(mean_costs, priced, error=error)
    for _ in range(ROUNDS):
        costs = path_costs(costs_of, first, first)
        np.fill_diagonal(costs, np.inf)  # a service holds a row at least
        cuts = tuple(first[cheapest_path(costs, s_max)].tolist())
        best = min(best, RobustCuts(cuts, mean_cost(priced, cuts, error), 0.0), key=_mean)
        last = np.append(first[1:] - 1, first[-1])
        if (last == first).all():
            return RobustCuts(best.cuts, best.mean_bytes, best.mean_bytes)
        low = path_costs(costs_of, last, first)
        low[~alive] = low[:, ~alive] = np.inf
        through = _through(low, s_max)
        bound = max(bound, min(float(through[-1]), best.mean_bytes))
        if best.mean_bytes <= bound * (1 + ENOUGH):
            break
        alive &= through <= best.mean_bytes * (1 + MARGIN)
        first, alive = _finer(first, alive, _near(best.cuts, order.rows))
    return RobustCuts(best.cuts, best.mean_bytes, bound)


def _mean(found: RobustCuts) -> tuple[float, int]:
    return found.mean_bytes, len(found.cuts)


def _near(cuts: Sequence[int], rows: int) -> Positions:
    """The rows next to inner cuts, so that none can be bettered by moving it by a few."""
    near = np.array(cuts[1:-1], np.int64)[:, None] + np.arange(-NEAR_ROWS, NEAR_ROWS + 1)
    return np.asarray(np.clip(near.ravel(), 1, rows), np.int64)


def _through(costs: Floats, s_max: int) -> Floats:
    """The cheapest path from the first block to the last through each, by at most s_max steps; (blocks,)."""
    forward = at_most(costs, s_max)
    backward = useful_steps(costs.T[::-1, ::-1], s_max)[:, ::-1]
    through: Floats = (forward[::-1] + backward).min(axis=0)  # by some steps after it, the others before it at most
    return through


def _finer(first: Positions, alive: NDArray[np.bool_], near: Positions) -> tuple[Positions, NDArray[np.bool_]]:
    """Other blocks: neighbours that hold no optimal cut as one, those that may hold one in parts, and `near`.

    0, 1 and N still start blocks of their own, so that the first service is known by its begin.
    """
    begins = alive | np.append(True, alive[:-1])
    begins[[0, 1, -1]] = True
    sizes = np.where(alive, np.diff(first, append=first[-1] + 1), 1)
    parts = max(1, (MOST_BLOCKS - int(begins.sum())) // max(1, int((sizes > 1).sum())) + 1)
    within = np.arange(parts)[None, :] * sizes[:, None] // parts  # (blocks, parts), from 0
    finer = np.unique(np.concatenate([first[begins], (first[:, None] + within)[begins & alive].ravel(), near]))
    return finer, alive[np.searchsorted(first, finer, side="right") - 1]
