"""The rules by which the services scale: Prometheus queries over Triton's own metrics, thresholds, and their reasons.

Two kinds of trigger, as Kubernetes' HPA reads them:

    AverageValue   a total over all pods; the HPA wants `ceil(total / threshold)` pods. It cannot run away.
    Value          a mean or a percentile; the HPA wants `ready pods * value / threshold`. Since latency is no linear
                   function of the pods, such a query is cut off at MAX_VALUE thresholds: it at most doubles the pods.

A query answers exactly one number while any pod is scraped, 0 without traffic, and nothing where none is: then KEDA
falls back. Durations are in us: KEDA passes three decimals on. Counters are cumulative, and per model: an ensemble
counts beside its steps, so every query names its models.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from repo_builder.repository.built_fleet import Fleet, FleetService
from repo_builder.scaling.hpa import SYNC_S

WINDOW_S = 30
"""Over which rates are taken."""

SCRAPE_S = 2
"""Fifteen scrapes a window: where a pod starts or ends, Prometheus's `rate` is wrong by up to one scrape of that pod's
traffic (it extrapolates), with two pods by a thirtieth of all traffic.
"""

QUANTILE = 0.95
THROUGHPUT_SHARE = 0.65
"""Of the planned capacity, at which pods are added.

Traffic that doubles asks for 1.3 times the capacity: the HPA sees it as soon as 30% of the window lie after the step.
"""

DOUBLED_S = round((2 * THROUGHPUT_SHARE - 1) * WINDOW_S + SCRAPE_S + SYNC_S)
"""Within which pods for doubled traffic are asked for: that part of the window, a scrape and a sync of the HPA.

KEDA asks Prometheus whenever the HPA asks it: its own polling interval does not matter.
"""

LATENCY_SHARE = 0.65
"""Of the SLA, at which pods are added (ElasticRec, ISCA 2024, section IV-D)."""

QUEUE_SHARE = 0.1
"""Of the SLA, that a request may wait for an instance."""

GUARD_SHARE = 0.5
"""Of the thresholds of throughput and queue time: below both, a slow query is not the front end's own doing."""

MAX_VALUE = 2

MetricType = Literal["AverageValue", "Value"]


@dataclass(frozen=True, slots=True)
class Trigger:
    """A rule: scale where `query` goes beyond `threshold`, in `unit`; `reason` says why there."""

    name: str
    query: str
    threshold: float
    unit: str
    metric_type: MetricType
    reason: str

    @property
    def threshold_text(self) -> str:
        """The threshold as KEDA takes it: a whole number from 10 on, since its fallback counts in whole ones."""
        return f"{self.threshold:.0f}" if self.threshold >= 10 else f"{max(self.threshold, 0.001):.3f}"


def select(namespace: str, *models: str, **labels: str) -> str:
    """The selector of models' series in a namespace, with further labels' values."""
    operator = "=" if len(models) == 1 else "=~"
    wanted = [f'namespace="{namespace}"', f'model{operator}"{"|".join(models)}"']
    return "{" + ",".join([*wanted, *(f'{name}="{value}"' for name, value in labels.items())]) + "}"


@dataclass(frozen=True, slots=True)
class Metrics:
    """Queries for the models of a namespace, over a window."""

    namespace: str
    window_s: int = WINDOW_S

    def success_rate(self, model: str) -> str:
        """Requests a second that succeeded, over all pods."""
        return f"sum(rate(nv_inference_request_success{select(self.namespace, model)}[{self.window_s}s]))"

    @staticmethod
    def larger(first: str, second: str) -> str:
        """The larger of two single numbers, or the one that there is."""
        return f"({first} > {second}) or {second} or {first}"

    def pods(self, model: str) -> str:
        """Pods that are scraped."""
        return f"count(count by (instance) (nv_inference_request_success{select(self.namespace, model)}))"

    def queue_us(self, *models: str) -> str:
        """Mean microseconds that a request waited for an instance, of the model where it waited longest."""
        chosen = select(self.namespace, *models)
        waited = f"sum by (model) (rate(nv_inference_queue_duration_us{chosen}[{self.window_s}s]))"
        requests = f"sum by (model) (rate(nv_inference_request_success{chosen}[{self.window_s}s]))"
        return f"max({waited} / clamp_min({requests}, 0.001))"

    def latency_us(self, model: str) -> str:
        """The slowest pod's quantile of a request's microseconds, over some 60 s; 0 where there was no request.

        Triton says Nan then, which `>= 0` leaves out; the second half is 0 while any pod is scraped, and else nothing.
        """
        summary = f"nv_inference_request_summary_us{select(self.namespace, model, quantile=f'{QUANTILE:g}')}"
        return f"(max({summary} >= 0) or 0 * max(nv_inference_request_success{select(self.namespace, model)}))"


