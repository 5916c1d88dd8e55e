"""What KEDA puts before the HPA: a ScaledObject's settings, what a query's answer counts as, and the fallback.

Source: KEDA 2.20: apis/keda/v1alpha1, pkg/scalers/prometheus_scaler.go, pkg/fallback/fallback.go and
pkg/scaling/scale_handler.go. Pure: the caller reads the files and asks Prometheus.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any, Literal

from repo_builder.documents import schema_problems
from repo_builder.errors import InputError
from repo_builder.scaling.hpa import DEFAULT_DOWN, DEFAULT_UP, Autoscaler, Behavior, Pods, Policy, ScalingRules, Target

FallbackBehavior = Literal["static", "currentReplicas", "currentReplicasIfHigher", "currentReplicasIfLower"]
_MAX_REPLICAS = 100  # KEDA's default
_LARGEST = 10**12  # of a threshold or tolerance: the HPA counts thousandths in 64 bits


@dataclass(frozen=True, slots=True)
class Query:
    """A Prometheus trigger: where to ask what; a null answer is an error unless `ignore_null`. It may have no name.

    With `cached`, KEDA asks every `polling_s` and hands the HPA the last answer; else it asks at each sync of the HPA.
    """

    name: str
    server: str
    text: str
    ignore_null: bool
    cached: bool


@dataclass(frozen=True, slots=True)
class Fallback:
    """The replicas to pretend that a metric asks for, once it failed more than `failure_threshold` times in a row."""

    failure_threshold: int
    replicas: int
    behavior: FallbackBehavior = "static"


@dataclass(frozen=True, slots=True)
class ScaledObject:
    """A ScaledObject: what it scales, the HPA that KEDA makes of it, and for each of its targets the query."""

    name: str
    workload: str
    autoscaler: Autoscaler
    queries: tuple[Query, ...]
    polling_s: int
    fallback: Fallback | None


def answer_milli(query: Query, values: Sequence[float]) -> int | None:
    """What an instant query's values count as, in thousandths; None is a failure.

    One element or none may come. None, NaN and infinities are null: 0 with `ignore_null`, else a failure.
    """
    if len(values) > 1:
        return None
    if not values or not math.isfinite(values[0]):
        return 0 if query.ignore_null else None
    return int(values[0] * 1000)


def own_polls(polling_s: int, before_s: float, now_s: float) -> int:
    """How often KEDA asked for itself after one time, until another: at the multiples of its interval."""
    return int(now_s // polling_s - before_s // polling_s)


def with_fallback(
    fallback: Fallback | None, target: Target, pods: Pods, value_milli: int | None, failures: int, polls: int
) -> tuple[int | None, int]:
    """What KEDA hands the HPA for one metric, and its failures in a row, `failures` before this request.

    A failure stands for the `own_polls` since the request before, too: from 2.19 on, KEDA counts both. After more than
    the threshold a failure becomes the value that makes the HPA ask for the fallback's replicas: for a Value target,
    which the HPA multiplies with the ready pods, there must be one.
    """
    if value_milli is not None:
        return value_milli, 0
    failures += 1 + polls
    if fallback is None or failures <= fallback.failure_threshold:
        return None, failures
    wanted = target.threshold_milli * _fallback_replicas(fallback, pods.wanted)
    if target.kind == "AverageValue":
        return wanted, failures
    return (wanted // pods.ready if pods.ready else None), failures


def _fallback_replicas(fallback: Fallback, current: int) -> int:
    return {
        "static": fallback.replicas,
        "currentReplicas": current,
        "currentReplicasIfHigher": max(current, fallback.replicas),
        "currentReplicasIfLower": min(current, fallback.replicas),
    }[fallback.behavior]


def from_scaled_object(document: object, file: str) -> ScaledObject:
    """Read a ScaledObject (parsed YAML) with Prometheus triggers; KEDA's and Kubernetes' defaults are filled in.

    Raises InputError with one problem a line, `file` before each: a field that is missing or wrong, and what is not
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
        autoscaler=Autoscaler(
            min_replicas=spec["minReplicaCount"],
            max_replicas=spec.get("maxReplicaCount", _MAX_REPLICAS),
            targets=tuple(_target(trigger) for trigger in spec["triggers"]),
            behavior=behavior(_given_behavior(spec)),
        ),
        queries=tuple(_query(trigger) for trigger in spec["triggers"]),
        polling_s=spec.get("pollingInterval", 30),
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


def _target(trigger: Mapping[str, Any]) -> Target:
    return Target(trigger.get("metricType", "AverageValue"), int(Decimal(trigger["metadata"]["threshold"]) * 1000))


def _query(trigger: Mapping[str, Any]) -> Query:
    metadata = trigger["metadata"]
    return Query(
        name=trigger.get("name", ""),
        server=metadata["serverAddress"],
        text=metadata["query"],
        ignore_null=metadata.get("ignoreNullValues", "true") == "true",
        cached=trigger.get("useCachedMetrics", False),
    )


def _given_behavior(spec: Mapping[str, Any]) -> Mapping[str, Any] | None:
    given: Mapping[str, Any] | None = spec.get("advanced", {}).get("horizontalPodAutoscalerConfig", {}).get("behavior")
    return given


def behavior(given: Mapping[str, Any] | None) -> Behavior | None:
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
