"""ScaledObjects from files that `elasticrec k8s` wrote and somebody may have edited."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from repo_builder.documents import read_document, schema_problems
from repo_builder.errors import InputError
from repo_builder.repository.built_fleet import BuiltFleet
from repo_builder.scaling.hpa import DEFAULT_DOWN, DEFAULT_UP, Behavior, HpaSpec, MetricTarget, Policy, ScalingRules
from repo_builder.scaling.keda import POLLING_S, Fallback, ScaledObject, Trigger
from repo_builder.scaling.rules import FleetRules

PATTERN = "*-scaledobject.yaml"
_MAX_REPLICAS = 100  # KEDA's default
_LARGEST = 10**12  # of a threshold or tolerance: the HPA counts thousandths in 64 bits


def load_rules(fleet: BuiltFleet, folder: Path) -> FleetRules:
    """Read what `elasticrec k8s` wrote into `folder`, edited or not.

    Raises InputError where a file is wrong, a service has no ScaledObject or one too many, or namespaces differ.
    """
    services = {service.name: service.folder for service in fleet.services}
    found: dict[str, ScaledObject] = {}
    namespaces: set[str] = set()
    problems = []
    for path in sorted(folder.glob(PATTERN)):
        document: Any = read_document(path, InputError)
        rule = read_scaled_object(document, str(path))
        namespaces.add(document["metadata"].get("namespace", "default"))
        service = services.get(rule.workload)
        if service is None or service in found:
            expected = ", ".join(sorted(services.keys()))
            problems.append(
                f"{path}: spec.scaleTargetRef.name: expected one of {expected}, each once, got {rule.workload!r}; "
                "render it of this fleet: elasticrec k8s"
            )
        else:
            found[service] = rule
    missing = sorted(set(services.values()) - found.keys())
    if missing and not problems:
        problems.append(f"{folder}: expected {PATTERN} for {', '.join(missing)}, found none; run elasticrec k8s")
    if len(namespaces) > 1:
        problems.append(f"{folder}: metadata.namespace: expected one in all files, got {', '.join(sorted(namespaces))}")
    if problems:
        raise InputError(*problems)
    return FleetRules(namespaces.pop(), found)


def read_scaled_object(document: object, file: str) -> ScaledObject:
    """Read a ScaledObject (parsed YAML) with Prometheus triggers; KEDA's and Kubernetes' defaults are filled in.

    Raises InputError with one problem per line, `file` before each: a field that is missing or wrong, and what is not
    followed here: scaling to zero, other triggers, scaling modifiers.
    """
    problems = schema_problems(document, "scaledobject.schema.json")
    if not problems and isinstance(document, Mapping):
        problems = list(_further_problems(document["spec"]))
    if problems or not isinstance(document, Mapping):
        raise InputError(*(f"{file}: {problem}" for problem in problems))
    spec = document["spec"]
    fallback = spec.get("fallback")
    return ScaledObject(
        name=document["metadata"]["name"],
        workload=spec["scaleTargetRef"]["name"],
        hpa=HpaSpec(
            min_replicas=spec["minReplicaCount"],
            max_replicas=spec.get("maxReplicaCount", _MAX_REPLICAS),
            targets=tuple(_target(trigger) for trigger in spec["triggers"]),
            behavior=read_behavior(_given_behavior(spec)),
        ),
        triggers=tuple(_trigger(trigger) for trigger in spec["triggers"]),
        polling_s=spec.get("pollingInterval", POLLING_S),
        fallback=fallback
        and Fallback(fallback["failureThreshold"], fallback["replicas"], fallback.get("behavior", "static")),
    )


def _further_problems(spec: Mapping[str, Any]) -> Iterator[str]:
    """What the schema cannot say."""
    least, most = spec["minReplicaCount"], spec.get("maxReplicaCount", _MAX_REPLICAS)
    if least > most:
        yield f"spec.maxReplicaCount: expected at least minReplicaCount = {least}, got {most}"
    if "idleReplicaCount" in spec:
        yield "spec.idleReplicaCount: expected none, scaling to zero is not followed here; remove it"
    if "scalingModifiers" in spec.get("advanced", {}):
        yield "spec.advanced.scalingModifiers: expected none, they are not followed here; use triggers alone"
    for i, trigger in enumerate(spec["triggers"]):
        threshold = _decimal(trigger["metadata"]["threshold"])
        if threshold is None or threshold == 0 or threshold * 1000 % 1:
            got = trigger["metadata"]["threshold"]
            yield f"spec.triggers[{i}].metadata.threshold: expected a number over 0 of at most 3 decimals, got {got!r}"
    for direction in ("scaleUp", "scaleDown"):
        rules = (_given_behavior(spec) or {}).get(direction, {})
        if _decimal(rules.get("tolerance", 0)) is None:
            where = f"spec.advanced.horizontalPodAutoscalerConfig.behavior.{direction}.tolerance"
            yield f"{where}: expected a number from 0 on, such as '0.05', got {rules['tolerance']!r}"


def _decimal(value: object) -> Decimal | None:
    """A number that may stand as a text, as in KEDA's metadata and Kubernetes' quantities; None if it is none."""
    try:
        number = Decimal(str(value))
    except InvalidOperation:
        return None
    return number if number.is_finite() and 0 <= number <= _LARGEST else None


def _target(trigger: Mapping[str, Any]) -> MetricTarget:
    threshold = Decimal(trigger["metadata"]["threshold"])
    return MetricTarget(trigger.get("metricType", "AverageValue"), int(1000 * threshold))


def _trigger(trigger: Mapping[str, Any]) -> Trigger:
    metadata = trigger["metadata"]
    return Trigger(
        name=trigger.get("name", ""),
        server=metadata["serverAddress"],
        query=metadata["query"],
        ignore_null=metadata.get("ignoreNullValues", "true") == "true",
        cached=trigger.get("useCachedMetrics", False),
    )


def _given_behavior(spec: Mapping[str, Any]) -> Mapping[str, Any] | None:
    given: Mapping[str, Any] | None = spec.get("advanced", {}).get("horizontalPodAutoscalerConfig", {}).get("behavior")
    return given


def read_behavior(given: Mapping[str, Any] | None) -> Behavior | None:
    """A `behavior` with its defaults filled in, as an empty one is too; where there is none, none."""
    if given is None:
        return None
    return Behavior(_rules(given.get("scaleUp", {}), DEFAULT_UP), _rules(given.get("scaleDown", {}), DEFAULT_DOWN))


def _rules(given: Mapping[str, Any], default: ScalingRules) -> ScalingRules:
    policies = tuple(
        Policy(entry["type"], entry["value"], entry["periodSeconds"]) for entry in given.get("policies", ())
    )
    return ScalingRules(
        window_s=given.get("stabilizationWindowSeconds", default.window_s),
        policies=policies or default.policies,
        select=given.get("selectPolicy", "Max"),
        tolerance_ppm=round(Decimal(str(given["tolerance"])) * 1_000_000) if "tolerance" in given else None,
    )
