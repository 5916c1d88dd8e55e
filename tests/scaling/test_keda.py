"""Reading ScaledObjects, and KEDA's fallback."""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import yaml

from repo_builder.errors import InputError
from repo_builder.scaling.hpa import (
    DEFAULT_DOWN,
    DEFAULT_UP,
    Autoscaler,
    Behavior,
    Pods,
    Policy,
    ScalingRules,
    State,
    Target,
    decide,
)
from repo_builder.scaling.keda import Fallback, Query, answer_milli, from_scaled_object, own_polls, with_fallback

FULL = yaml.safe_load(
    """
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
metadata: {name: rm1-tier0, labels: {app: rm1}}
spec:
  scaleTargetRef: {name: rm1-tier0-deployment}
  pollingInterval: 15
  cooldownPeriod: 300
  minReplicaCount: 2
  maxReplicaCount: 40
  fallback: {failureThreshold: 3, replicas: 6}
  advanced:
    horizontalPodAutoscalerConfig:
      behavior:
        scaleUp:
          policies: [{type: Percent, value: 300, periodSeconds: 30}]
          tolerance: "0.05"
        scaleDown: {stabilizationWindowSeconds: 120, selectPolicy: Min}
  triggers:
    - type: prometheus
      name: throughput
      metricType: AverageValue
      metadata: {serverAddress: "http://p:9090", query: sum(up), threshold: "650.5", ignoreNullValues: "false"}
    - type: prometheus
      metricType: Value
      useCachedMetrics: true
      metadata: {serverAddress: "http://p:9090", query: max(up), threshold: "260000"}
"""
)


def test_every_field_is_read() -> None:
    found = from_scaled_object(FULL, "so.yaml")
    assert (found.name, found.workload, found.polling_s) == ("rm1-tier0", "rm1-tier0-deployment", 15)
    assert found.fallback == Fallback(3, 6)
    assert found.queries == (
        Query("throughput", "http://p:9090", "sum(up)", ignore_null=False, cached=False),
        Query("", "http://p:9090", "max(up)", ignore_null=True, cached=True),
    )
    up = ScalingRules(0, (Policy("Percent", 300, 30),), tolerance_ppm=50_000)
    down = ScalingRules(120, DEFAULT_DOWN.policies, "Min")
    targets = (Target("AverageValue", 650_500), Target("Value", 260_000_000))
    assert found.autoscaler == Autoscaler(2, 40, targets, Behavior(up, down))


def test_defaults_are_those_of_keda_and_kubernetes() -> None:
    document = copy.deepcopy(FULL)
    for field in ("pollingInterval", "maxReplicaCount", "fallback", "advanced"):
        del document["spec"][field]
    del document["spec"]["triggers"][0]["metricType"]
    found = from_scaled_object(document, "so.yaml")
    assert (found.polling_s, found.fallback, found.autoscaler.max_replicas) == (30, None, 100)
    assert found.autoscaler.behavior is None  # the controller's fixed rules, not the filled-in defaults
    assert found.autoscaler.targets[0].kind == "AverageValue"


