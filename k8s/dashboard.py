"""A Grafana dashboard of the fleet, as a ConfigMap that Grafana's sidecar finds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from k8s.objects import Object, fleet_labels, metadata
from k8s.options import ManifestOptions
from k8s.series import FAILED_SHARE, Series
from repo_builder.repository.built_fleet import BuiltFleet

FOUND_BY = {"grafana_dashboard": "1"}
"""The label that Grafana's sidecar looks for by default, as kube-prometheus-stack sets it up."""

_WINDOW = "$__rate_interval"  # Grafana's: it fits the scrapes and the width of the picture
_COLUMNS, _WIDTH, _HEIGHT = 3, 8, 8  # Grafana's grid is 24 wide
_SOURCE = {"type": "prometheus", "uid": "${datasource}"}


@dataclass(frozen=True, slots=True)
class DashboardPanel:
    """A picture: `lines` are (legend, expression); a line across it at `limit`, in red above, where there is one."""

    title: str
    unit: str
    lines: tuple[tuple[str, str], ...]
    text: str
    limit: float | None = None


def panels(fleet: BuiltFleet, namespace: str) -> Iterator[DashboardPanel]:
    """From what clients notice to what is behind it, three per row."""
    series = Series(fleet, namespace, _WINDOW)
    yield from _clients(fleet, series)
    yield from _pods(series)
    yield from _models(series)
    yield from _router(series)


def _clients(fleet: BuiltFleet, series: Series) -> Iterator[DashboardPanel]:
    answered = (("answered", series.queries_per_s()), ("failed: {{reason}}", series.failures_per_s()))
    yield DashboardPanel("Queries", "reqps", answered, "At the front ends.")
    text = "Of the slowest front end, over the last minute; the line is the SLA."
    yield DashboardPanel("Latency", "ms", (("p {{quantile}}", series.latency_ms()),), text, fleet.sla_ms)
    yield DashboardPanel(
        "Failed queries", "percentunit", (("failed", series.failed_share()),), "Of all queries.", FAILED_SHARE
    )


def _pods(series: Series) -> Iterator[DashboardPanel]:
    replicas = (("{{deployment}} wanted", series.wanted_pods()), ("{{deployment}} ready", series.ready_pods()))
    yield DashboardPanel("Replicas", "short", replicas, "What the HPA asks for, and what serves (kube-state-metrics).")
    share = f"{series.wanted_pods()} / {series.most_pods()}"
    yield DashboardPanel(
        "Replicas of the most allowed", "percentunit", (("{{deployment}}", share),), "At the line it cannot grow.", 1.0
    )
    memory = (("{{deployment}}", series.memory_bytes()), ("{{deployment}} limit", series.memory_limit_bytes()))
    yield DashboardPanel("Memory", "bytes", memory, "Of each service's fullest pod (kubelet, kube-state-metrics).")


def _models(series: Series) -> Iterator[DashboardPanel]:
    text = "A request's mean wait for an instance; the autoscaler adds pods where it grows."
    yield DashboardPanel("Queue time", "ms", (("{{model}}", series.queue_ms()),), text)
    yield DashboardPanel(
        "Compute time", "ms", (("{{model}}", series.compute_ms()),), "A request's mean time in an instance."
    )
    calls = (("{{model}}", series.calls_per_s()),)
    yield DashboardPanel("Requests by model", "reqps", calls, "The front ends join several queries in a call.")


def _router(series: Series) -> Iterator[DashboardPanel]:
    times = (("{{service}}", series.remote_ms()), ("{{service}} waits", series.remote_wait_ms()))
    text = "From a front end to a replica, and back; and how long queries wait in the router for one that is free."
    yield DashboardPanel("Remote calls", "ms", times, text)
    joined = (("{{service}}", series.queries_per_call()),)
    yield DashboardPanel("Queries per remote call", "short", joined, "Those that wait for a busy service go together.")
    trouble = (
        ("{{service}} {{reason}}", series.remote_failures_per_s()),
        ("{{service}} retried", series.retries_per_s()),
        ("{{service}} hedged", series.hedges_per_s()),
        ("{{service}} left out", series.degraded_per_s()),
        ("refused for overload", series.overloaded_per_s()),
    )
    yield DashboardPanel(
        "Failures, retries, hedges, degraded", "reqps", trouble, "At the front ends; all 0 when all is well."
    )
    aside = (("{{service}} set aside", series.set_aside()), ("{{model}} scraped", series.scraped_pods()))
    yield DashboardPanel("Replicas set aside, pods scraped", "short", aside, "Set aside: not asked, since they fail.")


def dashboard(fleet: BuiltFleet, options: ManifestOptions) -> Mapping[str, Any]:
    """Grafana's JSON model; the same input gives the same bytes."""
    identity = hashlib.sha256(f"{options.namespace}/{fleet.model}".encode()).hexdigest()[:16]
    return {
        "uid": f"elasticrec-{identity}",
        "title": f"{fleet.model} ({options.namespace})",
        "tags": ["elasticrec"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {
            "list": [{"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Prometheus"}]
        },
        "panels": [_panel(i, panel) for i, panel in enumerate(panels(fleet, options.namespace))],
    }


def _panel(index: int, panel: DashboardPanel) -> Mapping[str, Any]:
    steps: list[Mapping[str, Any]] = [{"color": "green", "value": None}]
    if panel.limit is not None:
        steps.append({"color": "red", "value": panel.limit})
    style = {"mode": "off" if panel.limit is None else "line"}
    return {
        "id": index + 1,
        "type": "timeseries",
        "title": panel.title,
        "description": panel.text,
        "datasource": _SOURCE,
        "gridPos": {
            "x": index % _COLUMNS * _WIDTH,
            "y": index // _COLUMNS * _HEIGHT,
            "w": _WIDTH,
            "h": _HEIGHT,
        },
        "fieldConfig": {
            "defaults": {
                "unit": panel.unit,
                "min": 0,
                "custom": {"lineWidth": 2, "fillOpacity": 0, "showPoints": "never", "thresholdsStyle": style},
                "thresholds": {"mode": "absolute", "steps": steps},
            },
            "overrides": [],
        },
        "options": {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
        "targets": list(_targets(panel.lines)),
    }


def _targets(lines: Sequence[tuple[str, str]]) -> Iterator[Mapping[str, Any]]:
    for letter, (legend, expression) in zip("ABCDEFGH", lines, strict=False):
        yield {"refId": letter, "datasource": _SOURCE, "expr": expression, "legendFormat": legend, "range": True}


def dashboard_config_map(fleet: BuiltFleet, options: ManifestOptions) -> Object:
    """The ConfigMap that holds it; the sidecar must look into this namespace, as kube-prometheus-stack's does."""
    labels = fleet_labels(fleet)
    name = f"{labels['app.kubernetes.io/instance']}-dashboard"
    text = json.dumps(dashboard(fleet, options), indent=1) + "\n"
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(name, options.namespace, {**labels, **FOUND_BY}),
        "data": {f"{name}.json": text},
    }
