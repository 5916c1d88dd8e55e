"""Replicas added for the SLA: enough, the cheapest, and refusals."""

import random
from dataclasses import replace
from itertools import product

import pytest

from repo_builder.errors import PlanError
from repo_builder.partition.latency import predict_latency, quantile_s, queue_of
from repo_builder.partition.plan import Plan
from repo_builder.partition.planner import make_plan
from repo_builder.partition.sla import UNITS, meet_sla
from tests.partition.test_latency import HOTNESS, PROFILE, SPEC, plan_of


def sized(plan: Plan, *memory_bytes: int) -> Plan:
    """The plan with so many bytes a replica, in the order of its services."""
    services = [replace(each, memory_bytes=held) for each, held in zip(plan.services, memory_bytes, strict=True)]
    return replace(plan, services=tuple(services))


def with_added(plan: Plan, added: tuple[int, ...]) -> Plan:
    services = [replace(each, added=n) for each, n in zip(plan.services, added, strict=True)]
    return replace(plan, services=tuple(services))


def added_bytes(plan: Plan) -> int:
    return plan.deployed_memory_bytes - plan.memory_bytes


def least_bytes(plan: Plan, target_qps: float, sla_s: float, quantile: float, most: int) -> int | None:
    """The least bytes of up to `most` more of each with which the called services meet so high a quantile."""
    tries = (with_added(plan, added) for added in product(range(most + 1), repeat=len(plan.services)))
    for tried in sorted(tries, key=added_bytes):
        front, *called = (queue_of(service, PROFILE, target_qps) for service in tried.services)
        p95_s = quantile_s([front], 0.95) + PROFILE.remote_call_s + quantile_s(called, quantile)
        if p95_s <= sla_s * (1 - 4e-6):
            return added_bytes(tried)
    return None


def test_the_cheapest_replicas_are_added() -> None:
    """Against all ways to add a few: none is cheaper, but for what rounding to units may cost."""
    rng, added, several = random.Random(5), 0, 0
    for _ in range(24):
        target_qps = 900.0
        busy = [(1, target_qps * rng.choice([0.97, 0.99, 1.0, 1.02, 1.1])) for _ in range(rng.randint(1, 3))]
        plan = plan_of(*busy, dense_qps=target_qps * rng.choice([1.0, 1.05, 3.0]))
        plan = sized(plan, *(rng.choice([1, 3, 10, 1000]) for _ in plan.services))
        sla_ms = rng.uniform(4, 60)
        found = meet_sla(plan, PROFILE, target_qps, sla_ms)
        assert found.latency is not None and found.latency.p95_ms <= sla_ms
        units = UNITS - len(busy)
        most = max(4, *(service.added for service in found.services))
        looser, tighter = (
            least_bytes(plan, target_qps, sla_ms / 1000, q, most) for q in (0.95, 0.95 ** (units / UNITS))
        )
        assert looser is not None and looser <= added_bytes(found)
        assert tighter is None or added_bytes(found) <= tighter
        added += added_bytes(found) > 0
        several += sum(service.added > 0 for service in found.services) > 1
    assert added > 12 and several > 4


def test_they_are_added_where_they_are_cheap_and_not_where_queries_wait_longest() -> None:
    """Two services nearly full: with a replica more of the light one the heavy one may be as late as it is."""
    plan = sized(plan_of((1, 940.0), (1, 945.0), dense_qps=9000.0), 1, 10**9, 10)
    alone = predict_latency(plan_of((1, 940.0), dense_qps=9000.0), PROFILE, 900.0)
    met = meet_sla(plan, PROFILE, 900.0, alone.p95_ms * 1.001)
    assert [service.added for service in met.services] == [0, 0, 1]


def test_replicas_are_added_until_the_sla_is_met_and_not_one_more() -> None:
    plan = plan_of((1, 910.0), (1, 5000.0), dense_qps=5000.0)
    met = meet_sla(plan, PROFILE, 900.0, 30.0)
    assert [service.added > 0 for service in met.services] == [False, True, False]
    assert met.latency is not None and met.latency == predict_latency(met, PROFILE, 900.0)
    assert met.latency.p95_ms <= 30
    tier = met.services[1]
    fewer = replace(met, services=(met.services[0], replace(tier, added=tier.added - 1), met.services[2]))
    assert predict_latency(fewer, PROFILE, 900.0).p95_ms > 30
    assert (met.memory_bytes, met.deployed_memory_bytes) == (30, 30 + 10 * tier.added)


def test_a_plan_without_need_gets_none() -> None:
    assert not any(service.added for service in meet_sla(plan_of((2, 900.0)), PROFILE, 900.0, 400.0).services)


def test_the_recurrence_stays_as_it_is() -> None:
    """Cuts and `replicas` do not depend on the SLA; only `added` does."""
    loose = make_plan(replace(SPEC, serving=replace(SPEC.serving, sla_ms=1e6)), HOTNESS, PROFILE, "tiered", 3)
    tight = make_plan(replace(SPEC, serving=replace(SPEC.serving, sla_ms=20.0)), HOTNESS, PROFILE, "tiered", 3)
    assert [(s.shards, s.replicas) for s in loose.services] == [(s.shards, s.replicas) for s in tight.services]
    assert sum(s.added for s in tight.services) > sum(s.added for s in loose.services)


def test_an_sla_that_an_idle_fleet_misses_is_refused() -> None:
    spec = replace(SPEC, serving=replace(SPEC.serving, sla_ms=3.0))
    with pytest.raises(PlanError, match=r"serving.sla_ms: expected at least [\d.]+ ms, .* got 3; raise it"):
        make_plan(spec, HOTNESS, PROFILE, "tiered", 3)


def test_a_thousand_services_are_no_trouble() -> None:
    plan = plan_of(*[(1, 1000.0)] * 1000, dense_qps=5000.0)
    met = meet_sla(plan, PROFILE, 900.0, 60.0)
    assert met.latency is not None and met.latency.p95_ms <= 60
    assert 0 < sum(service.added for service in met.services) <= 1000
