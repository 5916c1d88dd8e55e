"""From a plan and a cluster to a placement: a device for every service, and a node for every replica.

The devices are those with which the fewest nodes are filled, by a mixed-integer program. Replicas may be cut in it,
which bounds the price of every whole packing from below. With z[o] = 1 where option o is taken, y[o, p] of its replicas
in pool p, and n[p] nodes of pool p:

    minimise    sum of price[p] * n[p]
    subject to  every service:            its z sum up to 1
                every option:             its y sum up to replicas[o] * z[o]
                every pool and resource:  sum of need[o] * y[o, p] <= room[p] * n[p]
                every option and pool:    y[o, p] <= most_on_a_node[o] * n[p]
                n[p] whole, at most the pool's count

Of the choices at the least price the one with the least memory, host and GPU, is taken: a second program.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp

from repo_builder.errors import PlacementError, PlanError
from repo_builder.partition.cost import DEFAULT_GPU_TIMES, Profile, replicas_for
from repo_builder.partition.latency import meet_sla
from repo_builder.partition.placement.cluster import Cluster
from repo_builder.partition.placement.nodes import Demand, Packing, capacity
from repo_builder.partition.placement.packing import pack
from repo_builder.partition.plan import Plan, Service
from repo_builder.spec import Spec

INSTANCE_BYTES = 40 * 10**6
"""Host memory of one more instance in a replica: a process that shares the rows; 25 to 34 MiB were measured."""

GPU_CONTEXT_BYTES = 10**9
"""GPU memory of a process beside its rows: the CUDA context and the library's buffers; an estimate, not measured."""

GPU_HOST_BYTES = 2 * 10**9
"""Host memory of a process with torch and CUDA, beside a container's minimum; an estimate, not measured."""

WHOLE_MODEL = "model"
"""What a replica of the whole model is called."""

_SEARCH = {"mip_rel_gap": 1e-4, "node_limit": 5000, "time_limit": 10.0}
_SLACK = 1e-6  # relative, of the least price, for the second program


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


@dataclass(frozen=True, slots=True)
class Option:
    """A service as it would run, and what its replicas need of nodes."""

    service: Service
    demand: Demand


def options(service: Service, plan: Plan, spec: Spec, profile: Profile, cluster: Cluster) -> list[Option]:
    """The service as it stands in the plan, and then every other way that the cluster allows.

    Only throughput decides the replicas of the others, with the plan's room for bursts. A service that the plan puts
    on a GPU stays there.
    """
    found = [Option(service, _demand_of(service, profile, cluster))]
    if service.device == "gpu":
        return found
    others = [_with_instances(service, n) for n in range(1, cluster.max_instances + 1) if n != service.instances]
    if cluster.gpu_pools:
        others.append(_on_gpu(service, spec, profile))
    target_qps = plan.target_qps or spec.serving.target_qps
    for other in others:
        changed = replace(other, replicas=_replicas(service, other, target_qps), added=0)
        found.append(Option(changed, _demand_of(changed, profile, cluster)))
    return found


def _demand_of(service: Service, profile: Profile, cluster: Cluster) -> Demand:
    """What the deployed replicas need: a core (`instance_millicores`) per instance, and on a GPU all of their rows."""
    gpus = max(1, len(service.gpus)) if service.device == "gpu" else 0
    processes = service.instances * (GPU_CONTEXT_BYTES + _held_bytes(service, profile))
    return Demand(
        name=service.name,
        replicas=service.deployed,
        millicores=service.instances * max(1, gpus) * cluster.instance_millicores,
        memory_bytes=service.memory_bytes,
        gpus=gpus,
        gpu_memory_bytes=processes if gpus else 0,
    )


def _held_bytes(service: Service, profile: Profile) -> int:
    """Bytes that a process keeps on its GPU: what a replica has beside its container's minimum and its own host's.

    The host's copy of the rows is counted too, since the server maps the files that they are loaded from.
    """
    own = profile.min_memory_bytes + (service.instances - 1) * INSTANCE_BYTES + GPU_HOST_BYTES
    return max(0, service.memory_bytes - own)


def _with_instances(service: Service, instances: int) -> Service:
    one_qps = service.qps / service.instances
    memory_bytes = service.memory_bytes + (instances - service.instances) * INSTANCE_BYTES
    return replace(service, instances=instances, qps=instances * one_qps, memory_bytes=memory_bytes)


def _on_gpu(service: Service, spec: Spec, profile: Profile) -> Service:
    """One instance on one GPU."""
    times = profile.gpu or DEFAULT_GPU_TIMES
    seconds = (
        times.dense_service_time.seconds(spec.dense_flops)
        if service.kind == "dense"
        else times.service_time.seconds(service.gathers, service.gathered_bytes)
    )
    one = _with_instances(service, 1)
    return replace(one, device="gpu", gpus=(0,), qps=1 / seconds, memory_bytes=one.memory_bytes + GPU_HOST_BYTES)


