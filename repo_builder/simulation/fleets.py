"""Fleets that can be simulated: a plan's services with their times and memory, under the rules that are rendered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from repo_builder.partition import latency
from repo_builder.partition.cost import Profile
from repo_builder.partition.plan import Plan, Service
from repo_builder.repository.built_fleet import FRONTEND
from repo_builder.scaling.hpa import SYNC_S, HpaSpec
from repo_builder.scaling.queries import Query
from repo_builder.scaling.rules import ScalingOptions, scaled_object, service_rules

MODEL_WISE = "model-wise"


@dataclass(frozen=True, slots=True)
class SimulatedModel:
    """What is the same for all its fleets. `target_qps` is the plan's: it bounds how far services may grow."""

    model: str
    sla_ms: float
    target_qps: float
    profile: Profile


@dataclass(frozen=True, slots=True)
class SimulatedService:
    """A service as its scaling sees it: of one replica the most queries per second, an idle query's time, the memory.

    `load_bytes` are read when a pod starts. `queries` are what the HPA's targets are about, in their order; KEDA asks
    Prometheus `read_every_s`.
    """

    name: str
    capacity_qps: float
    alone_s: float
    memory_bytes: int
    load_bytes: int
    instances: int
    hpa: HpaSpec
    queries: tuple[Query, ...]
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
class PlannedService:
    """A service as the rules want to see it, before anything is built."""

    name: str
    model: str
    steps: tuple[str, ...]
    planned: Service


def planned_fleet(model: SimulatedModel, plan: Plan) -> SimulatedFleet:
    """The plan's services, each scaling alone; the plan has one of kind dense, the front end."""
    services = sorted(plan.services, key=lambda service: service.kind != "dense")
    return _fleet(model, plan.grouping, {service: latency.alone_s(service, model.profile) for service in services})


def whole_fleet(model: SimulatedModel, whole: Service, alone_s: float) -> SimulatedFleet:
    """The whole model in every replica, `whole`; it scales by the rules of a front end."""
    return _fleet(model, MODEL_WISE, {replace(whole, kind="dense"): alone_s})


def _fleet(model: SimulatedModel, name: str, services: Mapping[Service, float]) -> SimulatedFleet:
    """A fleet of services and their times alone, the front end first."""
    front, *embedding = (_simulated(model, service, alone_s) for service, alone_s in services.items())
    return SimulatedFleet(name, front, tuple(embedding), model.profile.remote_call_s)


def _simulated(model: SimulatedModel, service: Service, alone_s: float) -> SimulatedService:
    """The service under the very ScaledObject that would be rendered for it."""
    served = model.model if service.kind == "dense" else f"{model.model}_{service.name}"
    part = PlannedService(FRONTEND if service.kind == "dense" else service.name, served, (served,), service)
    scaled = scaled_object(model, part, ScalingOptions())
    return SimulatedService(
        name=service.name,
        capacity_qps=service.qps,
        alone_s=alone_s,
        memory_bytes=service.memory_bytes,
        load_bytes=max(0, service.memory_bytes - model.profile.min_memory_bytes),
        instances=service.instances,
        hpa=scaled.hpa,
        queries=tuple(rule.query for rule in service_rules(model, part)),
        read_every_s=scaled.polling_s if all(trigger.cached for trigger in scaled.triggers) else SYNC_S,
    )
