"""A fleet under traffic that changes, scaled by the HPA's own arithmetic: hours in seconds.

At each sync of the HPA (15 s) every service's metrics are read as Prometheus would have them, averaged over a window,
and `hpa.decide` answers. New pods serve once they have started and loaded their weights; pods taken away stop at once,
the starting ones first, as in Kubernetes.

In between the queries flow (`simulation_fluid`) in steps of a second: all embedding services get every query at once,
the front end (or the one service of a model-wise fleet) gets it when the slowest of them is done. Nobody gives up
waiting. Deterministic. Pods are counted, not kept one by one, so that the time does not grow with the replicas.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from repo_builder.scaling.hpa import SYNC_S
from repo_builder.simulation.pods import Workload, begin
from repo_builder.simulation.queues import STEP_S, served, waits_s
from repo_builder.simulation.rules import Counters, values_milli
from repo_builder.simulation.types import Floats, SimulatedFleet, Timeline, Timing
from repo_builder.traffic import Traffic


def simulate(fleet: SimulatedFleet, traffic: Traffic, timing: Timing, sla_s: float) -> Timeline:
    """Play the traffic; it begins as if its first rate had been there for long: scaled for it, nothing waiting."""
    steps, syncs = round(SYNC_S / STEP_S), math.ceil(traffic.end_s / SYNC_S)
    arrived = traffic.arrived(np.minimum(STEP_S * np.arange(syncs * steps + 1), traffic.end_s))
    workloads = [begin(service, traffic.rates_qps[0], timing) for service in fleet.services]
    counters = Counters.begin(len(workloads), traffic.rates_qps[0])
    done = np.zeros_like(arrived)  # by the front end, at the end of every step
    replicas, ready = np.zeros((2, syncs, len(workloads)), np.int64)
    qps = np.array([service.capacity_qps for service in fleet.services])
    for k in range(syncs):
        _sync(workloads, counters, k, fleet.idle_s)
        replicas[k] = [workload.wanted for workload in workloads]
        ready[k] = [workload.ready for workload in workloads]
        during = range(k * steps, (k + 1) * steps)
        capacity = np.array([workload.ready_in(during) for workload in workloads]).T * qps * STEP_S
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


def _sync(workloads: Sequence[Workload], counters: Counters, k: int, idle_s: float) -> None:
    """The k-th look of KEDA and the HPA at every workload."""
    step = k * round(SYNC_S / STEP_S)
    for workload in workloads:
        workload.arrive(step)
    samples = counters.samples([workload.ready for workload in workloads], idle_s)
    for workload, sample in zip(workloads, samples, strict=True):
        if k % max(1, round(workload.service.read_every_s / SYNC_S)) == 0:
            workload.values_milli = values_milli(workload.service.rules, sample)
        workload.sync(step, k * SYNC_S)


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
