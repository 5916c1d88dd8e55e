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
    """Of all services of a plan that was made for the spec by the profile, at the spec's target traffic.

    Raises PlanError where the CPU at light load was not measured.
    """
    light = profile.sized_by("cpu")
    target_qps = spec.serving.target_qps / utilisation

    embedding_s = light.service_time.fixed_s - profile.service_time.fixed_s
    flops = spec.dense_flops
    dense_s = light.dense_service_time.seconds(flops) - profile.dense_service_time.seconds(flops)

    def sizing(service: Service) -> Sizing:
        light_s = 1 / service.qps + (dense_s if service.kind == "dense" else embedding_s)
        by_capacity, by_cpu = replicas_for(target_qps / service.qps), replicas_for(target_qps * light_s)
        return Sizing(service, service.qps, 1 / light_s, by_capacity, by_cpu)

    return tuple(map(sizing, plan.services))
