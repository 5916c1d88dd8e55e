"""The linear program of node patterns: which patterns to use how often, relaxed, and what its duals say.

With x[k] nodes of pattern k:

    minimise    sum of price[k] * x[k] + _MISSING * dearest price * missing nodes
    subject to  every demand: the replicas in the patterns used are at least the wanted ones
                every pool:   at most its count of nodes, and the missing ones

Prices are in `unit`, the largest amount of which every price is a whole multiple, so every packing's price is a whole
number. The solver is HiGHS, through SciPy.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog

from repo_builder.partition.placement.cluster import Cluster
from repo_builder.partition.placement.greedy import Pattern
from repo_builder.partition.placement.nodes import Demand, capacity

TOLERANCE = 1e-6
"""HiGHS's own, relative."""

_MISSING = 1000.0  # a node that the cluster does not have costs so many of its dearest


@dataclass(frozen=True, slots=True)
class Problem:
    """Demands of which `wanted` replicas are still to be placed, (demands,), on at most `limits` nodes, (pools,)."""

    demands: Sequence[Demand]
    cluster: Cluster
    wanted: NDArray[np.float64]
    prices: NDArray[np.float64]
    limits: NDArray[np.float64]
    unit: Fraction

    @property
    def missing_price(self) -> float:
        """What a missing node costs: more than any way around it."""
        return float(_MISSING * self.prices.max())

    def shares(self, pool: int) -> NDArray[np.float64]:
        """What a replica takes of a node of the pool, (demands, resources)."""
        needs = np.array([demand.vector for demand in self.demands], dtype=np.float64)
        return np.asarray(needs / np.maximum(capacity(self.cluster.pools[pool]), 1))

    def missing(self, used: Mapping[Pattern, int]) -> int:
        """Nodes beyond the pools' counts."""
        nodes = np.zeros(len(self.prices))
        for pattern, times in used.items():
            nodes[pattern.pool] += times
        return int(np.maximum(nodes - self.limits, 0).sum())

    def value(self, used: Mapping[Pattern, int]) -> float:
        """The price of the nodes and of the missing ones."""
        price = sum(self.prices[pattern.pool] * times for pattern, times in used.items())
        return float(price + self.missing(used) * self.missing_price)


def problem_of(demands: Sequence[Demand], cluster: Cluster) -> Problem:
    """All replicas, on the cluster's nodes."""
    prices = [Fraction(str(pool.price_per_hour)) for pool in cluster.pools]
    whole = math.lcm(*(price.denominator for price in prices))
    unit = Fraction(math.gcd(*(int(price * whole) for price in prices)), whole)
    return Problem(
        demands,
        cluster,
        np.array([demand.replicas for demand in demands], dtype=np.float64),
        np.array([float(price / unit) for price in prices]),
        np.array([math.inf if pool.count is None else pool.count for pool in cluster.pools], dtype=np.float64),
        unit,
    )


def rounded_up(bound: float) -> float:
    """Every packing's price is a whole number of units, so a bound between two rises to the upper one."""
    return math.ceil(bound * (1 - TOLERANCE) - TOLERANCE)


@dataclass(frozen=True, slots=True)
class Relaxation:
    """Solved: nodes of each pattern; what a replica of each demand is worth; what one more node of a pool saves."""

    times: NDArray[np.float64]
    worth: NDArray[np.float64]
    room: NDArray[np.float64]


def rows(
    problem: Problem, patterns: Sequence[Pattern]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Cost, matrix and side of: minimise cost @ x where matrix @ x >= side, x >= 0; the last x are the missing nodes.

    The matrix has a row for each demand, then for each pool; a column for each pattern, then for each pool.
    """
    demands, pools = len(problem.wanted), len(problem.prices)
    matrix = np.zeros((demands + pools, len(patterns) + pools))
    chosen = [pattern.pool for pattern in patterns]
    matrix[:demands, : len(patterns)] = np.array([pattern.counts for pattern in patterns]).T
    matrix[demands + np.array(chosen), np.arange(len(patterns))] = -1
    matrix[demands:, len(patterns) :] = np.eye(pools)
    limits = np.where(np.isinf(problem.limits), problem.wanted.sum(), problem.limits)
    cost = np.concatenate([problem.prices[chosen], np.full(pools, problem.missing_price)])
    return cost, matrix, np.concatenate([problem.wanted, -limits])


def relax(problem: Problem, patterns: Sequence[Pattern]) -> Relaxation:
    """The relaxation over these patterns."""
    cost, matrix, side = rows(problem, patterns)
    solved = linprog(cost, A_ub=-matrix, b_ub=-side, method="highs")
    duals = np.maximum(-solved.ineqlin.marginals, 0)
    demands = len(problem.wanted)
    return Relaxation(np.asarray(solved.x[: len(patterns)]), duals[:demands], duals[demands:])
