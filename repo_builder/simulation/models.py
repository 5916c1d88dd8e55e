"""From a plan to a fleet that can be simulated: the services' times and memory, and the rules that `k8s` renders."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from k8s.options import Options
from k8s.scaling import scaled_object
from k8s.source import Source
from repo_builder.partition import latency
from repo_builder.partition.cost import Profile
from repo_builder.partition.plan import Plan, Service
from repo_builder.repository.built_fleet import FRONTEND, Fleet, FleetService
from repo_builder.scaling.hpa import SYNC_S
from repo_builder.scaling.keda import from_scaled_object
from repo_builder.simulation.rules import Rule
from repo_builder.simulation.types import SimulatedFleet, SimulatedService

MODEL_WISE = "model-wise"
_OPTIONS = Options(Source("claim", "not-read"))


@dataclass(frozen=True, slots=True)
class Case:
    """What is the same for both fleets. `target_qps` is the plan's: it bounds how far services may grow."""

    model: str
    sla_ms: float
    target_qps: float
    profile: Profile


def planned_fleet(case: Case, plan: Plan) -> SimulatedFleet:
    """The plan's services, each scaling alone; the plan has one of kind dense, the front end."""
    services = sorted(plan.services, key=lambda service: service.kind != "dense")
    return _fleet(case, plan.grouping, {service: latency.alone_s(service, case.profile) for service in services})


def whole_fleet(case: Case, whole: Service, alone_s: float) -> SimulatedFleet:
    """The whole model in every replica, `whole`; it scales by the rules of a front end."""
    return _fleet(case, MODEL_WISE, {replace(whole, kind="dense"): alone_s})


def _fleet(case: Case, name: str, services: Mapping[Service, float]) -> SimulatedFleet:
    """A fleet of services and their times alone, the front end first."""
    parts = [_part(case, service) for service in services]
    fleet = Fleet(case.model, case.sla_ms, case.target_qps, tuple(parts))
    front, *embedding = (
        _simulated(case, fleet, part, alone_s) for part, alone_s in zip(parts, services.values(), strict=True)
    )
    return SimulatedFleet(name, front, tuple(embedding), case.profile.remote_call_s)


def _part(case: Case, service: Service) -> FleetService:
    """The service as the rules want to see it, before anything is built."""
    model = case.model if service.kind == "dense" else f"{case.model}_{service.name}"
    weights_bytes = max(0, service.memory_bytes - case.profile.min_memory_bytes)
    return FleetService(
        name=FRONTEND if service.kind == "dense" else service.name,
        folder=service.name,
        model=model,
        steps=(model,),
        planned=service,
        instances=service.instances,
        files_bytes=weights_bytes,
        shm_bytes=0,
    )


def _simulated(case: Case, fleet: Fleet, part: FleetService, alone_s: float) -> SimulatedService:
    """The service under the very ScaledObject that would be rendered for it."""
    found = from_scaled_object(scaled_object(fleet, part, _OPTIONS), part.name)
    targets = zip(found.queries, found.autoscaler.targets, strict=True)
    return SimulatedService(
        name=part.planned.name,
        capacity_qps=part.planned.qps,
        alone_s=alone_s,
        memory_bytes=part.planned.memory_bytes,
        load_bytes=part.files_bytes,
        instances=part.planned.instances,
        autoscaler=found.autoscaler,
        rules=tuple(Rule(query.name, target) for query, target in targets),
        read_every_s=found.polling_s if all(query.cached for query in found.queries) else SYNC_S,
    )