def test_one_direction_alone_gets_the_defaults_of_the_other() -> None:
    document = copy.deepcopy(FULL)
    del document["spec"]["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]["scaleUp"]
    behavior = from_scaled_object(document, "so.yaml").autoscaler.behavior
    assert behavior is not None and behavior.up == DEFAULT_UP


def test_an_empty_behaviour_is_filled_in_and_is_not_none() -> None:
    """Live: 1 -> 5 -> 10, by the defaults' 4 pods or 100% in 15 s; without a behaviour 4, 8."""
    document = copy.deepcopy(FULL)
    document["spec"]["advanced"]["horizontalPodAutoscalerConfig"]["behavior"] = {}
    autoscaler = from_scaled_object(document, "so.yaml").autoscaler
    assert autoscaler.behavior == Behavior()
    autoscaler, state, pods, seen = replace(autoscaler, min_replicas=1, targets=autoscaler.targets[:1]), State(), 1, []
    for i in range(2):
        decision, state = decide(autoscaler, state, Pods(pods, pods, pods), [30 * 650_500], 15.0 * i)
        pods = decision.replicas
        seen.append(pods)
    assert seen == [5, 10]


def setting(path: str, value: object) -> Callable[[Any], None]:
    def change(document: Any) -> None:
        *parents, last = (int(part) if part.isdigit() else part for part in path.split("."))
        for part in parents:
            document = document[part]
        document[last] = value

    return change


BEHAVIOR = "spec.advanced.horizontalPodAutoscalerConfig.behavior"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (setting("kind", "Deployment"), "kind: expected 'ScaledObject', got \"Deployment\""),
        (setting("spec.minReplicaCount", 0), "spec.minReplicaCount: expected at least 1, got 0"),
        (setting("spec.maxReplicaCount", 1), "maxReplicaCount: expected at least minReplicaCount = 2, got 1"),
        (setting("spec.idleReplicaCount", 0), "spec.idleReplicaCount: expected none"),
        (setting("spec.advanced.scalingModifiers", {"target": "2"}), "spec.advanced.scalingModifiers: expected none"),
        (setting("spec.triggers", []), "spec.triggers: expected at least 1 item, got []"),
        (setting("spec.triggers.0.type", "cpu"), "spec.triggers[0].type: expected 'prometheus'"),
        (setting("spec.triggers.0.metricType", "Utilization"), "triggers[0].metricType: expected one of"),
        (setting("spec.triggers.1.metadata.threshold", 5), "triggers[1].metadata.threshold: expected a string, got 5"),
        (setting("spec.triggers.1.metadata.threshold", "0"), "threshold: expected a number over 0"),
        (setting("spec.triggers.1.metadata.threshold", "1.0005"), "of at most 3 decimals, got '1.0005'"),
        (setting("spec.triggers.1.metadata.threshold", "1e999999"), "threshold: expected a number over 0"),
        (setting("spec.triggers.1.metadata.ignoreNullValues", False), "ignoreNullValues: expected one of true, false"),
        (setting("spec.fallback", {"replicas": 1}), "spec.fallback.failureThreshold: expected this field"),
        (setting(f"{BEHAVIOR}.scaleDown.policies", []), "scaleDown.policies: expected at least 1 item"),
        (setting(f"{BEHAVIOR}.scaleDown.selectPolicy", "Sum"), "scaleDown.selectPolicy: expected one of Max, Min"),
        (setting(f"{BEHAVIOR}.scaleUp.policies.0.periodSeconds", 1801), "periodSeconds: expected at most 1800"),
        (setting(f"{BEHAVIOR}.scaleUp.tolerance", "-1"), "scaleUp.tolerance: expected a number from 0 on"),
        (setting("spec.advanced", None), "spec.advanced: expected a mapping, got null"),
    ],
)
def test_what_is_wrong_or_not_followed_is_named(change: Callable[[Any], None], expected: str) -> None:
    document = copy.deepcopy(FULL)
    change(document)
    with pytest.raises(InputError) as caught:
        from_scaled_object(document, "so.yaml")
    (line,) = str(caught.value).splitlines()
    assert line.startswith("so.yaml: ") and expected in line


@pytest.mark.parametrize("document", [None, [], "text", 3, {}])
def test_what_is_no_object_at_all_is_refused(document: object) -> None:
    with pytest.raises(InputError, match=r"so\.yaml: "):
        from_scaled_object(document, "so.yaml")


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
    assert answer_milli(Query("n", "s", "q", ignore_null=True, cached=False), values) == ignoring
    assert answer_milli(Query("n", "s", "q", ignore_null=False, cached=False), values) == failing


@pytest.mark.parametrize("target", [Target("AverageValue", 650_500), Target("Value", 260_000_000)])
def test_the_fallback_makes_the_hpa_ask_for_its_replicas(target: Target) -> None:
    fallback, pods, failures, seen = Fallback(3, 7), Pods(4, 4, 3), 0, []
    for _ in range(5):
        value, failures = with_fallback(fallback, target, pods, None, failures, 0)
        decision, _ = decide(Autoscaler(1, 100, (target,), Behavior()), State(), pods, [value], 0)
        seen.append(decision.replicas)
    assert seen == [4, 4, 4, 7, 7]  # "more than failureThreshold consecutive times"
    assert with_fallback(fallback, target, pods, 5, failures, 1) == (5, 0)


def test_kedas_own_polls_count_as_failures_too() -> None:
    """Live, KEDA 2.20.2, with syncs 25 s and polls 30 s apart: beyond 3 after 45 s, not with the sync at 76 s."""
    fallback, target, pods, failures, seen = Fallback(3, 7), Target("AverageValue", 100_000), Pods(4, 4, 4), 0, []
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
    target = Target("AverageValue", 100_000)
    value, _ = with_fallback(Fallback(0, 7, behavior), target, Pods(4, 4, 4), None, 0, 0)
    assert value == expected * 100_000


def test_without_a_fallback_or_a_ready_pod_a_failure_stays_one() -> None:
    value = Target("Value", 100_000)
    assert with_fallback(None, value, Pods(4, 4, 4), None, 9, 0) == (None, 10)
    assert with_fallback(Fallback(0, 7), value, Pods(4, 4, 0), None, 0, 0) == (None, 1)
