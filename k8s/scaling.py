"""How many pods of a service there are: its ScaledObject, what an eviction leaves, and SCALING.md, which says why."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from k8s.alerts import alerts
from k8s.objects import KEDA, KUBERNETES, Object, mebibytes, metadata, selector
from k8s.options import ManifestOptions
from k8s.pods import load_s
from repo_builder.repository.built_fleet import BuiltFleet, BuiltService
from repo_builder.scaling import rules
from repo_builder.scaling.hpa import SYNC_S, Behavior, ScalingRules
from repo_builder.scaling.keda import POLLING_S, ScaledObject
from repo_builder.scaling.queries import SCRAPE_S, WINDOW_S, Scope
from repo_builder.scaling.rules import DOUBLED_S, DOWN_PERCENT, DOWN_WINDOW_S, FAILURES, GROWTH, UP_PERIOD_S
from repo_builder.words import count


def scaled_object(fleet: BuiltFleet, service: BuiltService, options: ManifestOptions) -> Object:
    """KEDA's ScaledObject of a service."""
    scaled = rules.scaled_object(fleet, service, options.scaling)
    return {
        "apiVersion": "keda.sh/v1alpha1",
        "kind": "ScaledObject",
        "metadata": metadata(scaled.name, options.namespace, selector(fleet, service)),
        "spec": scaled_object_spec(scaled),
    }


def scaled_object_spec(scaled: ScaledObject) -> Mapping[str, Any]:
    """The `spec` of a ScaledObject, as `scaling.edited` reads it back; what is KEDA's default is left out."""
    spec: dict[str, Any] = {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": scaled.workload},
        "minReplicaCount": scaled.hpa.min_replicas,
        "maxReplicaCount": scaled.hpa.max_replicas,
    }
    if scaled.polling_s != POLLING_S:
        spec["pollingInterval"] = scaled.polling_s
    if fallback := scaled.fallback:
        spec["fallback"] = {
            "failureThreshold": fallback.failure_threshold,
            "replicas": fallback.replicas,
            "behavior": fallback.behavior,
        }
    if scaled.hpa.behavior:
        spec["advanced"] = {"horizontalPodAutoscalerConfig": {"behavior": _behavior(scaled.hpa.behavior)}}
    spec["triggers"] = list(_triggers(scaled))
    return spec


def _behavior(behavior: Behavior) -> Mapping[str, Any]:
    return {"scaleUp": _direction(behavior.up), "scaleDown": _direction(behavior.down)}


def _direction(direction: ScalingRules) -> Mapping[str, Any]:
    """Of one policy alone there is nothing to select."""
    policies = [
        {"type": policy.kind, "value": policy.value, "periodSeconds": policy.period_s} for policy in direction.policies
    ]
    given: dict[str, Any] = {"stabilizationWindowSeconds": direction.window_s}
    if len(policies) > 1 or direction.select == "Disabled":
        given["selectPolicy"] = direction.select
    if direction.tolerance_ppm is not None:
        given["tolerance"] = f"{direction.tolerance_ppm / 1e6:.6f}"
    return {**given, "policies": policies}


def _triggers(scaled: ScaledObject) -> Iterator[Mapping[str, Any]]:
    for trigger, target in zip(scaled.triggers, scaled.hpa.targets, strict=True):
        entry: dict[str, Any] = {"type": "prometheus", "name": trigger.name, "metricType": target.kind}
        if trigger.cached:
            entry["useCachedMetrics"] = True
        entry["metadata"] = {
            "serverAddress": trigger.server,
            "query": trigger.query,
            "threshold": _threshold(target.threshold_milli),
            "ignoreNullValues": "true" if trigger.ignore_null else "false",
        }
        yield entry


