"""SCALING.md: every query with its threshold and the reason for it, of the autoscaler and of the alerts."""

from __future__ import annotations

from collections.abc import Iterator

from k8s.alerts import alerts
from k8s.objects import KEDA, KUBERNETES
from k8s.options import Options
from k8s.scaling import DOWN_PERCENT, DOWN_WINDOW_S, FAILURES, UP_PERIOD_S
from k8s.server import load_s
from repo_builder.repository.built_fleet import Fleet, FleetService
from repo_builder.scaling.hpa import SYNC_S
from repo_builder.scaling.rules import DOUBLED_S, GROWTH, SCRAPE_S, WINDOW_S, Metrics, bounds, triggers
from repo_builder.words import count


def scaling_document(fleet: Fleet, options: Options) -> str:
    """The text, in Markdown."""
    return "\n".join(_lines(fleet, options)) + "\n"


def _lines(fleet: Fleet, options: Options) -> Iterator[str]:
    yield f"# How {fleet.model} scales"
    yield ""
    yield "Written by `elasticrec k8s`, beside the ScaledObjects that it explains. Of a service's rules the one that"
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


def _watching(fleet: Fleet, options: Options) -> Iterator[str]:
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


def _section(fleet: Fleet, service: FleetService, options: Options) -> Iterator[str]:
    limits = bounds(fleet, service, options.min_replicas)
    yield f"## {service.name}"
    yield ""
    yield (
        f"{limits.fewest} to {count(limits.most, 'pod')}, {limits.fallback} when blind; "
        f"a pod may take {load_s(service)} s to load {service.files_bytes:,} bytes."
    )
    for rule in triggers(fleet, service, Metrics(options.namespace), options.latency_share):
        yield ""
        yield f"**{rule.name}**: {rule.metric_type} {rule.threshold_text} {rule.unit}. {rule.reason}"
        yield ""
        yield "```promql"
        yield rule.query
        yield "```"
