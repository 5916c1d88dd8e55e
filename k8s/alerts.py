"""What should wake somebody: a PrometheusRule beside the PodMonitor."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from k8s.objects import Object, fleet_labels, metadata
from k8s.options import ManifestOptions
from k8s.pods import load_s
from k8s.series import FAILED_SHARE, Series
from repo_builder.repository.built_fleet import BuiltFleet
from repo_builder.scaling.queries import QUANTILE
from repo_builder.scaling.rules import FAILURES

Severity = Literal["critical", "warning"]
WINDOW = "5m"
PODS_MISSING_MIN = 15
"""Before pods that are not ready are told; twice what the largest service may take to load, where that is more."""

FAILED_REQUESTS = 2
"""Requests of the HPA to KEDA, in ten minutes, by which a fallback is known.

KEDA's metrics show no more of them: its own polls fail as well but are not counted there, and once it has fallen back a
failure is none any more.
"""


@dataclass(frozen=True, slots=True)
class Alert:
    """Fires where `expression` answers anything for `minutes`; `summary` names labels, `reason` says what it means."""

    name: str
    expression: str
    minutes: int
    severity: Severity
    summary: str
    reason: str


def alerts(fleet: BuiltFleet, namespace: str) -> Iterator[Alert]:
    """What clients notice first (critical), then what they soon will."""
    series = Series(fleet, namespace, WINDOW)
    yield Alert(
        "ElasticrecSlaMissed",
        f"{series.slowest_us()} > {fleet.sla_ms * 1000:.0f}",
        2,
        "critical",
        f"{fleet.model}: queries take longer than the SLA of {fleet.sla_ms:g} ms",
        f"The {QUANTILE:g} quantile of the slowest front end. The dashboard says where the time goes: a queue (more "
        "pods), remote calls (one slow service), or compute.",
    )
    yield Alert(
        "ElasticrecQueriesFail",
        f"{series.failed_share()} > {FAILED_SHARE}",
        2,
        "critical",
        f"{fleet.model}: more than {FAILED_SHARE:.0%} of the queries fail",
        "At the front ends: a shard that nobody serves, deadlines, or bad requests. Their logs name the cause.",
    )
    yield Alert(
        "ElasticrecNotScraped",
        series.unscraped(),
        2,
        "critical",
        "{{ $labels.model }}: Prometheus sees no pod of it",
        "No pod runs, or none can be scraped. The autoscaler is blind for this service: it falls back.",
    )
    yield Alert(
        "ElasticrecScalingFallback",
        f"{Series(fleet, namespace, '10m').scaling_errors()} >= {FAILED_REQUESTS}",
        0,
        "warning",
        "{{ $labels.scaledObject }}: KEDA has no answer for {{ $labels.scaler }} and falls back",
        f"{FAILED_REQUESTS} failed requests in ten minutes; after {FAILURES} failures in a row, its own polls among "
        "them, KEDA falls back and counts no more, so the alert ends while that may go on: the ScaledObject's "
        "condition Fallback says so. An outage of Prometheus itself needs a watchdog outside of it.",
    )
    yield Alert(
        "ElasticrecAtMaxReplicas",
        f"{series.wanted_pods()} >= {series.most_pods()}",
        10,
        "warning",
        "{{ $labels.deployment }}: as many pods as it may have",
        "More traffic will be slower traffic. Raise maxReplicaCount in an overlay, or plan for more.",
    )
    yield Alert(
        "ElasticrecPodsMissing",
        f"{series.ready_pods()} < {series.specified_pods()}",
        max(PODS_MISSING_MIN, math.ceil(2 * max(load_s(each) for each in fleet.services) / 60)),
        "warning",
        "{{ $labels.deployment }}: {{ $value }} pods are ready, and more are wanted",
        "For longer than loading takes: no node has room, an image cannot be pulled, or a pod dies again and again.",
    )
    yield from _of_router(series, fleet)


def _of_router(series: Series, fleet: BuiltFleet) -> Iterator[Alert]:
    yield Alert(
        "ElasticrecReplicaSetAside",
        f"{series.set_aside()} > 0",
        2,
        "warning",
        "{{ $labels.service }}: {{ $value }} of its replicas are set aside",
        "A front end does not ask them, since they do not answer, or answered wrongly. Look at their logs, then delete "
        "the pods.",
    )
    yield Alert(
        "ElasticrecRemoteCallsFail",
        f"{series.remote_failed_share()} > {FAILED_SHARE}",
        5,
        "warning",
        f"{{{{ $labels.service }}}}: more than {FAILED_SHARE:.0%} of the calls of it fail",
        "Clients may not notice yet: a call that fails is sent to another replica.",
    )
    yield Alert(
        "ElasticrecAnswersDegraded",
        f"{series.degraded_per_s()} > 0",
        1,
        "warning",
        "{{ $labels.service }}: queries are scored without it",
        "As the spec's `missing_shard: degrade` allows. The scores are worse than they should be.",
    )
    yield Alert(
        "ElasticrecOverloaded",
        f"{series.overloaded_per_s()} > 0",
        2,
        "warning",
        f"{fleet.model}: front ends refuse queries",
        "More than `max_in_flight` are under way at one of them: too few front ends, or a slow embedding service.",
    )


def prometheus_rule(fleet: BuiltFleet, options: ManifestOptions) -> Object:
    """The alerts as Prometheus's operator takes them."""
    labels = fleet_labels(fleet)
    name = labels["app.kubernetes.io/instance"]
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": metadata(name, options.namespace, labels),
        "spec": {
            "groups": [
                {
                    "name": f"elasticrec-{options.namespace}-{name}",
                    "rules": [_rule(alert, fleet) for alert in alerts(fleet, options.namespace)],
                }
            ]
        },
    }


def _rule(alert: Alert, fleet: BuiltFleet) -> Mapping[str, Any]:
    return {
        "alert": alert.name,
        "expr": alert.expression,
        "for": f"{alert.minutes}m",
        "labels": {"severity": alert.severity, "fleet": fleet.model},
        "annotations": {"summary": alert.summary, "description": alert.reason},
    }
