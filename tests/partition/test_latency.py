"""Predicted latencies against simulated queues; room that a utilisation leaves."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from repo_builder.errors import PlanError
from repo_builder.partition.cost import Batching, Profile, ServiceTime
from repo_builder.partition.latency import HORIZON_S, Queue, predict_latency
from repo_builder.partition.plan import Plan, Service, Shard
from repo_builder.partition.planner import make_plan
from tests.partition.helpers import DENSE_TIME, GivenHotness, small_spec, zipf_cdf

SERVICE_S = 0.02
PROFILE = Profile("measured", ServiceTime(1e-3, 1e-6), 5000, DENSE_TIME)
SPEC = small_spec([{"name": "A", "rows": 90, "pooling": 128}], target_qps=900.0)
HOTNESS = GivenHotness({"": zipf_cdf(90)})


def simulated_waits(utilisation: float, servers: int, runs: int) -> NDArray[np.float64]:
    """The wait of the query that comes at `HORIZON_S` at an M/M/c queue that began empty (Kiefer and Wolfowitz)."""
    rng = np.random.default_rng(0)
    queries = int(HORIZON_S * utilisation * servers / SERVICE_S)
    work = np.zeros((runs, servers))
    for _ in range(queries):
        work[:, 0] += rng.exponential(SERVICE_S, runs)
        work -= rng.exponential(SERVICE_S / (utilisation * servers), runs)[:, np.newaxis]
        np.maximum(work, 0, out=work)
        work.sort(axis=1)
    return work[:, 0]


@pytest.mark.parametrize(
    ("utilisation", "servers"), [(0.6, 1), (0.9, 1), (0.97, 1), (1.0, 1), (1.1, 1), (0.9, 3), (1.0, 3)]
)
def test_waits_are_those_of_a_simulated_queue(utilisation: float, servers: int) -> None:
    """At the 95th percentile: never much too small, and at most a third too large where queues matter."""
    waits = simulated_waits(utilisation, servers, 4000)
    queue = Queue(utilisation, SERVICE_S, servers, alone_s=SERVICE_S)
    simulated = float(np.quantile(waits, 0.95))
    reached = next(s for s in np.linspace(0, 12, 20001) if queue.within(SERVICE_S + s) >= 0.95)
    assert 0.9 * simulated - 0.001 <= reached <= 1.33 * simulated + SERVICE_S


def plan_of(*services: tuple[int, float], dense_qps: float = 1000.0) -> Plan:
    """Embedding services of so many replicas and queries per second each, and a dense service."""
    dense = Service("dense", "dense", "cpu", 1, 1, 10, 0.0, dense_qps, ())
    embedding = [
        Service(f"tier{i}", "embedding", "cpu", 1, replicas, 10, 0.0, qps, (Shard("A", i, i + 1),))
        for i, (replicas, qps) in enumerate(services)
    ]
    return Plan("m", "tiered", (dense, *embedding))


def test_an_idle_fleet_takes_front_end_remote_call_and_the_slowest_service() -> None:
    latency = predict_latency(plan_of((1, 500.0), (1, 500.0)), PROFILE, 1e-6)
    assert latency.idle_ms == pytest.approx(1 + 0.4 + 2)  # 1 / dense_qps, remote_call_s, 1 / qps
    assert latency.p99_ms == pytest.approx(latency.idle_ms, rel=0.01)


def test_latency_rises_with_traffic_and_falls_with_replicas() -> None:
    few, more = plan_of((1, 500.0)), plan_of((2, 500.0))
    traffic = [1.0, 100.0, 300.0, 450.0, 499.0, 550.0]
    p95 = [predict_latency(few, PROFILE, qps).p95_ms for qps in traffic]
    assert p95 == sorted(p95) and p95[-1] > 1000
    assert predict_latency(more, PROFILE, 450.0).p95_ms < p95[3]


def test_more_services_make_the_slowest_slower() -> None:
    one, ten = plan_of((1, 500.0)), plan_of(*[(1, 500.0)] * 10)
    assert predict_latency(ten, PROFILE, 400.0).p95_ms > predict_latency(one, PROFILE, 400.0).p95_ms


def test_batching_makes_a_query_wait_for_those_in_its_call() -> None:
    profile = replace(PROFILE, batching=Batching(call_s=8e-4, query_s=8e-4, queries=4.0))
    plan = plan_of((1, 1000.0))
    assert predict_latency(plan, profile, 1.0).idle_ms == pytest.approx(1 + 0.4 + 1.6)
    half_busy = predict_latency(plan, profile, 500.0)  # half of the time three others share the call
    assert half_busy.p50_ms == pytest.approx(1 + 0.4 + 1.6 + 0.5 * 3 * 0.8)


@pytest.mark.parametrize("utilisation", [0.5, 0.8])
def test_utilisation_leaves_room(utilisation: float) -> None:
    plan = make_plan(SPEC, HOTNESS, PROFILE, "tiered", 3, utilisation)
    assert all(s.replicas * s.qps * utilisation >= 900 * (1 - 1e-8) for s in plan.services)


def test_utilisation_out_of_range_is_an_error() -> None:
    with pytest.raises(PlanError, match="utilisation: expected a share above 0, at most 1, got 0"):
        make_plan(SPEC, HOTNESS, PROFILE, "tiered", 3, 0.0)
