"""The ways in which a service may run on a cluster: on which device, with how many instances and replicas."""

from __future__ import annotations

from dataclasses import dataclass, replace

from repo_builder.partition.cost import DEFAULT_GPU_TIMES, Profile, replicas_for
from repo_builder.partition.placement.cluster import Cluster
from repo_builder.partition.placement.nodes import Demand
from repo_builder.partition.plan import Plan, Service
from repo_builder.spec import Spec

INSTANCE_BYTES = 40 * 10**6
"""Host memory of one more instance in a replica: a process that shares the rows; 25 to 34 MiB were measured."""

GPU_CONTEXT_BYTES = 10**9
"""GPU memory of a process beside its rows: the CUDA context and the library's buffers; an estimate, not measured."""

GPU_HOST_BYTES = 2 * 10**9
"""Host memory of a process with torch and CUDA, beside a container's minimum; an estimate, not measured."""


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
    """One instance on one GPU; a front end's ids and calls stay on the CPU, and the slower of the two bounds it."""
    times = profile.gpu or DEFAULT_GPU_TIMES
    on_cpu_s = service.instances / service.qps - profile.dense_service_time.seconds(spec.dense_flops)
    seconds = (
        max(times.dense_service_time.seconds(spec.dense_flops), on_cpu_s)
        if service.kind == "dense"
        else times.service_time.seconds(service.gathers, service.gathered_bytes)
    )
    one = _with_instances(service, 1)
    return replace(one, device="gpu", gpus=(0,), qps=1 / seconds, memory_bytes=one.memory_bytes + GPU_HOST_BYTES)


def _replicas(planned: Service, other: Service, target_qps: float) -> int:
    """Enough for the throughput, with as much room as the plan left above the least replicas."""
    room = planned.replicas / replicas_for(target_qps / planned.qps)
    return replicas_for(target_qps / other.qps * max(1.0, room))
