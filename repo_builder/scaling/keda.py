"""What KEDA puts before the HPA: a typed ScaledObject, what a query's answer counts as, and the fallback.

Source: KEDA 2.20: apis/keda/v1alpha1, pkg/scalers/prometheus_scaler.go, pkg/fallback/fallback.go and
pkg/scaling/scale_handler.go. Pure: the caller asks Prometheus.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from repo_builder.scaling.hpa import HpaSpec, MetricTarget, Pods

FallbackBehavior = Literal["static", "currentReplicas", "currentReplicasIfHigher", "currentReplicasIfLower"]
POLLING_S = 30
"""KEDA's default."""


@dataclass(frozen=True, slots=True)
class Trigger:
    """A trigger of type prometheus: where to ask what; no answer is an error unless `ignore_null`. It may be nameless.

    With `cached`, KEDA asks every `polling_s` and hands the HPA the last answer; else it asks at each sync of the HPA.
    """

    name: str
    server: str
    query: str
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
    """What it scales, the HPA that KEDA makes of it, and for each of its targets the trigger."""

    name: str
    workload: str
    hpa: HpaSpec
    triggers: tuple[Trigger, ...]
    polling_s: int = POLLING_S
    fallback: Fallback | None = None


def answer_milli(trigger: Trigger, values: Sequence[float]) -> int | None:
    """What an instant query's values count as, in thousandths; None is a failure.

    One element or none may come. None, NaN and infinities are null: 0 with `ignore_null`, else a failure.
    """
    if len(values) > 1:
        return None
    if not values or not math.isfinite(values[0]):
        return 0 if trigger.ignore_null else None
    return int(values[0] * 1000)


def own_polls(polling_s: int, before_s: float, now_s: float) -> int:
    """How often KEDA asked for itself after one time, until another: at the multiples of its interval."""
    return int(now_s // polling_s - before_s // polling_s)


def with_fallback(
    fallback: Fallback | None, target: MetricTarget, pods: Pods, value_milli: int | None, failures: int, polls: int
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
