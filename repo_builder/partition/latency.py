"""The end-to-end latency that a plan's fleet will show at its target traffic, queueing included.

A query goes to the front end (router and dense layers), which calls all embedding services at once and waits for the
slowest: latency = front end + one remote call + the largest of the embedding services' latencies. A service's latency
is its service time, plus the time of the queries that share its call, plus the wait in its queue.

A query waits with the probability `utilisation ** (sqrt(2 * (servers + 1)) - 1)`, exact for one server (Sakasegawa,
1977), and then as in heavy traffic: a queue's work in seconds is a reflected Brownian motion with the drift
`utilisation - 1` and the variance `service_s * (ca2 + cs2) / servers` per second (Harrison, "Brownian Motion and
Stochastic Flow Systems", 1985, section 1.8: its distribution at a time t after an empty start). For t -> infinity this
is the wait of M/M/c. Arrivals at a replica are taken as Poisson and service times as exponential (ca2 = cs2 = 1), which
errs on the slow side.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from scipy.special import log_ndtr, ndtr

from repo_builder.partition.cost import Profile
from repo_builder.partition.plan import Latency, Plan, Service

HORIZON_S = 60.0
"""How long the target traffic lasts before the autoscaler has answered a growing queue: a sync and a pod's start."""

_VARIABILITY = 2.0  # ca2 + cs2


@dataclass(frozen=True, slots=True)
class Queue:
    """A replica's queue: `servers` instances of `service_s` per query; `alone_s` is a query's time when idle."""

    utilisation: float
    service_s: float
    servers: int
    alone_s: float

    def within(self, seconds: float) -> float:
        """The probability that a query takes at most so long, `HORIZON_S` after an empty start."""
        wait = seconds - self.alone_s
        if wait < 0:
            return 0.0
        waits: float = min(1.0, self.utilisation ** (math.sqrt(2 * (self.servers + 1)) - 1))
        return 1 - waits * self._waits_longer(wait)

    def _waits_longer(self, wait_s: float) -> float:
        drift, variance = self.utilisation - 1, self.service_s * _VARIABILITY / self.servers
        spread = math.sqrt(variance * HORIZON_S)
        reflected = 2 * drift * wait_s / variance + float(log_ndtr((-wait_s - drift * HORIZON_S) / spread))
        return float(ndtr((drift * HORIZON_S - wait_s) / spread)) + math.exp(min(reflected, 0.0))


def predict_latency(plan: Plan, profile: Profile, target_qps: float) -> Latency:
    """The quantiles of a query's latency at `target_qps` queries per second.

    The front end's quantile and that of the slowest embedding service are added up, as if both were slow at once.
    """
    p50_ms, p95_ms, p99_ms = (_end_to_end_ms(plan, profile, target_qps, quantile) for quantile in (0.5, 0.95, 0.99))
    return Latency(p50_ms, p95_ms, p99_ms, idle_ms=1000 * idle_s(plan, profile))


def queue_latency(queue: Queue) -> Latency:
    """The quantiles of a query's latency where one queue is all that it waits in."""
    p50_ms, p95_ms, p99_ms = (1000 * quantile_s([queue], quantile) for quantile in (0.5, 0.95, 0.99))
    return Latency(p50_ms, p95_ms, p99_ms, idle_ms=1000 * queue.alone_s)


def _end_to_end_ms(plan: Plan, profile: Profile, target_qps: float, quantile: float) -> float:
    queues = {service.name: queue_of(service, profile, target_qps) for service in plan.services}
    called = [queues[service.name] for service in plan.embedding_services]
    front = [queues[service.name] for service in plan.services if service.kind == "dense"]
    return 1000 * (quantile_s(front, quantile) + profile.remote_call_s + quantile_s(called, quantile))


def idle_s(plan: Plan, profile: Profile) -> float:
    """Seconds of a query in an idle fleet."""
    called = max(alone_s(service, profile) for service in plan.embedding_services)
    front = sum(alone_s(service, profile) for service in plan.services if service.kind == "dense")
    return called + profile.remote_call_s + front


def queue_of(service: Service, profile: Profile, target_qps: float) -> Queue:
    """The queue of each of a service's replicas at so many queries per second of the fleet."""
    service_s = service.instances / service.qps
    utilisation = target_qps / (service.deployed * service.qps)
    query_s = alone_s(service, profile)
    if service.kind == "embedding" and profile.batching:
        others = min(1.0, utilisation) * (profile.batching.queries - 1)
        query_s += others * (service_s - profile.batching.call_s / profile.batching.queries)
    return Queue(utilisation, service_s, service.instances, query_s)


def alone_s(service: Service, profile: Profile) -> float:
    """Seconds of a query that finds an idle instance; what was measured of a call is the CPU's."""
    if service.kind == "embedding" and service.device == "cpu":
        return profile.alone_s(service.instances / service.qps)
    return service.instances / service.qps


def quantile_s(queues: Sequence[Queue], quantile: float) -> float:
    """The time within which all of these, independent of each other, answer with that probability."""

    alike = Counter(queues)  # a plan per table of a thousand tables alike has a thousand queues alike

    def within(seconds: float) -> float:
        return math.prod(queue.within(seconds) ** count for queue, count in alike.items())

    low = max(queue.alone_s for queue in queues)
    return low if within(low) >= quantile else _bisect(within, quantile, low)


def _bisect(rising: Callable[[float], float], level: float, low: float) -> float:
    high = 2 * low
    while rising(high) < level:
        low, high = high, 2 * high
    while high - low > 1e-6 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if rising(middle) < level else (low, middle)
    return high