def _replicas(planned: Service, other: Service, target_qps: float) -> int:
    """Enough for the throughput, with as much room as the plan left above the least replicas."""
    room = planned.replicas / replicas_for(target_qps / planned.qps)
    return replicas_for(target_qps / other.qps * max(1.0, room))


@dataclass(frozen=True, slots=True)
class DeviceChoice:
    """The option taken of each service, and a lower bound of any choice's price per hour."""

    options: tuple[Option, ...]
    lower_bound_per_hour: float


def choose(services: Sequence[Sequence[Option]], cluster: Cluster) -> DeviceChoice | None:
    """The cheapest options, one per service; None where no choice fits, even cut."""
    flat = [option for of_one in services for option in of_one]
    constraints, bounds, integrality = _program(services, flat, cluster)
    price = np.zeros(len(integrality))
    price[-len(cluster.pools) :] = [pool.price_per_hour for pool in cluster.pools]
    cheapest = milp(price, integrality=integrality, bounds=bounds, constraints=constraints, options=_SEARCH)
    if cheapest.x is None:
        return None
    memory = np.zeros(len(integrality))
    memory[: len(flat)] = [_memory_gb(option) for option in flat]
    dear = LinearConstraint(price, ub=float(price @ cheapest.x) * (1 + _SLACK))
    least = milp(memory, integrality=integrality, bounds=bounds, constraints=[*constraints, dear], options=_SEARCH)
    taken = (cheapest if least.x is None else least).x[: len(flat)]
    return DeviceChoice(tuple(_taken(services, taken)), max(0.0, float(cheapest.mip_dual_bound)))


def _taken(services: Sequence[Sequence[Option]], taken: NDArray[np.float64]) -> list[Option]:
    chosen, first = [], 0
    for of_one in services:
        chosen.append(of_one[int(np.argmax(taken[first : first + len(of_one)]))])
        first += len(of_one)
    return chosen


def _memory_gb(option: Option) -> float:
    demand = option.demand
    return demand.replicas * (demand.memory_bytes + demand.gpus * demand.gpu_memory_bytes) / 1e9


def _program(
    services: Sequence[Sequence[Option]], flat: Sequence[Option], cluster: Cluster
) -> tuple[list[LinearConstraint], Bounds, NDArray[np.float64]]:
    """The variables are z (options), then y (options x pools), then n (pools)."""
    options, pools = len(flat), len(cluster.pools)
    size, y = options + options * pools + pools, options
    n = options + options * pools
    equal: list[NDArray[np.float64]] = []
    sides: list[float] = []
    first = 0
    for of_one in services:
        row = np.zeros(size)
        row[first : first + len(of_one)] = 1
        first += len(of_one)
        equal.append(row)
        sides.append(1.0)
    for o, option in enumerate(flat):
        row = np.zeros(size)
        row[y + o * pools : y + (o + 1) * pools] = 1
        row[o] = -option.demand.replicas
        equal.append(row)
        sides.append(0.0)
    below = [*_resource_rows(flat, cluster, size, y, n), *_spread_rows(flat, cluster, size, y, n)]
    upper = np.full(size, np.inf)
    upper[:options] = 1
    for o, option in enumerate(flat):
        for p, pool in enumerate(cluster.pools):
            upper[y + o * pools + p] = option.demand.replicas if option.demand.fits(pool) else 0
    upper[n:] = [np.inf if pool.count is None else pool.count for pool in cluster.pools]
    integrality = np.concatenate([np.ones(options), np.zeros(options * pools), np.ones(pools)])
    constraints = [LinearConstraint(np.array(equal), lb=sides, ub=sides), LinearConstraint(np.array(below), ub=0.0)]
    return constraints, Bounds(0, upper), integrality


def _resource_rows(flat: Sequence[Option], cluster: Cluster, size: int, y: int, n: int) -> list[NDArray[np.float64]]:
    rows = []
    for p, pool in enumerate(cluster.pools):
        for i, room in enumerate(capacity(pool)):
            row = np.zeros(size)
            for o, option in enumerate(flat):
                row[y + o * len(cluster.pools) + p] = option.demand.vector[i] / max(room, 1)
            row[n + p] = -1
            rows.append(row)
    return rows


def _spread_rows(flat: Sequence[Option], cluster: Cluster, size: int, y: int, n: int) -> list[NDArray[np.float64]]:
    rows = []
    for o, option in enumerate(flat):
        for p in range(len(cluster.pools)):
            row = np.zeros(size)
            row[y + o * len(cluster.pools) + p] = 1
            row[n + p] = -cluster.most_on_a_node(option.demand.replicas)
            rows.append(row)
    return rows
