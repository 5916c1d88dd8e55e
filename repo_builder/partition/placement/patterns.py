"""Which patterns of nodes to use, and a proven lower bound: column generation (Gilmore and Gomory, 1961).

A *pattern* is what one node of a pool may hold; there are too many to list. The relaxation of `master` is
solved over those found so far; its duals say what a replica is worth, and a knapsack over one node of each pool either
finds a pattern worth more than its node costs, which joins, or proves that there is none: then the relaxation's value
bounds every packing from below. Whole numbers of patterns come from diving (`dive`). Nodes of a pool are
alike, so neither the replicas nor the nodes enter the size of these problems, only the demands and the pools.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp

from repo_builder.partition.placement.cluster import Cluster
from repo_builder.partition.placement.dive import add_guesses, dive, helps, whole_numbers
from repo_builder.partition.placement.greedy import Pattern, fill
from repo_builder.partition.placement.master import Problem, problem_of, relax, rounded_up
from repo_builder.partition.placement.nodes import Demand, capacity

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
    problem = problem_of(demands, cluster)
    best, bound = start, rounded_up(least / float(problem.unit))
    if problem.value(best) > bound and len(demands) <= MOST_SEARCHED:
        patterns = [*start, *_one_of_each(problem)]
        best = min((best, dive(problem, patterns)), key=problem.value)
        bound = max(bound, _prove(problem, patterns, problem.value(best), bound))
        for search in (dive, whole_numbers):
            if problem.value(best) > bound:
                best = min((best, search(problem, patterns)), key=problem.value)
    return Solution(best, problem.missing(best), float(bound * problem.unit))


def _one_of_each(problem: Problem) -> list[Pattern]:
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


def _prove(problem: Problem, patterns: list[Pattern], known: float, bound: float) -> float:
    """Add patterns until none would help, or the bound is close to the `known` price; returns the bound."""
    for _ in range(_ROUNDS):
        if rounded_up(bound) >= known * (1 - _CLOSE):
            break
        add_guesses(problem, patterns)
        relaxed = relax(problem, patterns)
        best = [_knapsack(problem, p, relaxed.worth) for p in range(len(problem.prices))]
        bound = max(bound, _bound(problem, relaxed.worth, np.array([most for most, _ in best])))
        fresh = [pattern for _, pattern in best if helps(problem, pattern, relaxed) and pattern not in patterns]
        if not fresh:
            break
        patterns += fresh
    return rounded_up(bound)


def _knapsack(problem: Problem, p: int, worth: NDArray[np.float64]) -> tuple[float, Pattern]:
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


def _bound(problem: Problem, worth: NDArray[np.float64], most: NDArray[np.float64]) -> float:
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
