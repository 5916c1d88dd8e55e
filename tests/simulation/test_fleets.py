"""From plans to simulated fleets: times, memory, and the rules that are rendered for a cluster."""

from decimal import Decimal

import pytest

from repo_builder.partition.cost import Batching, DenseTime, Profile, ServiceTime
from repo_builder.partition.plan import Plan, Service, Shard
from repo_builder.scaling.hpa import SYNC_S, MetricTarget
from repo_builder.scaling.queries import GuardedLatency, QueueTime, Throughput
from repo_builder.scaling.rules import DOWN_WINDOW_S, THROUGHPUT_SHARE, UP_PERIOD_S
from repo_builder.simulation.fleets import SimulatedModel, planned_fleet, whole_fleet

PROFILE = Profile("p", ServiceTime(0.002, 1e-6), 100, DenseTime(0.001, 0.0), Batching(0.003, 0.001, 3.0), 0.0007)
MODEL = SimulatedModel("rm", 400.0, 1000.0, PROFILE)


def service(name: str, kind: str, gathers: float, memory_bytes: int) -> Service:
    shards = (Shard("t", 0, 5),) if kind == "embedding" else ()
    qps = 1 / (0.002 + 1e-6 * gathers) if kind == "embedding" else 1000.0
    return Service(name, kind, "cpu", 1, 2, memory_bytes, gathers, qps, shards)  # type: ignore[arg-type] # the kind is a plain str


DENSE, HOT, COLD = (
    service("dense", "dense", 0, 150),
    service("tier0", "embedding", 3000, 1100),
    service("tier1", "embedding", 500, 9100),
)


def test_a_plan_becomes_a_front_end_and_its_embedding_services() -> None:
    fleet = planned_fleet(MODEL, Plan("rm", "tiered", (HOT, DENSE, COLD)))
    assert (fleet.name, fleet.front.name, [each.name for each in fleet.embedding]) == (
        "tiered",
        "dense",
        ["tier0", "tier1"],
    )
    assert [each.capacity_qps for each in fleet.services] == [HOT.qps, COLD.qps, 1000.0]
    assert [each.memory_bytes for each in fleet.services] == [1100, 9100, 150]
    assert [each.load_bytes for each in fleet.services] == [1000, 9000, 50]
    # alone: a call's own time, a query's, and the gathers'; the front end's as planned; one remote call
    assert [each.alone_s for each in fleet.services] == pytest.approx([0.007, 0.0045, 0.001])
    assert fleet.idle_s == pytest.approx(0.007 + 0.0007 + 0.001)


def test_the_whole_model_is_one_service_without_remote_calls() -> None:
    whole = service("model", "embedding", 3500, 10_000)
    fleet = whole_fleet(MODEL, whole, 0.009)
    assert (fleet.name, fleet.embedding, fleet.idle_s) == ("model-wise", (), 0.009)
    assert (fleet.front.capacity_qps, fleet.front.load_bytes) == (whole.qps, 9900)
    assert [type(query) for query in fleet.front.queries] == [GuardedLatency, Throughput, QueueTime]


def test_the_rules_are_those_of_the_rendered_scaled_objects() -> None:
    fleet = planned_fleet(MODEL, Plan("rm", "tiered", (DENSE, HOT, COLD)))
    hot = fleet.embedding[0]
    assert hot.queries[0] == Throughput("rm_tier0", "rm")
    assert [type(query) for query in hot.queries] == [Throughput, QueueTime]
    asked = Decimal(round(THROUGHPUT_SHARE * HOT.qps)) * 1000
    assert hot.hpa.targets[0] == MetricTarget("AverageValue", int(asked))
    behavior = hot.hpa.behavior
    assert behavior is not None and behavior.down.window_s == DOWN_WINDOW_S
    assert {policy.period_s for policy in behavior.up.policies} == {UP_PERIOD_S}
    assert hot.read_every_s == SYNC_S  # the triggers do not say useCachedMetrics
    assert hot.hpa.min_replicas == 1 < hot.hpa.max_replicas
