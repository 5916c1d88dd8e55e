"""From a plan and a cluster to a placement: a device for every service, and a node for every replica."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from repo_builder.errors import PlacementError, PlanError
from repo_builder.partition.cost import Profile
from repo_builder.partition.placement.cluster import Cluster
from repo_builder.partition.placement.devices import DeviceChoice, choose
from repo_builder.partition.placement.nodes import Demand, Packing
from repo_builder.partition.placement.options import Option, options
from repo_builder.partition.placement.packing import pack
from repo_builder.partition.plan import Plan, Service
from repo_builder.partition.sla import meet_sla
from repo_builder.spec import Spec

WHOLE_MODEL = "model"
"""What a replica of the whole model is called."""


@dataclass(frozen=True, slots=True)
class Placement:
    """The plan with its devices chosen, what its replicas need, and where they run on which cluster.

    `gpu_measured` is False where GPU times had to be the documented defaults.
    """

    plan: Plan
    demands: tuple[Demand, ...]
    packing: Packing
    cluster: Cluster
    gpu_measured: bool


def place(spec: Spec, plan: Plan, profile: Profile, cluster: Cluster) -> Placement:
    """Choose each service's device, instances and replicas, and pack the replicas, at the least price per hour.

    GPU times are the profile's, or DEFAULT_GPU_TIMES. A cluster with its own `min_memory_bytes` changes every
    replica's memory by the difference to the profile's. Where the plan predicts a latency, replicas are added until
    the placed one meets the spec's SLA. Replicas of the whole model are placed whole, on CPUs. Raises PlacementError
    where the replicas do not fit.

    Where the spread over nodes is what costs, one replica more of a service may need a node less: three of which no
    more than half may share a node take three, four take two. That is tried too, and taken where it is cheaper.
    """
    plan, profile = _own_minimum(plan, profile, cluster)
    found = _place(spec, plan, profile, cluster)
    evened = replace(plan, services=tuple(on_fewer_nodes(service, cluster) for service in plan.services))
    if found.packing.bottleneck != "spread" or evened == plan:
        return found
    try:
        return min(found, _place(spec, evened, profile, cluster), key=_price)
    except PlacementError:
        return found


def on_fewer_nodes(service: Service, cluster: Cluster) -> Service:
    """The service, with a replica more where the cluster's spread then lets it stand on fewer nodes."""

    def nodes(replicas: int) -> int:
        return math.ceil(replicas / cluster.most_on_a_node(replicas))

    fewer = nodes(service.deployed + 1) < nodes(service.deployed)
    return replace(service, added=service.added + 1) if fewer else service


def _place(spec: Spec, plan: Plan, profile: Profile, cluster: Cluster) -> Placement:
    if plan.grouping == "model_wise":
        demands = (_whole_demand(plan, cluster),)
        return Placement(plan, demands, pack(demands, cluster), cluster, profile.gpu is not None)
    services = [options(service, plan, spec, profile, cluster) for service in plan.services]
    planned = tuple(of_one[0] for of_one in services)
    if all(len(of_one) == 1 for of_one in services):
        return _packed(plan, planned, profile, cluster, None)
    choice = choose(services, cluster) or choose(services, _endless(cluster))
    if choice is None:
        return _packed(plan, planned, profile, cluster, None)  # raises, and says which replica is too large
    found = _packed(_with(spec, plan, choice.options, profile), choice.options, profile, cluster, choice)
    if choice.options == planned or found.packing.price_per_hour <= choice.lower_bound_per_hour:
        return found
    return min((found, _try_planned(plan, planned, profile, cluster, choice) or found), key=_price)


def _whole_demand(plan: Plan, cluster: Cluster) -> Demand:
    """Replicas of the whole model: in each all services, which share an instance's core."""
    return Demand(
        name=WHOLE_MODEL,
        replicas=max(service.deployed for service in plan.services),
        millicores=cluster.instance_millicores,
        memory_bytes=sum(service.memory_bytes for service in plan.services),
    )


def _price(placement: Placement) -> float:
    return placement.packing.price_per_hour


def _try_planned(
    plan: Plan, planned: tuple[Option, ...], profile: Profile, cluster: Cluster, choice: DeviceChoice
) -> Placement | None:
    try:
        return _packed(plan, planned, profile, cluster, choice)
    except PlacementError:
        return None


def _packed(
    plan: Plan, chosen: tuple[Option, ...], profile: Profile, cluster: Cluster, choice: DeviceChoice | None
) -> Placement:
    demands = tuple(
        replace(option.demand, replicas=service.deployed) for option, service in zip(chosen, plan.services, strict=True)
    )
    packing = pack(demands, cluster)
    if choice:  # another choice of devices may be cheaper than this one's least
        bound = min(packing.lower_bound_per_hour, choice.lower_bound_per_hour)
        packing = replace(packing, lower_bound_per_hour=bound)
    return Placement(plan, demands, packing, cluster, profile.gpu is not None)


def _with(spec: Spec, plan: Plan, chosen: tuple[Option, ...], profile: Profile) -> Plan:
    """The plan with these services; with its latency predicted anew where it had one."""
    changed = replace(plan, services=tuple(option.service for option in chosen))
    if plan.latency is None:
        return changed
    try:
        return meet_sla(changed, profile, spec.serving.target_qps, spec.serving.sla_ms)
    except PlanError as exc:
        raise PlacementError(f"placed on the cluster, {exc}") from exc


def _own_minimum(plan: Plan, profile: Profile, cluster: Cluster) -> tuple[Plan, Profile]:
    if cluster.min_memory_bytes is None:
        return plan, profile
    more = cluster.min_memory_bytes - profile.min_memory_bytes
    services = tuple(
        replace(service, memory_bytes=service.memory_bytes + more)
        if service.shards or plan.grouping != "model_wise"
        else service  # a whole replica's least memory is counted with its tables
        for service in plan.services
    )
    return replace(plan, services=services), replace(profile, min_memory_bytes=cluster.min_memory_bytes)


def _endless(cluster: Cluster) -> Cluster:
    return replace(cluster, pools=tuple(replace(pool, count=None) for pool in cluster.pools))


def placement_document(placement: Placement) -> dict[str, Any]:
    """The placement as JSON, to stand under `placement` in a plan file."""
    packing = placement.packing
    return {
        "cluster": placement.cluster.name,
        "nodes": packing.nodes,
        "pool_nodes": dict(packing.pool_nodes),
        "price_per_hour": packing.price_per_hour,
        "lower_bound_per_hour": packing.lower_bound_per_hour,
        "gap": packing.gap,
        "bottleneck": packing.bottleneck,
        "utilisation": dict(packing.utilisation),
        "groups": [
            {"pool": group.pool, "nodes": group.nodes, "replicas": dict(group.replicas)} for group in packing.groups
        ],
    }
