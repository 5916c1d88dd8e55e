"""A fleet under traffic that changes, scaled by the HPA's own arithmetic: hours in seconds.

At each sync of the HPA (15 s) every service's metrics are read as Prometheus would have them, averaged over a window,
and `hpa.decide` answers. New pods serve once they have started and loaded their weights; pods taken away stop at once,
the starting ones first, as in Kubernetes.

In between the queries flow (`queues`) in steps of a second: all embedding services get every query at once,
the front end (or the one service of a model-wise fleet) gets it when the slowest of them is done. Nobody gives up
waiting. Deterministic. Pods are counted, not kept one by one, so that the time does not grow with the replicas.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from repo_builder.scaling.hpa import SYNC_S, Pods, State, decide
from repo_builder.simulation.fleets import SimulatedFleet, SimulatedService, Timing
from repo_builder.simulation.queues import STEP_S, Counters, Floats, answers_milli, served, waits_s
from repo_builder.traffic import Traffic

Counts = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Timeline:
    """What happened: entry k is of the `SYNC_S` seconds from `times_s[k]` on.

    times_s, arrived, missed  (k,)     seconds; queries that came, and of them those answered after the SLA or never
    replicas, ready           (k, n)   pods asked for, and of them those that serve, in the order of `fleet.services`
    """

    fleet: SimulatedFleet
    times_s: Floats
    arrived: Floats
    missed: Floats
    replicas: Counts
    ready: Counts

    @property
    def memory_bytes(self) -> Floats:
        """(k,) Memory of all pods, starting ones included: it is reserved when a pod is made."""
        return np.asarray(self.replicas @ np.array([float(s.memory_bytes) for s in self.fleet.services]))

    def by_service(self) -> Mapping[str, Counts]:
        """The replicas of each service over time, (k,) each."""
        return {service.name: self.replicas[:, i] for i, service in enumerate(self.fleet.services)}


def simulate(fleet: SimulatedFleet, traffic: Traffic, timing: Timing, sla_s: float) -> Timeline:
    """Play the traffic; it begins as if its first rate had been there for long: scaled for it, nothing waiting."""
    steps, syncs = round(SYNC_S / STEP_S), math.ceil(traffic.end_s / SYNC_S)
    arrived = traffic.arrived(np.minimum(STEP_S * np.arange(syncs * steps + 1), traffic.end_s))
    services = [_begin(service, traffic.rates_qps[0], timing) for service in fleet.services]
    counters = Counters.begin(len(services), traffic.rates_qps[0])
    done = np.zeros_like(arrived)  # by the front end, at the end of every step
    replicas, ready = np.zeros((2, syncs, len(services)), np.int64)
    qps = np.array([service.capacity_qps for service in fleet.services])
    for k in range(syncs):
        _sync(services, counters, k, fleet.idle_s)
        replicas[k] = [pods.wanted for pods in services]
        ready[k] = [pods.ready for pods in services]
        during = range(k * steps, (k + 1) * steps)
        capacity = np.array([pods.ready_in(during) for pods in services]).T * qps * STEP_S
        sent = arrived[during.start + 1 : during.stop + 1]
        came, gone = _flow(counters.done[-1], sent, capacity)
        counters.add(sent, came, gone)
        done[during.start + 1 : during.stop + 1] = gone[:, -1]
    waits = waits_s(arrived, done, float(capacity[-1].min()) / STEP_S)
    queries = np.diff(arrived)
    late = queries * (waits + fleet.idle_s > sla_s)
    return Timeline(
        fleet=fleet,
        times_s=SYNC_S * np.arange(syncs),
        arrived=queries.reshape(syncs, steps).sum(axis=1),
        missed=late.reshape(syncs, steps).sum(axis=1),
        replicas=replicas,
        ready=ready,
    )


def _sync(services: Sequence[SimulatedPods], counters: Counters, k: int, idle_s: float) -> None:
    """The k-th look of KEDA and the HPA at every service."""
    step = k * round(SYNC_S / STEP_S)
    for pods in services:
        pods.arrive(step)
    observed = counters.observe([pods.ready for pods in services], idle_s)
    for pods, seen in zip(services, observed, strict=True):
        if k % max(1, round(pods.service.read_every_s / SYNC_S)) == 0:
            pods.values_milli = answers_milli(pods.service.queries, seen)
        pods.sync(step, k * SYNC_S)


def _flow(before: Floats, sent: Floats, capacity: Floats) -> tuple[Floats, Floats]:
    """What came to and left each service at the end of every step, (s, n) each; the front end is the last.

    `before` (n,) had left when the steps began, `sent` (s,) the clients had sent at the end of each, and `capacity`
    (s, n) is the most that can leave in each.
    """
    came = np.repeat(sent[:, None], capacity.shape[1], axis=1)
    gone = np.empty_like(came)
    gone[:, :-1] = served(before[:-1], sent[:, None], capacity[:, :-1])
    if capacity.shape[1] > 1:
        came[:, -1] = gone[:, :-1].min(axis=1)
    gone[:, -1:] = served(before[-1:], came[:, -1:], capacity[:, -1:])
    return came, gone


@dataclass(slots=True)
class SimulatedPods:
    """A service's pods, and what its autoscaler remembers; `starting` are (step when ready, pods), soonest first.

    The one object of a simulation that changes; steps are of STEP_S seconds.
    """

    service: SimulatedService
    wanted: int
    start_steps: int
    ready: int = 0
    starting: list[tuple[int, int]] = field(default_factory=list)
    state: State = field(default_factory=State)
    values_milli: list[int | None] = field(default_factory=list)

    def arrive(self, step: int) -> None:
        """Count the pods that serve from this step on as ready."""
        while self.starting and self.starting[0][0] <= step:
            self.ready += self.starting.pop(0)[1]

    def sync(self, step: int, now_s: float) -> None:
        """What the HPA and the Deployment's controller do."""
        pods = Pods(self.wanted, self.wanted, self.ready)
        decision, self.state = decide(self.service.hpa, self.state, pods, self.values_milli, now_s)
        change = decision.replicas - self.wanted
        self.wanted = decision.replicas
        if change > 0:
            self.starting.append((step + self.start_steps, change))
        while change < 0 and self.starting:
            when, count = self.starting.pop()
            kept = max(0, count + change)
            change += count - kept
            if kept:
                self.starting.append((when, kept))
        self.ready += min(change, 0)

    def ready_in(self, steps: range) -> list[int]:
        """The pods that serve in each of the steps."""
        if not self.starting or self.starting[0][0] >= steps.stop:
            return [self.ready] * len(steps)
        counts = []
        for step in steps:
            self.arrive(step)
            counts.append(self.ready)
        return counts


def _begin(service: SimulatedService, rate_qps: float, timing: Timing) -> SimulatedPods:
    """Pods that have long served the rate: as many are ready as the rules ask for, and as it needs."""
    asked = [
        math.ceil(rate_qps * 1000 / target.threshold_milli)
        for target in service.hpa.targets
        if target.kind == "AverageValue"
    ]
    needed = max(math.ceil(rate_qps / service.capacity_qps), *asked, service.hpa.min_replicas)
    wanted = min(needed, service.hpa.max_replicas)
    return SimulatedPods(service, wanted, math.ceil(timing.start_s(service) / STEP_S), ready=wanted)
