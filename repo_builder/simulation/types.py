"""What a simulation takes and gives: fleets, how fast pods start, and what happened."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from repo_builder.scaling.hpa import SYNC_S, Autoscaler
from repo_builder.simulation.rules import Rule

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class SimulatedService:
    """A service as its scaling sees it: of one replica the most queries a second, an idle query's time, the memory.

    `load_bytes` are read when a pod starts. `rules` are what the autoscaler's targets are about, in their order; KEDA
    asks Prometheus `read_every_s`.
    """

    name: str
    capacity_qps: float
    alone_s: float
    memory_bytes: int
    load_bytes: int
    instances: int
    autoscaler: Autoscaler
    rules: tuple[Rule, ...]
    read_every_s: float = SYNC_S


@dataclass(frozen=True, slots=True)
class SimulatedFleet:
    """A front end and the embedding services that it asks, if any; a remote call of one adds `remote_s`."""

    name: str
    front: SimulatedService
    embedding: tuple[SimulatedService, ...]
    remote_s: float

    @property
    def services(self) -> tuple[SimulatedService, ...]:
        """All services, the front end last."""
        return (*self.embedding, self.front)

    @property
    def idle_s(self) -> float:
        """A query's latency when none waits."""
        remote = max((service.alone_s for service in self.embedding), default=0.0)
        return self.front.alone_s + (remote + self.remote_s if self.embedding else 0.0)


@dataclass(frozen=True, slots=True)
class Timing:
    """How fast pods start; the defaults are guesses, not measured.

    A pod serves `pod_start_s` after it is made, and what it loads later: scheduling, the container's and the server's
    start, a readiness probe and the clients' next DNS look-up; the image is on the node.
    """

    pod_start_s: float = 30.0
    load_bytes_per_s: float = 1e9

    def start_s(self, service: SimulatedService) -> float:
        """Seconds from a pod's creation until it serves."""
        return self.pod_start_s + service.load_bytes / self.load_bytes_per_s


DEFAULT_TIMING = Timing()


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
