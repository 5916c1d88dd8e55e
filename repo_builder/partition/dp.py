"""The partition of an order of rows into services with the least memory (ElasticRec, ISCA 2024, algorithm 2), exactly.

Problem. Given T[j], the time of what a query gathers of the first j rows (`row_times.py`), and W[j], their bytes, find
cuts 0 = c_0 < c_1 < ... < c_s = N, s <= s_max, with the least sum of `CostModel.cost` over the segments (c_{i-1}, c_i].
The first segment's rows may have a format of their own, told apart by c_0 = 0 (`priced.py`).
State: best[s][j], the least cost of the rows 1 ... j in s services.
Recurrence: best[s][j] = min over k < j of best[s - 1][k] + cost(k, j), best[0][0] = 0; answer: the least best[s][N].
Complexity: as written, O(s_max * N^2). The paper coarsens the rows into bins; here every row stays a possible cut:
`chain.py` looks only at cuts that fill a service to the row, within windows from a coarse grid (`bounds.py`) that
provably hold every optimal cut.

With a great many replicas, some hundreds at the least, and more than SMALL_ROWS rows that may be too much work. Then
replicas are counted in lots of 4, 16, 64 ...: the cost is under that of the optimum with a lot more of each service.

Where rows differ in size, a service may be left with room for part of a large row, and a row from memory may take more
than a hotter one from a cache: the proof of `chain.py` holds only up to that. There the recurrence is run over the rows
near the cuts found, and the grid: all rows up to SMALL_ROWS, so that these are exact too; beyond, what is missed is a
few rows' bytes per replica, and, where the first service's format makes rows larger or smaller by different factors,
what the grid misses of the first cut. Where rows cost less in services that the caches hold whole, one kind of cut is
beyond the proof (`chain.py`): the recurrence is run over all rows up to SMALL_ROWS.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from repo_builder.errors import PlanError
from repo_builder.partition.bounds import cheapest_path, coarse_bounds, grid, segment_costs
from repo_builder.partition.chain import TooManySteps, best_chain
from repo_builder.partition.cost import CostModel
from repo_builder.partition.order import Order
from repo_builder.partition.plan import S_MAX
from repo_builder.partition.priced import PricedOrder

SMALL_ROWS = 512
GRID_BLOCKS = 1024
NEAR_ROWS = 32
LARGEST_COST_BYTES = 2**62


@dataclass(frozen=True, slots=True)
class Partition:
    """The cheapest cuts of an order.

    cost_bytes  over all replicas, and what the services must be worth besides
    cuts        0 = c_0 < c_1 < ... < c_s = N: service i holds the rows c_i + 1 ... c_{i+1}
    replicas    of each service
    rows_s      of each service, the time of what a query gathers of it
    """

    cost_bytes: int
    cuts: tuple[int, ...]
    replicas: tuple[int, ...]
    rows_s: tuple[float, ...]


def partition(order: Order, model: CostModel, s_max: int) -> Partition:
    """Cut N >= 1 rows at the least cost.

    Of equal costs the fewest services win, then the choice that `chain.py` states.
    Raises PlanError for s_max outside 1 ... 16, or costs beyond 64 bits.
    """
    if not 1 <= s_max <= S_MAX:
        raise PlanError(f"s_max: expected 1 to {S_MAX} services, got {s_max}")
    priced = PricedOrder(order, model)
    whole = cut_at(priced, [])
    if whole.cost_bytes >= LARGEST_COST_BYTES:
        raise PlanError(
            f"target_qps: expected a fleet under 2^62 bytes, got {float(whole.cost_bytes):.3g} bytes; lower the traffic"
        )
    same_replicas = priced.times.large.total_s == 0  # of every service: cuts only cost, but for another format
    if s_max == 1 or order.rows == 1 or (same_replicas and order.hot_row_bytes is None):
        return whole
    inner = [1] if same_replicas else _chain_cuts(priced, s_max)
    found = min(whole, cut_at(priced, inner), key=_preferred)
    if order.alike and (order.rows > SMALL_ROWS or not priced.times.two_prices):
        return found
    near = cut_at(priced, _best_among(_near(order, found.cuts), priced, s_max))
    return min(found, near, key=_preferred)


def _preferred(choice: Partition) -> tuple[int, int]:
    return choice.cost_bytes, len(choice.cuts)


def _chain_cuts(priced: PricedOrder, s_max: int) -> list[int]:
    """The inner cuts of the cheapest partition, counting replicas in the smallest lots that are few enough."""
    model, lot = priced.model, 1
    while True:
        lots = priced.under(replace(model, target_qps=model.target_qps / lot, service_bytes=model.service_bytes // lot))
        bounds = coarse_bounds(lots, s_max, GRID_BLOCKS) if priced.order.rows > SMALL_ROWS else None
        try:
            return best_chain(lots, s_max, bounds)[1]
        except TooManySteps:
            lot *= 4


def cut_at(priced: PricedOrder, inner: Sequence[int]) -> Partition:
    """The partition with these inner cuts, ascending."""
    cuts = (0, *inner, priced.order.rows)
    begins, ends = np.array(cuts[:-1]), np.array(cuts[1:])
    rows_s = tuple(priced.rows_s(begins, ends).tolist())
    held_bytes = priced.order.bytes_between(begins, ends).tolist()
    costs = [priced.model.cost(held, seconds) for held, seconds in zip(held_bytes, rows_s, strict=True)]
    return Partition(sum(costs), cuts, tuple(map(priced.model.replicas, rows_s)), rows_s)


def _near(order: Order, cuts: tuple[int, ...]) -> NDArray[np.int64]:
    """Positions worth another look, ascending: all of a short order; else those near the cuts, and the grid's."""
    if order.rows <= SMALL_ROWS:
        return np.arange(order.rows + 1)
    near = (np.array(cuts)[:, None] + np.arange(-NEAR_ROWS, NEAR_ROWS + 1)).ravel()
    positions: NDArray[np.int64] = np.unique(np.clip([*near, *grid(order.gathers, GRID_BLOCKS)], 0, order.rows))
    return positions


def _best_among(positions: NDArray[np.int64], priced: PricedOrder, s_max: int) -> list[int]:
    """The inner cuts of the cheapest partition whose cuts are among these positions, by the recurrence as it stands."""
    costs = segment_costs(priced, positions, positions)
    np.fill_diagonal(costs, np.inf)  # a service holds a row at least
    return [int(position) for position in positions[cheapest_path(costs, s_max)[1:-1]]]