def _threshold(threshold_milli: int) -> str:
    """A decimal: a whole number where it is one from 10 on."""
    whole = threshold_milli >= 10_000 and threshold_milli % 1000 == 0
    return str(threshold_milli // 1000) if whole else f"{threshold_milli / 1000:.3f}"


def disruption_budget(fleet: BuiltFleet, service: BuiltService, options: ManifestOptions) -> Object:
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


WRITTEN_BY = "Written by `elasticrec k8s`"
"""What the document says of whose it is, and with it the folder."""


def scaling_document(fleet: BuiltFleet, options: ManifestOptions) -> str:
    """The text, in Markdown."""
    return "\n".join(_lines(fleet, options)) + "\n"


def _lines(fleet: BuiltFleet, options: ManifestOptions) -> Iterator[str]:
    yield f"# How {fleet.model} scales"
    yield ""
    yield f"{WRITTEN_BY}, beside the ScaledObjects that it explains. Of a service's rules the one that"
    yield "asks for the most pods wins. An `AverageValue` is divided by the pods; a `Value` is a ratio by which the"
    yield "ready pods are multiplied, so its query is cut off at two thresholds."
    yield ""
    yield f"- **Up**: at once, at most twice the pods (or 4 more) in {UP_PERIOD_S} s. Rates are over {WINDOW_S} s,"
    yield f"  scraped every {SCRAPE_S} s: pods for doubled traffic are asked for within {DOUBLED_S} s; then they load."
    yield f"- **Down**: the most that was asked for in {DOWN_WINDOW_S} s, at most {DOWN_PERCENT}% of the pods a minute."
    yield "- **Blind** (Prometheus away, no pod scraped): what the plan's target traffic needs, or what runs if more,"
    yield f"  after {FAILURES + 1} failures in a row: 30 to 45 s; the HPA asks every {SYNC_S:.0f} s, KEDA each 30 s."
    yield f"- **At most** {GROWTH} times what the target traffic needs: a bound on cost; set your own in an overlay."
    yield f"- **Needs** Kubernetes {KUBERNETES} (native `preStop` sleep) and KEDA {KEDA}: `fallback.behavior` is of"
    yield "  2.17, and dropped silently before; a fallback for `Value` metrics is of 2.18. With less, an outage of"
    yield "  Prometheus would scale a busy fleet down. Before 2.19 KEDA's own polls do not count: 45 to 60 s."
    for service in fleet.services:
        yield ""
        yield from _section(fleet, service, options)
    yield ""
    yield from _watching(fleet, options)


def _watching(fleet: BuiltFleet, options: ManifestOptions) -> Iterator[str]:
    yield "## Watching it"
    yield ""
    yield "The dashboard goes from what clients notice (queries, latency beside the SLA, failures) to what is behind"
    yield "it: pods and memory, each model's queue and compute, the router's calls. Latency is the slowest front end's,"
    yield "since quantiles have no mean. Replicas and memory are of kube-state-metrics and the kubelet."
    yield ""
    yield "Prometheus's operator takes the PodMonitor and the PrometheusRule by its own selectors. Those of"
    yield "kube-prometheus-stack want the label `release`: set it in an overlay. Grafana's sidecar takes the dashboard"
    yield "by its label `grafana_dashboard`."
    for alert in alerts(fleet, options.namespace):
        yield ""
        yield f"**{alert.name}** ({alert.severity}, after {alert.minutes} min): {alert.reason}"
        yield ""
        yield "```promql"
        yield alert.expression
        yield "```"


def _section(fleet: BuiltFleet, service: BuiltService, options: ManifestOptions) -> Iterator[str]:
    limits = rules.replica_bounds(fleet, service, options.min_replicas)
    yield f"## {service.name}"
    yield ""
    yield (
        f"{limits.fewest} to {count(limits.most, 'pod')}, {limits.fallback} when blind; "
        f"a pod may take {load_s(service)} s to load {service.files_bytes:,} bytes. "
        f"It requests {mebibytes(service.memory_bytes)} of memory; its limit, {mebibytes(service.most_memory_bytes)}, "
        "counts as many queries under way as may be, of the spec's batch, and one of the largest."
    )
    for rule in rules.service_rules(fleet, service, options.latency_share):
        yield ""
        yield f"**{rule.name}**: {rule.kind} {_threshold(rule.target.threshold_milli)} {rule.unit}. {rule.reason}"
        yield ""
        yield "```promql"
        yield rule.query.promql(Scope(options.namespace))
        yield "```"
