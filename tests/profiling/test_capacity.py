"""The search for a capacity against a server of known behaviour, and cores that are set aside."""

import math
import os
import subprocess
import sys
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repo_builder.profiling.capacity import MOST_IN_FLIGHT, most_in_flight, on_cores, split_cores
from repo_builder.profiling.points import LoadFigures


class KnownServer:
    """One core; a call of n queries, at most `joins`, takes call_s + n * query_s: more in flight wait in line."""

    def __init__(self, call_s: float, query_s: float, joins: int) -> None:
        self.call_s, self.query_s, self.joins, self.asked = call_s, query_s, joins, list[int]()

    def figures(self, in_flight: int) -> LoadFigures:
        self.asked.append(in_flight)
        joined = min(in_flight, self.joins)
        cpu_s = self.call_s / joined + self.query_s
        latency_ms = 1000 * cpu_s * in_flight
        return LoadFigures(1 / cpu_s, joined, cpu_s, latency_ms, latency_ms)


def test_queries_are_added_while_that_joins_more_of_them() -> None:
    server = KnownServer(1e-3, 1e-5, joins=64)
    assert most_in_flight(cache(server.figures), 16, sla_ms=math.inf) == 64
    assert server.asked == [16, 32, 64, 128]


def test_a_saturated_server_is_not_asked_for_more() -> None:
    server = KnownServer(1e-3, 1e-5, joins=4)
    assert most_in_flight(cache(server.figures), 16, sla_ms=math.inf) == 16
    assert server.asked == [16, 32]


def test_it_ends_where_queries_are_joined_without_end() -> None:
    server = KnownServer(1.0, 1e-9, joins=10**9)
    assert most_in_flight(cache(server.figures), 16, sla_ms=math.inf) == MOST_IN_FLIGHT


@given(st.floats(1e-5, 1e-1), st.floats(1e-5, 1e-2), st.integers(1, 100), st.floats(0.1, 1000))
def test_it_finds_the_most_within_the_sla(call_s: float, query_s: float, joins: int, sla_ms: float) -> None:
    """Beside all loads tried one by one: within the SLA, and no more than a tenth below the most."""
    server = KnownServer(call_s, query_s, joins)
    found = most_in_flight(cache(server.figures), 16, sla_ms)
    loads = [server.figures(n) for n in range(1, MOST_IN_FLIGHT + 1)]
    within = [load.core_qps for load in loads if load.p95_ms <= sla_ms]
    if not within:
        assert found is None
    else:
        assert found is not None
        chosen = loads[found - 1]
        assert chosen.p95_ms <= sla_ms
        assert chosen.core_qps >= 0.85 * max(within)


def test_what_others_take_of_the_core_does_not_count() -> None:
    """A core that was ours for half the time answers half as many; with all of it twice as many."""
    shared = LoadFigures(qps=500.0, queries=2.0, cpu_s=1e-3, p50_ms=1.0, p95_ms=2.0)
    assert shared.core_qps == pytest.approx(1000)


def test_what_is_started_on_a_core_stays_there() -> None:
    before = os.sched_getaffinity(0)
    own, others = split_cores()
    assert len(own) == 1 and own | others == before and (len(before) == 1 or not own & others)
    asked = [sys.executable, "-c", "import os; print(sorted(os.sched_getaffinity(0)))"]
    with on_cores(own):
        child = subprocess.run(asked, capture_output=True, text=True, check=True)
    assert child.stdout.strip() == str(sorted(own))
    assert os.sched_getaffinity(0) == before
