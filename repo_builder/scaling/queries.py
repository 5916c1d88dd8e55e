"""What the scaling rules ask Prometheus: typed queries, which PromQL over Triton's own metrics renders.

A query answers exactly one number while any pod is scraped, 0 without traffic, and nothing where none is: then KEDA
falls back. Durations are in us: KEDA passes three decimals on. Counters are cumulative, and per model: an ensemble
counts beside its steps, so every query names its models. The simulator answers the same queries of its own queues.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

WINDOW_S = 30
"""Over which rates are taken."""

SCRAPE_S = 2
"""Fifteen scrapes per window: where a pod starts or ends, Prometheus's `rate` is wrong by up to one scrape of its
traffic (it extrapolates), with two pods by a thirtieth of all traffic.
"""

QUANTILE = 0.95
LEAST_QPS = 0.001
"""What a mean is divided by at least."""

MAX_VALUE = 2
"""Thresholds at which a wait or a latency is cut off: it is no linear function of the pods, so it at most doubles them.
"""

GUARD_SHARE = 0.5
"""Of the thresholds of throughput and queue time: below both, a slow query is not the front end's own doing."""

NAMESPACE = "elasticrec"


@dataclass(frozen=True, slots=True)
class Scope:
    """Whose series a query selects, and over how many seconds rates are taken."""

    namespace: str = NAMESPACE
    window_s: int = WINDOW_S

    def success_rate(self, model: str) -> str:
        """Requests per second that succeeded, over all pods."""
        return f"sum(rate(nv_inference_request_success{select(self.namespace, model)}[{self.window_s}s]))"

    def pods(self, model: str) -> str:
        """Pods that are scraped."""
        return f"count(count by (instance) (nv_inference_request_success{select(self.namespace, model)}))"

    def queue_us(self, *models: str) -> str:
        """Mean microseconds that a request waited for an instance, of the model where it waited longest."""
        chosen = select(self.namespace, *models)
        waited = f"sum by (model) (rate(nv_inference_queue_duration_us{chosen}[{self.window_s}s]))"
        requests = f"sum by (model) (rate(nv_inference_request_success{chosen}[{self.window_s}s]))"
        return f"max({waited} / clamp_min({requests}, {LEAST_QPS}))"

    def router_wait_us(self, router: str, service: str) -> str:
        """Mean microseconds that a query waited in a front end's router for a replica of a service."""
        chosen = select(self.namespace, router, service=service)
        waited, queries = (
            f"sum(rate(elasticrec_remote_{counter}_total{chosen}[{self.window_s}s]))"
            for counter in ("wait_us", "queries")
        )
        return f"{waited} / clamp_min({queries}, {LEAST_QPS})"

    def latency_us(self, model: str) -> str:
        """The slowest pod's quantile of a request's microseconds, over some 60 s; 0 where there was no request.

        Triton says Nan then, which `>= 0` leaves out; the second half is 0 while any pod is scraped, and else nothing.
        """
        summary = f"nv_inference_request_summary_us{select(self.namespace, model, quantile=f'{QUANTILE:g}')}"
        return f"(max({summary} >= 0) or 0 * max(nv_inference_request_success{select(self.namespace, model)}))"


@dataclass(frozen=True, slots=True)
class Throughput:
    """Queries per second that a model answered; or those of the model `frontend`, if there is one and it had more."""

    model: str
    frontend: str | None = None

    def promql(self, scope: Scope) -> str:
        """The larger of two single numbers, or the one that there is."""
        own = scope.success_rate(self.model)
        if self.frontend is None:
            return own
        front = scope.success_rate(self.frontend)
        return f"({own} > {front}) or {front} or {own}"


@dataclass(frozen=True, slots=True)
class QueueTime:
    """The mean wait for an instance in us, of the model where it is longest; cut off at MAX_VALUE thresholds.

    asked_by: the router in whose front ends queries wait before that, and the service's name there.
    """

    models: tuple[str, ...]
    threshold_us: float
    asked_by: tuple[str, str] | None = None

    def promql(self, scope: Scope) -> str:
        """As Prometheus takes it."""
        waited = scope.queue_us(*self.models)
        if self.asked_by is not None:
            waited = f"({waited} + {scope.router_wait_us(*self.asked_by)}) or {waited}"
        return f"clamp_max({waited}, {MAX_VALUE * self.threshold_us:.0f})"


@dataclass(frozen=True, slots=True)
class GuardedLatency:
    """The slowest pod's latency in us, cut off at MAX_VALUE thresholds; 0 where the model is neither busy nor queued.

    It is busy with GUARD_SHARE of `throughput_qps` in a mean pod, and queued with that share of the queue's threshold.
    """

    model: str
    threshold_us: float
    throughput_qps: float
    queue: QueueTime

    def promql(self, scope: Scope) -> str:
        """The quantile, times 1 or 0."""
        latency = f"clamp_max({scope.latency_us(self.model)}, {MAX_VALUE * self.threshold_us:.0f})"
        busy = f"{scope.success_rate(self.model)} / {scope.pods(self.model)}"
        busy += f" >= bool {GUARD_SHARE * self.throughput_qps:.3f}"
        queued = f"{scope.queue_us(*self.queue.models)} >= bool {GUARD_SHARE * self.queue.threshold_us:.0f}"
        return f"{latency} * (({busy}) + ({queued}) > bool 0)"


Query = Throughput | QueueTime | GuardedLatency


def select(namespace: str, *models: str, **labels: str) -> str:
    """The selector of models' series in a namespace, with further labels' values."""
    operator = "=" if len(models) == 1 else "=~"
    wanted = [f'namespace="{namespace}"', f'model{operator}"{"|".join(models)}"']
    return "{" + ",".join([*wanted, *(f'{name}="{value}"' for name, value in labels.items())]) + "}"


def latency_flags() -> Sequence[str]:
    """What tritonserver must be told so that it has the quantiles: the rules' own, and what people look at beside it.

    Each has its error.
    """
    quantiles = f"0.5:0.05,{QUANTILE:g}:0.005,0.99:0.001"
    return ["--metrics-config=summary_latencies=true", f"--metrics-config=summary_quantiles={quantiles}"]
