"""Reading ScaledObjects that `elasticrec k8s` wrote, edited or not."""

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from k8s.options import ManifestOptions, parse_source
from k8s.render import write
from k8s.scaling import scaled_object_spec
from repo_builder.errors import InputError
from repo_builder.repository.built_fleet import BuiltFleet
from repo_builder.scaling.edited import load_rules, read_scaled_object
from repo_builder.scaling.hpa import (
    DEFAULT_DOWN,
    DEFAULT_UP,
    Behavior,
    HpaSpec,
    MetricTarget,
    Pods,
    Policy,
    ScalingRules,
    State,
    decide,
)
from repo_builder.scaling.keda import Fallback, ScaledObject, Trigger
from repo_builder.scaling.rules import ScalingOptions, fleet_rules
from tests.k8s.fleets import fleet

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
    found = read_scaled_object(FULL, "so.yaml")
    assert (found.name, found.workload, found.polling_s) == ("rm1-tier0", "rm1-tier0-deployment", 15)
    assert found.fallback == Fallback(3, 6)
    assert found.triggers == (
        Trigger("throughput", "http://p:9090", "sum(up)", ignore_null=False, cached=False),
        Trigger("", "http://p:9090", "max(up)", ignore_null=True, cached=True),
    )
    up = ScalingRules(0, (Policy("Percent", 300, 30),), tolerance_ppm=50_000)
    down = ScalingRules(120, DEFAULT_DOWN.policies, "Min")
    targets = (MetricTarget("AverageValue", 650_500), MetricTarget("Value", 260_000_000))
    assert found.hpa == HpaSpec(2, 40, targets, Behavior(up, down))


def test_defaults_are_those_of_keda_and_kubernetes() -> None:
    document = copy.deepcopy(FULL)
    for field in ("pollingInterval", "maxReplicaCount", "fallback", "advanced"):
        del document["spec"][field]
    del document["spec"]["triggers"][0]["metricType"]
    found = read_scaled_object(document, "so.yaml")
    assert (found.polling_s, found.fallback, found.hpa.max_replicas) == (30, None, 100)
    assert found.hpa.behavior is None  # the controller's fixed rules, not the filled-in defaults
    assert found.hpa.targets[0].kind == "AverageValue"


def test_one_direction_alone_gets_the_defaults_of_the_other() -> None:
    document = copy.deepcopy(FULL)
    del document["spec"]["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]["scaleUp"]
    behavior = read_scaled_object(document, "so.yaml").hpa.behavior
    assert behavior is not None and behavior.up == DEFAULT_UP


def test_an_empty_behaviour_is_filled_in_and_is_not_none() -> None:
    """Live: 1 -> 5 -> 10, by the defaults' 4 pods or 100% in 15 s; without a behaviour 4, 8."""
    document = copy.deepcopy(FULL)
    document["spec"]["advanced"]["horizontalPodAutoscalerConfig"]["behavior"] = {}
    autoscaler = read_scaled_object(document, "so.yaml").hpa
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
        read_scaled_object(document, "so.yaml")
    (line,) = str(caught.value).splitlines()
    assert line.startswith("so.yaml: ") and expected in line


@pytest.mark.parametrize("document", [None, [], "text", 3, {}])
def test_what_is_no_object_at_all_is_refused(document: object) -> None:
    with pytest.raises(InputError, match=r"so\.yaml: "):
        read_scaled_object(document, "so.yaml")


@pytest.fixture
def made(tmp_path: Path) -> BuiltFleet:
    return fleet(tmp_path / "fleet")


def rendered(made: BuiltFleet, target: Path, **choices: object) -> Path:
    write(made, ManifestOptions(parse_source("pvc:claim"), **choices), target)
    return target


def test_what_was_rendered_is_read_back_as_the_typed_rules(made: BuiltFleet, tmp_path: Path) -> None:
    choices = {"namespace": "elsewhere", "prometheus": "http://127.0.0.1:9", "min_replicas": 2, "latency_share": 0.333}
    rules = load_rules(made, rendered(made, tmp_path / "out", **choices))
    assert rules == fleet_rules(made, ScalingOptions(**choices))
    assert (rules.namespace, set(rules.by_service)) == ("elsewhere", {service.folder for service in made.services})
    asked = {trigger.server for rule in rules.by_service.values() for trigger in rule.triggers}
    assert asked == {"http://127.0.0.1:9"}


def test_every_service_has_the_rules_that_were_rendered(made: BuiltFleet, tmp_path: Path) -> None:
    objects = write(made, ManifestOptions(source=parse_source("pvc:claim")), tmp_path / "out")
    rules = load_rules(made, tmp_path / "out")
    for service in made.services:
        spec = objects[f"{service.name}-scaledobject.yaml"]["spec"]
        found = rules.by_service[service.folder]
        assert [trigger.query for trigger in found.triggers] == [t["metadata"]["query"] for t in spec["triggers"]]
        assert found.hpa.max_replicas == spec["maxReplicaCount"]


@pytest.mark.parametrize("behavior", [None, Behavior(), Behavior(down=ScalingRules(7, DEFAULT_UP.policies, "Min", 1))])
def test_every_typed_field_is_rendered(behavior: Behavior | None) -> None:
    targets = (MetricTarget("AverageValue", 650_500), MetricTarget("Value", 1), MetricTarget("Value", 10_000))
    triggers = tuple(
        Trigger(f"t{i}", "http://p:9090", "sum(up)", ignore_null=i == 0, cached=i == 1) for i in range(len(targets))
    )
    for fallback in (None, Fallback(5, 6, "currentReplicasIfLower")):
        typed = ScaledObject("name", "deployment", HpaSpec(2, 40, targets, behavior), triggers, 15, fallback)
        document = {
            "apiVersion": "keda.sh/v1alpha1",
            "kind": "ScaledObject",
            "metadata": {"name": "name"},
            "spec": scaled_object_spec(typed),
        }
        assert read_scaled_object(yaml.safe_load(yaml.safe_dump(document)), "so.yaml") == typed


def test_what_does_not_fit_the_fleet_is_named(made: BuiltFleet, tmp_path: Path) -> None:
    out = rendered(made, tmp_path / "out")
    path = out / "rm1-tier0-scaledobject.yaml"
    document = yaml.safe_load(path.read_text())
    path.unlink()
    with pytest.raises(InputError, match=r"expected .*-scaledobject.yaml for tier0, found none; run elasticrec k8s"):
        load_rules(made, out)
    document["spec"]["scaleTargetRef"]["name"] = "rm1-other"
    path.write_text(yaml.safe_dump(document))
    with pytest.raises(InputError, match=r"scaleTargetRef.name: expected one of .*, got 'rm1-other'"):
        load_rules(made, out)
    document["spec"]["scaleTargetRef"]["name"] = "rm1-tier0"
    document["metadata"]["namespace"] = "other"
    path.write_text(yaml.safe_dump(document))
    with pytest.raises(InputError, match=r"metadata.namespace: expected one in all files, got elasticrec, other"):
        load_rules(made, out)
    with pytest.raises(InputError, match=r"nowhere: expected"):
        load_rules(made, tmp_path / "nowhere")
