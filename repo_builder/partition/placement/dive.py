"""Whole numbers of node patterns: round the relaxation down, and again what is left, until nothing is left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy.optimize import LinearConstraint, milp

from repo_builder.partition.placement.greedy import Pattern, fill
from repo_builder.partition.placement.master import TOLERANCE, Problem, Relaxation, relax, rows

_GUESSING_ROUNDS = 30
_WHOLE_NUMBERS = {"mip_rel_gap": 0.0, "node_limit": 500, "time_limit": 5.0}


def dive(problem: Problem, patterns: Sequence[Pattern]) -> dict[Pattern, int]:
    """A packing; patterns that the smaller problems want are found on the way."""
    used: dict[Pattern, int] = {}
    known, left = list(patterns), problem
    while left.wanted.any():
        add_guesses(left, known)
        times = relax(left, known).times
        whole = np.floor(times + TOLERANCE).astype(int)
        if not whole.any():
            whole[np.argmax(times)] = 1
        for k in np.flatnonzero(whole):
            left = _take(left, known[k], int(whole[k]), used)
    return used


def _take(left: Problem, pattern: Pattern, times: int, used: dict[Pattern, int]) -> Problem:
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


def _topped_up(left: Problem, pattern: Pattern) -> Pattern:
    """The pattern without what is no longer wanted, and with whatever else fits in its place."""
    wanted = left.wanted.astype(int)
    counts = np.minimum(pattern.counts, wanted)
    order = np.argsort(-left.shares(pattern.pool).max(axis=1), kind="stable").tolist()
    return fill(left.demands, wanted.tolist(), left.cluster, pattern.pool, order, counts.tolist())


def add_guesses(problem: Problem, patterns: list[Pattern]) -> None:
    """Add the patterns that filling nodes by worth finds, until it finds none that helps."""
    for _ in range(_GUESSING_ROUNDS):
        relaxed = relax(problem, patterns)
        fresh = [guess for guess in _guesses(problem, relaxed) if guess not in patterns]
        if not fresh:
            return
        patterns += fresh


def _guesses(problem: Problem, relaxed: Relaxation) -> list[Pattern]:
    """Nodes filled by worth for the share that a replica takes of the node: of its scarcest resource, or of all."""
    found: dict[Pattern, None] = {}
    wanted = problem.wanted.astype(int).tolist()
    for p in range(len(problem.prices)):
        shares = problem.shares(p)
        for size in (shares.max(axis=1), shares.sum(axis=1)):
            order = np.argsort(-relaxed.worth / np.maximum(size, 1e-12), kind="stable")
            valued = [int(d) for d in order if relaxed.worth[d] > 0]
            pattern = fill(problem.demands, wanted, problem.cluster, p, valued)
            if helps(problem, pattern, relaxed):
                found[pattern] = None
    return list(found)


def helps(problem: Problem, pattern: Pattern, relaxed: Relaxation) -> bool:
    """Whether the pattern holds more worth than its node costs."""
    price = problem.prices[pattern.pool] + relaxed.room[pattern.pool]
    return bool(relaxed.worth @ np.array(pattern.counts) > price * (1 + TOLERANCE))


def whole_numbers(problem: Problem, patterns: Sequence[Pattern]) -> dict[Pattern, int]:
    """The best whole numbers of these patterns, as far as a bounded search finds them; a dive where it finds none."""
    cost, matrix, side = rows(problem, patterns)
    limits = LinearConstraint(matrix, lb=side)
    solved = milp(cost, integrality=np.ones(len(cost)), constraints=limits, options=_WHOLE_NUMBERS)
    if solved.x is None:
        return dive(problem, patterns)
    left, used = problem, dict[Pattern, int]()
    for pattern, times in zip(patterns, np.rint(solved.x[: len(patterns)]).astype(int), strict=True):
        left = _take(left, pattern, int(times), used)
    return used if not left.wanted.any() else dive(problem, patterns)
