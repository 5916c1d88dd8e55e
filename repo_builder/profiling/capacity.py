"""The most queries per second of one replica on a core of its own: cores set aside, and the search for it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Set
from contextlib import contextmanager

from repo_builder.profiling.points import LoadFigures

GAIN = 1.03
"""What twice the queries in flight must bring at least: below, the replica is saturated."""

MOST_IN_FLIGHT = 256


def split_cores() -> tuple[Set[int], Set[int]]:
    """The server's core, and the client's: the last of those that this process may use, and all others.

    Where there is one core only both share it.
    """
    cores = os.sched_getaffinity(0)
    server = {max(cores)}
    return server, cores - server or server


@contextmanager
def on_cores(cores: Set[int]) -> Iterator[None]:
    """Run on these cores, and with us what is started meanwhile."""
    former = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, former)


def most_in_flight(ask: Callable[[int], LoadFigures], start: int, sla_ms: float) -> int | None:
    """The queries in flight at which a replica answers most per second within the SLA at p95; None where it cannot.

    ask: the figures with so many in flight, the same whenever it is asked. More of them join more queries in a call
    and wait longer: they are doubled from `start` while that pays, or halved until the SLA is met; then bisected.
    """
    within = start
    while ask(within).p95_ms > sla_ms:
        if within == 1:
            return None
        within //= 2
    if within < start:
        return _bisect(ask, within, 2 * within, sla_ms)
    while 2 * within <= MOST_IN_FLIGHT:
        more = ask(2 * within)
        if more.p95_ms > sla_ms:
            return _bisect(ask, within, 2 * within, sla_ms)
        if more.core_qps < GAIN * ask(within).core_qps:
            return within
        within *= 2
    return within


def _bisect(ask: Callable[[int], LoadFigures], within: int, beyond: int, sla_ms: float) -> int:
    """The most in flight that meet the SLA, to within an eighth."""
    while beyond - within > max(1, within // 8):
        middle = (within + beyond) // 2
        within, beyond = (within, middle) if ask(middle).p95_ms > sla_ms else (middle, beyond)
    return within