def triggers(
    fleet: Fleet, service: FleetService, metrics: Metrics, latency_share: float = LATENCY_SHARE
) -> tuple[Trigger, ...]:
    """The rules of a service: throughput and queue time; for the front end also, and first, latency."""
    throughput, queue = _throughput(fleet, service, metrics), _queue(fleet, service, metrics)
    if not service.is_frontend:
        return throughput, queue
    return _latency(fleet, metrics, latency_share, throughput, queue), throughput, queue


def _throughput(fleet: Fleet, service: FleetService, metrics: Metrics) -> Trigger:
    """Queries a second: the plan's unit. One call of an embedding service may carry several."""
    capacity_qps = service.planned.qps
    query, why = metrics.success_rate(service.model), ""
    if not service.is_frontend:
        query = metrics.larger(query, metrics.success_rate(fleet.model))
        why = " Queries are counted at the front end, which joins several in a call, or as calls if these are more."
    return Trigger(
        "throughput",
        query,
        THROUGHPUT_SHARE * capacity_qps,
        "queries/s a pod",
        "AverageValue",
        f"{THROUGHPUT_SHARE:.0%} of the {capacity_qps:,.0f} queries/s that the plan gives one pod. A rate of successes "
        "cannot pass the capacity, so the threshold must lie well below; the rest carries what traffic grows by "
        f"while new pods load.{why}",
    )


def _queue(fleet: Fleet, service: FleetService, metrics: Metrics) -> Trigger:
    """At least what requests wait when all is well: at a load p, p / (1 - p) service times (M/M/1, the worst case)."""
    sla_us, service_us = fleet.sla_ms * 1000, 1e6 * service.planned.instances / service.planned.qps
    usual_us = THROUGHPUT_SHARE / (1 - THROUGHPUT_SHARE) * service_us
    threshold_us = max(QUEUE_SHARE * sla_us, usual_us)
    return Trigger(
        "queue",
        f"clamp_max({metrics.queue_us(*service.steps)}, {MAX_VALUE * threshold_us:.0f})",
        threshold_us,
        "us",
        "Value",
        f"{QUEUE_SHARE:.0%} of the SLA of {fleet.sla_ms:g} ms, or the {usual_us:,.0f} us that a request waits at "
        f"{THROUGHPUT_SHARE:.0%} load if that is more. It guards against a plan that promises too much: pods that do "
        "less than planned never reach the throughput's threshold, but their queues grow.",
    )


def _latency(fleet: Fleet, metrics: Metrics, share: float, throughput: Trigger, queue: Trigger) -> Trigger:
    """The quantile, times 1 where the front end itself is busy or has a queue, else times 0."""
    frontend, threshold_us = fleet.frontend, share * fleet.sla_ms * 1000
    latency = f"clamp_max({metrics.latency_us(frontend.model)}, {MAX_VALUE * threshold_us:.0f})"
    busy = f"{metrics.success_rate(frontend.model)} / {metrics.pods(frontend.model)}"
    busy += f" >= bool {GUARD_SHARE * throughput.threshold:.3f}"
    queued = f"{metrics.queue_us(*frontend.steps)} >= bool {GUARD_SHARE * queue.threshold:.0f}"
    return Trigger(
        "latency",
        f"{latency} * (({busy}) + ({queued}) > bool 0)",
        threshold_us,
        "us",
        "Value",
        f"{share:.0%} of the SLA of {fleet.sla_ms:g} ms, for the {QUANTILE:g} quantile of the slowest pod. It "
        f"counts only where the front end has {GUARD_SHARE:.0%} of its throughput's or of its queue's threshold: what "
        "a slow embedding service or one huge query causes, more front ends would not cure.",
    )


@dataclass(frozen=True, slots=True)
class Bounds:
    """Replicas: the fewest, the most, and those to run while Prometheus does not answer."""

    fewest: int
    most: int
    fallback: int


GROWTH = 4
"""Times the plan's target traffic that a service may grow to: a bound on what a fault or an attack may cost."""


def bounds(fleet: Fleet, service: FleetService, fewest: int) -> Bounds:
    """Blind, a service runs what the plan's target traffic needs at the throughput's threshold."""
    planned = service.planned
    target_qps = fleet.target_qps if fleet.target_qps is not None else planned.replicas * planned.qps
    at_target = max(fewest, planned.deployed, math.ceil(target_qps / (THROUGHPUT_SHARE * planned.qps)))
    return Bounds(fewest, GROWTH * at_target, at_target)
