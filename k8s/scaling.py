"""How many pods of a service there are: its ScaledObject, and what an eviction must leave."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from k8s.objects import Object, metadata, selector
from k8s.options import Options
from repo_builder.repository.built_fleet import Fleet, FleetService
from repo_builder.scaling.rules import Bounds, Metrics, Trigger, bounds, triggers

FAILURES = 3
"""Answers that Prometheus may fail to give in a row before the fallback.

The HPA asks every 15 s and KEDA itself every 30 s: the fourth fails 30 to 45 s after the first. Before KEDA 2.19 its
own polls did not count: 45 to 60 s.
"""

UP_PERIOD_S = 60
"""Pods at most double in it, the time that a latency's percentile looks back: one bad minute counts once."""

DOWN_WINDOW_S = 300
DOWN_PERCENT, DOWN_PERIOD_S = 25, 60
"""Pods that load tens of GB are given up slowly: the most of five minutes, and a quarter a minute."""


def scaled_object(fleet: Fleet, service: FleetService, options: Options) -> Object:
    """KEDA's ScaledObject of a service."""
    rules = triggers(fleet, service, Metrics(options.namespace), options.latency_share)
    limits = bounds(fleet, service, options.min_replicas)
    return {
        "apiVersion": "keda.sh/v1alpha1",
        "kind": "ScaledObject",
        "metadata": metadata(service.name, options.namespace, selector(fleet, service)),
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": service.name},
            "minReplicaCount": limits.fewest,
            "maxReplicaCount": limits.most,
            "fallback": _fallback(limits),
            "advanced": {"horizontalPodAutoscalerConfig": {"behavior": _behavior()}},
            "triggers": [_trigger(rule, options.prometheus) for rule in rules],
        },
    }


def _fallback(limits: Bounds) -> Mapping[str, Any]:
    """While Prometheus is away, what the target traffic needs, and never fewer than there are."""
    return {"failureThreshold": FAILURES, "replicas": limits.fallback, "behavior": "currentReplicasIfHigher"}


def _behavior() -> Mapping[str, Any]:
    return {
        "scaleUp": {
            "stabilizationWindowSeconds": 0,
            "selectPolicy": "Max",
            "policies": [
                {"type": "Percent", "value": 100, "periodSeconds": UP_PERIOD_S},
                {"type": "Pods", "value": 4, "periodSeconds": UP_PERIOD_S},
            ],
        },
        "scaleDown": {
            "stabilizationWindowSeconds": DOWN_WINDOW_S,
            "policies": [{"type": "Percent", "value": DOWN_PERCENT, "periodSeconds": DOWN_PERIOD_S}],
        },
    }


def _trigger(rule: Trigger, prometheus: str) -> Mapping[str, Any]:
    """No answer is an error, not a zero: a blind autoscaler must not scale down."""
    return {
        "type": "prometheus",
        "name": rule.name,
        "metricType": rule.metric_type,
        "metadata": {
            "serverAddress": prometheus,
            "query": rule.query,
            "threshold": rule.threshold_text,
            "ignoreNullValues": "false",
        },
    }


def disruption_budget(fleet: Fleet, service: FleetService, options: Options) -> Object:
    """Evictions take a tenth of the pods at once, rounded up: a drained node never waits for a service of one pod."""
    labels = selector(fleet, service)
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": metadata(service.name, options.namespace, labels),
        "spec": {
            "maxUnavailable": "10%",
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
            "selector": {"matchLabels": labels},
        },
    }
