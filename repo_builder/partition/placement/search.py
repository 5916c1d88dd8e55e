"""Which patterns of nodes to use, and a proven lower bound: column generation (Gilmore and Gomory, 1961).

A *pattern* is what one node of a pool may hold; there are too many to list. The relaxation is solved over those found
so far. With x[k] nodes of pattern k:

    minimise    sum of price[k] * x[k] + _MISSING * dearest price * missing nodes
    subject to  every demand: the replicas in the patterns used are at least the wanted ones
                every pool:   at most its count of nodes, and the missing ones

Its duals say what a replica is worth, and a knapsack over one node of each pool either finds a pattern worth more than
its node costs, which joins, or proves that there is none: then the relaxation's value bounds every packing from below.
Whole numbers of patterns come from diving: the relaxation is rounded down, and again what is left, until nothing is
left. Nodes of a pool are alike, so neither the replicas nor the nodes enter the size of these problems, only the
demands and the pools. The solver is HiGHS, through SciPy.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, linprog, milp

from repo_builder.partition.placement.cluster import Cluster
from repo_builder.partition.placement.nodes import Demand, Pattern, capacity, fill

_TOLERANCE = 1e-6  # HiGHS's own, relative
_MISSING = 1000.0  # a node that the cluster does not have costs so many of its dearest
_GUESSING_ROUNDS = 30
_WHOLE_NUMBERS = {"mip_rel_gap": 0.0, "node_limit": 500, "time_limit": 5.0}
_KNAPSACK = {"mip_rel_gap": 2e-3, "node_limit": 100}  # what it leaves open weakens the bound, never breaks it
_CLOSE = 5e-3  # a bound so near to a known price, relative, is not worth another knapsack
_ROUNDS = 40
MOST_SEARCHED = 128
"""Demands up to which a cheaper packing than the greedy one is searched for: the time grows with their cube."""


@dataclass(frozen=True, slots=True)
class Solution:
    """Nodes of each pattern, of which `missing` are beyond the pools' counts, and a lower bound of the price."""

    used: dict[Pattern, int]
    missing: int
    lower_bound: float


def solve(demands: Sequence[Demand], cluster: Cluster, start: dict[Pattern, int], least: float = 0.0) -> Solution:
    """The cheapest nodes that hold all replicas.

    `start` is a packing that may use more nodes than there are; `least` is a lower bound that is known already. Of more
    than MOST_SEARCHED demands it is the answer: the bound says how much too dear it may be.
    """
    problem = _problem(demands, cluster)
    best, bound = start, _rounded_up(least / float(problem.unit))
    if problem.value(best) > bound and len(demands) <= MOST_SEARCHED:
        patterns = [*start, *_one_of_each(problem)]
        best = min((best, _dive(problem, patterns)), key=problem.value)
        bound = max(bound, _prove(problem, patterns, problem.value(best), bound))
        for search in (_dive, _whole_numbers):
            if problem.value(best) > bound:
                best = min((best, search(problem, patterns)), key=problem.value)
    return Solution(best, problem.missing(best), float(bound * problem.unit))


@dataclass(frozen=True, slots=True)
class _Problem:
    """Demands of which `wanted` replicas are still to be placed, (demands,), on at most `limits` nodes, (pools,).

    Prices are in `unit`, the largest amount of which every price is a whole multiple; so is every packing's.
    """

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


def _problem(demands: Sequence[Demand], cluster: Cluster) -> _Problem:
    """All replicas, on the cluster's nodes."""
    prices = [Fraction(str(pool.price_per_hour)) for pool in cluster.pools]
    whole = math.lcm(*(price.denominator for price in prices))
    unit = Fraction(math.gcd(*(int(price * whole) for price in prices)), whole)
    return _Problem(
        demands,
        cluster,
        np.array([demand.replicas for demand in demands], dtype=np.float64),
        np.array([float(price / unit) for price in prices]),
        np.array([math.inf if pool.count is None else pool.count for pool in cluster.pools], dtype=np.float64),
        unit,
    )


def _rounded_up(bound: float) -> float:
    """Every packing's price is a whole number of units, so a bound between two rises to the upper one."""
    return math.ceil(bound * (1 - _TOLERANCE) - _TOLERANCE)


