"""Thresholds, bounds and the arithmetic of a doubling; the queries themselves meet a real Prometheus elsewhere."""

import math
from fractions import Fraction
from itertools import product
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k8s.scaling import scaled_object_spec
from repo_builder.scaling.hpa import MetricTarget
from repo_builder.scaling.queries import SCRAPE_S, WINDOW_S, Scope
from repo_builder.scaling.rules import (
    DOUBLED_S,
    THROUGHPUT_SHARE,
    Rule,
    ScalingOptions,
    replica_bounds,
    scaled_object,
    service_rules,
    threshold_milli,
)
from tests.k8s.fleets import Made, fleet

SYNC_S = 15  # of Kubernetes' HPA


def by_name(rules: tuple[Rule, ...]) -> dict[str, Rule]:
    return {rule.name: rule for rule in rules}


def test_an_embedding_service_scales_on_its_share_of_the_planned_queries(tmp_path: Path) -> None:
    made = fleet(tmp_path)
    rules = by_name(service_rules(made, made.shards[0]))
    assert list(rules) == ["throughput", "queue"]
    assert rules["throughput"].target == MetricTarget("AverageValue", 520_000)
    assert "800 queries/s" in rules["throughput"].reason


@pytest.mark.parametrize(("share", "threshold_us"), [(0.65, 260_000), (0.5, 200_000)])
def test_the_front_end_scales_on_latency_first(share: float, threshold_us: int, tmp_path: Path) -> None:
    made = fleet(tmp_path)
    rules = by_name(service_rules(made, made.frontend, share))
    assert list(rules) == ["latency", "throughput", "queue"]
    assert rules["latency"].target == MetricTarget("Value", 1000 * threshold_us)
    assert rules["throughput"].target.threshold_milli == 1000 * round(0.65 * 1500)


@pytest.mark.parametrize(
    ("qps", "instances", "threshold_us"),
    [(800, 1, 40_000), (10, 1, 0.65 / 0.35 * 100_000), (10, 2, 0.65 / 0.35 * 200_000)],
)
def test_a_queue_must_be_longer_than_usual(qps: float, instances: int, threshold_us: float, tmp_path: Path) -> None:
    """A tenth of the SLA; but of service times of 100 ms, 65% load alone makes requests wait longer (M/M/1)."""
    made = fleet(tmp_path, Made(qps=qps, instances=instances))
    rule = by_name(service_rules(made, made.shards[0]))["queue"]
    assert rule.threshold == pytest.approx(threshold_us)
    assert rule.kind == "Value"
    assert rule.query.promql(Scope("ns")).endswith(f", {2 * threshold_us:.0f})")  # cut off: it at most doubles the pods


@pytest.mark.parametrize(("qps", "text"), [(15.5, "10"), (15.3, "9.945"), (1.0, "0.650"), (1e-9, "0.001")])
def test_a_threshold_is_a_number_that_keda_takes(qps: float, text: str, tmp_path: Path) -> None:
    made = fleet(tmp_path, Made(qps=qps))
    spec = scaled_object_spec(scaled_object(made, made.shards[0], ScalingOptions()))
    assert spec["triggers"][0]["metadata"]["threshold"] == text


@given(st.floats(1e-9, 1e12))
def test_a_threshold_has_three_decimals_or_is_a_whole_number_from_10_on(threshold: float) -> None:
    told = Fraction(threshold_milli(threshold), 1000)
    assert told >= Fraction(1, 1000) and (threshold < 10 or told.denominator == 1)
    half = Fraction(1, 2) if threshold >= 10 else Fraction(1, 2000)
    assert abs(told - Fraction(threshold)) <= half or told == Fraction(1, 1000) > threshold


@pytest.mark.parametrize(
    ("target_qps", "fewest", "expected"), [(2000.0, 1, (1, 16, 4)), (None, 1, (1, 20, 5)), (1.0, 2, (2, 12, 3))]
)
def test_bounds(target_qps: float | None, fewest: int, expected: tuple[int, int, int], tmp_path: Path) -> None:
    """2000 queries/s need ceil(2000 / 520) = 4 pods, 3 x 800 of a plan without a target 5; 3 are the plan's own."""
    made = fleet(tmp_path, Made(target_qps=target_qps))
    limits = replica_bounds(made, made.shards[0], fewest)
    assert (limits.fewest, limits.most, limits.fallback) == expected


@pytest.mark.parametrize("pods", [1, 2, 3, 7, 40])
def test_doubled_traffic_is_answered_within_the_time_that_we_name(pods: int) -> None:
    """Whatever the phases of scrapes and of the HPA's syncs, which alone ask: pods for it are asked for by then.

    A rate over the window grows linearly while the window passes over the step; the newest scrape may be old.
    """
    assert DOUBLED_S == 26
    share = Fraction(THROUGHPUT_SHARE).limit_denominator(1000)
    before = share * pods  # in capacities of a pod: the most that asks for no more pods
    for sync_phase_s, scrape_phase_s in product(range(1, SYNC_S + 1), range(SCRAPE_S)):
        answered_s = None
        for at_s in range(sync_phase_s, DOUBLED_S + 1, SYNC_S):
            scraped_s = max(0, at_s - scrape_phase_s)
            seen = before * (1 + min(Fraction(1), Fraction(scraped_s, WINDOW_S)))
            if math.ceil(seen / share) >= 2 * before:
                answered_s = at_s
                break
        assert answered_s is not None, (sync_phase_s, scrape_phase_s)
