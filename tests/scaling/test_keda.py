"""What KEDA makes of answers and failures."""

from typing import Any

import pytest

from repo_builder.scaling.hpa import Behavior, HpaSpec, MetricTarget, Pods, State, decide
from repo_builder.scaling.keda import Fallback, Trigger, answer_milli, own_polls, with_fallback


@pytest.mark.parametrize(
    ("values", "ignoring", "failing"),
    [
        ([12.3456], 12_345, 12_345),  # KEDA keeps thousandths
        ([], 0, None),
        ([float("nan")], 0, None),
        ([float("inf")], 0, None),
        ([1.0, 2.0], None, None),  # "query returned multiple elements"
    ],
)
def test_an_answer_is_one_number_or_a_failure(values: list[float], ignoring: int | None, failing: int | None) -> None:
    assert answer_milli(Trigger("n", "s", "q", ignore_null=True, cached=False), values) == ignoring
    assert answer_milli(Trigger("n", "s", "q", ignore_null=False, cached=False), values) == failing


@pytest.mark.parametrize("target", [MetricTarget("AverageValue", 650_500), MetricTarget("Value", 260_000_000)])
def test_the_fallback_makes_the_hpa_ask_for_its_replicas(target: MetricTarget) -> None:
    fallback, pods, failures, seen = Fallback(3, 7), Pods(4, 4, 3), 0, []
    for _ in range(5):
        value, failures = with_fallback(fallback, target, pods, None, failures, 0)
        decision, _ = decide(HpaSpec(1, 100, (target,), Behavior()), State(), pods, [value], 0)
        seen.append(decision.replicas)
    assert seen == [4, 4, 4, 7, 7]  # "more than failureThreshold consecutive times"
    assert with_fallback(fallback, target, pods, 5, failures, 1) == (5, 0)


def test_kedas_own_polls_count_as_failures_too() -> None:
    """Live, KEDA 2.20.2, with syncs 25 s and polls 30 s apart: beyond 3 after 45 s, not with the sync at 76 s."""
    fallback, target, pods, failures, seen = Fallback(3, 7), MetricTarget("AverageValue", 100_000), Pods(4, 4, 4), 0, []
    before_s = 1015.0
    for now_s in (1015.0, 1040.3, 1065.7, 1091.0):
        value, failures = with_fallback(fallback, target, pods, None, failures, own_polls(30, before_s, now_s))
        before_s = now_s
        seen.append((failures, value))
    assert seen == [(1, None), (3, None), (5, 700_000), (7, 700_000)]


@pytest.mark.parametrize(
    ("polling_s", "before_s", "now_s", "expected"), [(30, 0, 15, 0), (30, 15, 30, 1), (30, 29.9, 95, 3), (5, 0, 15, 3)]
)
def test_polls_come_at_the_interval(polling_s: int, before_s: float, now_s: float, expected: int) -> None:
    assert own_polls(polling_s, before_s, now_s) == expected


@pytest.mark.parametrize(
    ("behavior", "expected"),
    [("static", 7), ("currentReplicas", 4), ("currentReplicasIfHigher", 7), ("currentReplicasIfLower", 4)],
)
def test_fallback_behaviours(behavior: Any, expected: int) -> None:
    target = MetricTarget("AverageValue", 100_000)
    value, _ = with_fallback(Fallback(0, 7, behavior), target, Pods(4, 4, 4), None, 0, 0)
    assert value == expected * 100_000


def test_without_a_fallback_or_a_ready_pod_a_failure_stays_one() -> None:
    value = MetricTarget("Value", 100_000)
    assert with_fallback(None, value, Pods(4, 4, 4), None, 9, 0) == (None, 10)
    assert with_fallback(Fallback(0, 7), value, Pods(4, 4, 0), None, 0, 0) == (None, 1)
