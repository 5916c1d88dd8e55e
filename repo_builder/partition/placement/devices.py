"""A device for every service: the options with which the fewest nodes are filled, by a mixed-integer program.

Replicas may be cut in it, which bounds the price of every whole packing from below. With z[o] = 1 where option o is
taken, y[o, p] of its replicas in pool p, and n[p] nodes of pool p:

    minimise    sum of price[p] * n[p]
    subject to  every service:            its z sum up to 1
                every option:             its y sum up to replicas[o] * z[o]
                every pool and resource:  sum of need[o] * y[o, p] <= room[p] * n[p]
                every option and pool:    y[o, p] <= most_on_a_node[o] * n[p]
                n[p] whole, at most the pool's count

Of the choices at the least price the one with the least memory, host and GPU, is taken: a second program.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp

from repo_builder.partition.placement.cluster import Cluster
from repo_builder.partition.placement.nodes import capacity
from repo_builder.partition.placement.options import Option

_SEARCH = {"mip_rel_gap": 1e-4, "node_limit": 5000, "time_limit": 10.0}
_SLACK = 1e-6  # relative, of the least price, for the second program


@dataclass(frozen=True, slots=True)
class DeviceChoice:
    """The option taken of each service, and a lower bound of any choice's price per hour."""

    options: tuple[Option, ...]
    lower_bound_per_hour: float


def choose(services: Sequence[Sequence[Option]], cluster: Cluster) -> DeviceChoice | None:
    """The cheapest options, one per service; None where no choice fits, even cut."""
    flat = [option for of_one in services for option in of_one]
    constraints, bounds, integrality = _program(services, flat, cluster)
    price = np.zeros(len(integrality))
    price[-len(cluster.pools) :] = [pool.price_per_hour for pool in cluster.pools]
    cheapest = milp(price, integrality=integrality, bounds=bounds, constraints=constraints, options=_SEARCH)
    if cheapest.x is None:
        return None
    memory = np.zeros(len(integrality))
    memory[: len(flat)] = [_memory_gb(option) for option in flat]
    dear = LinearConstraint(price, ub=float(price @ cheapest.x) * (1 + _SLACK))
    least = milp(memory, integrality=integrality, bounds=bounds, constraints=[*constraints, dear], options=_SEARCH)
    taken = (cheapest if least.x is None else least).x[: len(flat)]
    return DeviceChoice(tuple(_taken(services, taken)), max(0.0, float(cheapest.mip_dual_bound)))


def _taken(services: Sequence[Sequence[Option]], taken: NDArray[np.float64]) -> list[Option]:
    chosen, first = [], 0
    for of_one in services:
        chosen.append(of_one[int(np.argmax(taken[first : first + len(of_one)]))])
        first += len(of_one)
    return chosen


def _memory_gb(option: Option) -> float:
    demand = option.demand
    return demand.replicas * (demand.memory_bytes + demand.gpus * demand.gpu_memory_bytes) / 1e9


def _program(
    services: Sequence[Sequence[Option]], flat: Sequence[Option], cluster: Cluster
) -> tuple[list[LinearConstraint], Bounds, NDArray[np.float64]]:
    """The variables are z (options), then y (options x pools), then n (pools)."""
    options, pools = len(flat), len(cluster.pools)
    size, y = options + options * pools + pools, options
    n = options + options * pools
    equal: list[NDArray[np.float64]] = []
    sides: list[float] = []
    first = 0
    for of_one in services:
        row = np.zeros(size)
        row[first : first + len(of_one)] = 1
        first += len(of_one)
        equal.append(row)
        sides.append(1.0)
    for o, option in enumerate(flat):
        row = np.zeros(size)
        row[y + o * pools : y + (o + 1) * pools] = 1
        row[o] = -option.demand.replicas
        equal.append(row)
        sides.append(0.0)
    below = [*_resource_rows(flat, cluster, size, y, n), *_spread_rows(flat, cluster, size, y, n)]
    upper = np.full(size, np.inf)
    upper[:options] = 1
    for o, option in enumerate(flat):
        for p, pool in enumerate(cluster.pools):
            upper[y + o * pools + p] = option.demand.replicas if option.demand.fits(pool) else 0
    upper[n:] = [np.inf if pool.count is None else pool.count for pool in cluster.pools]
    integrality = np.concatenate([np.ones(options), np.zeros(options * pools), np.ones(pools)])
    constraints = [LinearConstraint(np.array(equal), lb=sides, ub=sides), LinearConstraint(np.array(below), ub=0.0)]
    return constraints, Bounds(0, upper), integrality


def _resource_rows(flat: Sequence[Option], cluster: Cluster, size: int, y: int, n: int) -> list[NDArray[np.float64]]:
    rows = []
    for p, pool in enumerate(cluster.pools):
        for i, room in enumerate(capacity(pool)):
            row = np.zeros(size)
            for o, option in enumerate(flat):
                row[y + o * len(cluster.pools) + p] = option.demand.vector[i] / max(room, 1)
            row[n + p] = -1
            rows.append(row)
    return rows


def _spread_rows(flat: Sequence[Option], cluster: Cluster, size: int, y: int, n: int) -> list[NDArray[np.float64]]:
    rows = []
    for o, option in enumerate(flat):
        for p in range(len(cluster.pools)):
            row = np.zeros(size)
            row[y + o * len(cluster.pools) + p] = 1
            row[n + p] = -cluster.most_on_a_node(option.demand.replicas)
            rows.append(row)
    return rows