@dataclass(frozen=True, slots=True)
class _Relaxation:
    """Solved: nodes of each pattern; what a replica of each demand is worth; what one more node of a pool saves."""

    times: NDArray[np.float64]
    worth: NDArray[np.float64]
    room: NDArray[np.float64]


def _program(
    problem: _Problem, patterns: Sequence[Pattern]
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


def _relax(problem: _Problem, patterns: Sequence[Pattern]) -> _Relaxation:
    """The relaxation over these patterns."""
    cost, matrix, side = _program(problem, patterns)
    solved = linprog(cost, A_ub=-matrix, b_ub=-side, method="highs")
    duals = np.maximum(-solved.ineqlin.marginals, 0)
    demands = len(problem.wanted)
    return _Relaxation(np.asarray(solved.x[: len(patterns)]), duals[:demands], duals[demands:])


def _one_of_each(problem: _Problem) -> list[Pattern]:
    """A full node for every demand and pool that can hold it: what the relaxation starts from."""
    wanted = problem.wanted.astype(int).tolist()
    found: dict[Pattern, None] = {}
    for p in range(len(problem.prices)):
        largest = np.argsort(-problem.shares(p).max(axis=1), kind="stable").tolist()
        for d in range(len(wanted)):
            pattern = fill(problem.demands, wanted, problem.cluster, p, [d, *(e for e in largest if e != d)])
            if any(pattern.counts):
                found[pattern] = None
    return list(found)


def _prove(problem: _Problem, patterns: list[Pattern], known: float, bound: float) -> float:
    """Add patterns until none would help, or the bound is close to the `known` price; returns the bound."""
    for _ in range(_ROUNDS):
        if _rounded_up(bound) >= known * (1 - _CLOSE):
            break
        _add_guesses(problem, patterns)
        relaxed = _relax(problem, patterns)
        best = [_knapsack(problem, p, relaxed.worth) for p in range(len(problem.prices))]
        bound = max(bound, _bound(problem, relaxed.worth, np.array([most for most, _ in best])))
        fresh = [pattern for _, pattern in best if _helps(problem, pattern, relaxed) and pattern not in patterns]
        if not fresh:
            break
        patterns += fresh
    return _rounded_up(bound)


def _knapsack(problem: _Problem, p: int, worth: NDArray[np.float64]) -> tuple[float, Pattern]:
    """The most that a node of pool p can hold in worth (an upper bound), and contents close to it."""
    pool = problem.cluster.pools[p]
    most = [problem.cluster.most_on_a_node(d.replicas) if d.fits(pool) else 0 for d in problem.demands]
    solved = milp(
        -worth,
        integrality=np.ones(len(worth)),
        bounds=Bounds(0, np.minimum(most, problem.wanted)),
        constraints=LinearConstraint(problem.shares(p).T, ub=np.ones(len(capacity(pool)))),
        options=_KNAPSACK,
    )
    counts = np.zeros(len(worth), dtype=int) if solved.x is None else np.rint(solved.x).astype(int)
    order = np.argsort(-worth * counts, kind="stable")
    exact = fill(problem.demands, counts.tolist(), problem.cluster, p, order.tolist())  # in whole numbers
    upper = float(worth @ most) if solved.mip_dual_bound is None else -solved.mip_dual_bound
    return max(upper, float(worth @ np.array(exact.counts))), exact


def _bound(problem: _Problem, worth: NDArray[np.float64], most: NDArray[np.float64]) -> float:
    """A lower bound from any worths: `most` is the most worth that a node of each pool can hold, (pools,).

    Scaled so that no node of the pools concerned holds more worth than its price, the worths are dual feasible (Farley,
    1990); a limited pool may instead pay back its excess for each of its nodes (Lagrange).
    """
    everything, endless = float(worth @ problem.wanted), np.isinf(problem.limits)
    shares = problem.prices / np.maximum(most, 1e-12)
    farley = min(1.0, float(shares.min())) * everything
    scale = min(1.0, float(shares[endless].min())) if endless.any() else 1.0
    excess = np.maximum(scale * most - problem.prices, 0)
    return max(farley, scale * everything - float(excess[~endless] @ problem.limits[~endless]))


def _dive(problem: _Problem, patterns: Sequence[Pattern]) -> dict[Pattern, int]:
    """A packing; patterns that the smaller problems want are found on the way."""
    used: dict[Pattern, int] = {}
    known, left = list(patterns), problem
    while left.wanted.any():
        _add_guesses(left, known)
        times = _relax(left, known).times
        whole = np.floor(times + _TOLERANCE).astype(int)
        if not whole.any():
            whole[np.argmax(times)] = 1
        for k in np.flatnonzero(whole):
            left = _take(left, known[k], int(whole[k]), used)
    return used


def _take(left: _Problem, pattern: Pattern, times: int, used: dict[Pattern, int]) -> _Problem:
    """Use so many nodes of the pattern, or fewer where nothing is left to hold; returns what is then left."""
    while times and left.wanted.any():
        node = _topped_up(left, pattern)
        held = np.array(node.counts)
        if not held.any():
            break
        again = min(times, int((left.wanted[held > 0] // held[held > 0]).min()))
        used[node] = used.get(node, 0) + again
        limits = left.limits.copy()
        limits[node.pool] = max(0.0, limits[node.pool] - again)
        left = replace(left, wanted=left.wanted - again * held, limits=limits)
        times -= again
    return left


def _topped_up(left: _Problem, pattern: Pattern) -> Pattern:
    """The pattern without what is no longer wanted, and with whatever else fits in its place."""
    wanted = left.wanted.astype(int)
    counts = np.minimum(pattern.counts, wanted)
    order = np.argsort(-left.shares(pattern.pool).max(axis=1), kind="stable").tolist()
    return fill(left.demands, wanted.tolist(), left.cluster, pattern.pool, order, counts.tolist())


def _add_guesses(problem: _Problem, patterns: list[Pattern]) -> None:
    """Add the patterns that filling nodes by worth finds, until it finds none that helps."""
    for _ in range(_GUESSING_ROUNDS):
        relaxed = _relax(problem, patterns)
        fresh = [guess for guess in _guesses(problem, relaxed) if guess not in patterns]
        if not fresh:
            return
        patterns += fresh


def _guesses(problem: _Problem, relaxed: _Relaxation) -> list[Pattern]:
    """Nodes filled by worth for the share that a replica takes of the node: of its scarcest resource, or of all."""
    found: dict[Pattern, None] = {}
    wanted = problem.wanted.astype(int).tolist()
    for p in range(len(problem.prices)):
        shares = problem.shares(p)
        for size in (shares.max(axis=1), shares.sum(axis=1)):
            order = np.argsort(-relaxed.worth / np.maximum(size, 1e-12), kind="stable")
            valued = [int(d) for d in order if relaxed.worth[d] > 0]
            pattern = fill(problem.demands, wanted, problem.cluster, p, valued)
            if _helps(problem, pattern, relaxed):
                found[pattern] = None
    return list(found)


def _helps(problem: _Problem, pattern: Pattern, relaxed: _Relaxation) -> bool:
    """Whether the pattern holds more worth than its node costs."""
    price = problem.prices[pattern.pool] + relaxed.room[pattern.pool]
    return bool(relaxed.worth @ np.array(pattern.counts) > price * (1 + _TOLERANCE))


def _whole_numbers(problem: _Problem, patterns: Sequence[Pattern]) -> dict[Pattern, int]:
    """The best whole numbers of these patterns, as far as a bounded search finds them; a dive where it finds none."""
    cost, matrix, side = _program(problem, patterns)
    limits = LinearConstraint(matrix, lb=side)
    solved = milp(cost, integrality=np.ones(len(cost)), constraints=limits, options=_WHOLE_NUMBERS)
    if solved.x is None:
        return _dive(problem, patterns)
    left, used = problem, dict[Pattern, int]()
    for pattern, times in zip(patterns, np.rint(solved.x[: len(patterns)]).astype(int), strict=True):
        left = _take(left, pattern, int(times), used)
    return used if not left.wanted.any() else _dive(problem, patterns)
