"""A plan's services with their replicas counted both ways: by capacity, and by CPU at light load.

The first is what a replica answers at most within the SLA on a core of its own, its calls joined: what a service is
scaled for. The second is what a monitor sees of a fleet with time on its hands: a query that comes alone wakes threads
and shares its call with none, so that it takes several times as much, whatever it gathers.
"""

from __future__ import annotations

from dataclasses import dataclass

from repo_builder.partition.cost import Profile, replicas_for
from repo_builder.partition.plan import Plan, Service
from repo_builder.spec import Spec


@dataclass(frozen=True, slots=True)
class Sizing:
    """Queries per second of a replica, and the replicas that these make, by capacity and by CPU at light load."""

    service: Service
    capacity_qps: float
    cpu_qps: float
    by_capacity: int
    by_cpu: int


def sizings(spec: Spec, plan: Plan, profile: Profile, utilisation: float = 1.0) -> tuple[Sizing, ...]:
    """Of all services of a plan of the spec, at its target traffic; raises PlanError where one was not measured."""
    capacity, light = profile.sized_by("capacity"), profile.sized_by("cpu")
    target_qps = spec.serving.target_qps / utilisation

    def sizing(service: Service) -> Sizing:
        seconds, light_s = (_seconds(service, spec, each) for each in (capacity, light))
        return Sizing(
            service, 1 / seconds, 1 / light_s, replicas_for(target_qps * seconds), replicas_for(target_qps * light_s)
        )

    return tuple(map(sizing, plan.services))


def _seconds(service: Service, spec: Spec, profile: Profile) -> float:
    if service.kind == "dense":
        return profile.dense_service_time.seconds(spec.dense_flops)
    return profile.seconds(service.gathers, service.memory_bytes - profile.min_memory_bytes)
