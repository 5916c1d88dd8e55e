"""What ElasticRec is compared with: the whole model in every replica, on CPUs alone or with a GPU embedding cache.

Assumptions, the same for every fleet: a replica is one Triton instance on one core (and one GPU where it uses one),
times come from the same profile, all queries are `serving.batch` rows with full bags, and the 95th percentile of the
latency, queueing included (`partition.latency`), meets the spec's SLA.

 model-wise  one container holds all tables and the dense layers. A query takes the dense layers' time plus one call of
             an embedding service that gathers everything: in one process there is no remote call.
 GPU cache   besides, the hottest rows of all tables that fit into the GPU's memory are gathered there and the dense
             layers run there. The CPU gathers the misses of one query while the GPU works on another, so the slower of
             the two bounds the throughput (the cache is given the benefit of a perfect overlap).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from repo_builder.errors import PlanError
from repo_builder.partition.accesses import ModelAccesses, ranks_in_tables
from repo_builder.partition.cost import DEFAULT_GPU_TIMES, Profile, replicas_for
from repo_builder.partition.latency import Queue
from repo_builder.partition.plan import Service, Shard
from repo_builder.spec import Spec

SLA_QUANTILE = 0.95
"""The share of the queries that must meet the SLA, as in `latency.meet_sla`."""

GPU_RESERVE_BYTES = 500 * 10**6
"""GPU memory that a process holds before it stores a row: the driver's context and workspaces; recalled."""


@dataclass(frozen=True, slots=True)
class WholeModel:
    """A kind of replica that holds the whole model.

    `service_s` is the time between two queries of a busy replica, `alone_s` a query's latency in an idle one;
    `utilisation` the largest load, in (0, 1], at which the latency still meets the SLA.
    """

    service_s: float
    alone_s: float
    utilisation: float
    memory_bytes: int
    gpu_memory_bytes: int
    gathers: float
    shards: tuple[Shard, ...]

    @property
    def capacity_qps(self) -> float:
        """Queries per second that one replica serves within the SLA."""
        return self.utilisation / self.service_s

    def replicas(self, target_qps: float) -> Service:
        """As many replicas as serve the traffic."""
        return Service(
            name="model",
            kind="embedding",
            device="gpu" if self.gpu_memory_bytes else "cpu",
            instances=1,
            replicas=replicas_for(target_qps / self.capacity_qps),
            memory_bytes=self.memory_bytes,
            gathers=self.gathers,
            qps=1 / self.service_s,
            shards=self.shards,
        )


def model_wise(spec: Spec, profile: Profile, utilisation: float = 1.0) -> WholeModel:
    """The whole model on one core, loaded no more than `utilisation`.

    Raises PlanError where even an idle replica misses the SLA.
    """
    gathers, tables_bytes = spec.gathers, spec.model.size_bytes
    dense_s = profile.dense_service_time.seconds(spec.dense_flops)
    service_s = dense_s + profile.seconds(gathers, tables_bytes)
    alone_s = dense_s + profile.alone_s(gathers, tables_bytes)
    model = _whole_model(spec, profile, service_s, alone_s, gpu_memory_bytes=0)
    return replace(model, utilisation=min(model.utilisation, utilisation))


def gpu_cached(spec: Spec, accesses: ModelAccesses, profile: Profile, gpu_memory_bytes: int) -> WholeModel:
    """The whole model on one core, with a GPU of so much memory as a cache of its hottest rows.

    Raises PlanError where the dense layers do not fit into the GPU, or even an idle replica misses the SLA.
    """
    room = gpu_memory_bytes - GPU_RESERVE_BYTES - spec.model.dense.parameter_bytes
    if room < 0:
        raise PlanError(f"gpu_memory_gb: expected room for the dense layers, got {gpu_memory_bytes / 1e9:g} GB")
    rows = accesses.rows_within(room)
    ranks = ranks_in_tables(accesses.tables, [rows])[0]
    hits = sum(table.gathers * float(table.cdf[rank]) for table, rank in zip(accesses.tables, ranks, strict=True))
    misses = max(0.0, spec.gathers - hits)
    gpu = profile.gpu or DEFAULT_GPU_TIMES
    gpu_s = gpu.dense_service_time.seconds(spec.dense_flops) + gpu.service_time.seconds(hits)
    cpu_s = profile.seconds(misses, spec.model.size_bytes)
    alone_s = gpu_s + profile.alone_s(misses, spec.model.size_bytes)
    return _whole_model(spec, profile, max(gpu_s, cpu_s), alone_s, gpu_memory_bytes)


def _whole_model(spec: Spec, profile: Profile, service_s: float, alone_s: float, gpu_memory_bytes: int) -> WholeModel:
    return WholeModel(
        service_s=service_s,
        alone_s=alone_s,
        utilisation=most_utilisation(service_s, alone_s, spec.serving.sla_ms),
        memory_bytes=spec.model.size_bytes + spec.model.dense.parameter_bytes + profile.min_memory_bytes,
        gpu_memory_bytes=gpu_memory_bytes,
        gathers=spec.gathers,
        shards=tuple(Shard(table.name, 0, table.rows) for table in spec.model.tables),
    )


def most_utilisation(service_s: float, alone_s: float, sla_ms: float) -> float:
    """The largest load of a replica, at most 1, whose 95th percentile meets the SLA; PlanError where there is none."""
    sla_s = sla_ms / 1000

    def meets(utilisation: float) -> bool:
        return Queue(utilisation, service_s, 1, alone_s).within(sla_s) >= SLA_QUANTILE

    if alone_s > sla_s:
        raise PlanError(
            f"serving.sla_ms: expected at least {math.ceil(1000 * alone_s)} ms, which a query takes in an idle replica "
            f"of the whole model, got {sla_ms:g}; raise it or lower serving.batch"
        )
    if meets(1.0):
        return 1.0
    low, high = 0.0, 1.0
    while high - low > 1e-6:
        middle = (low + high) / 2
        low, high = (middle, high) if meets(middle) else (low, middle)
    if low == 0.0:
        raise PlanError(f"serving.sla_ms: expected an SLA that a replica can meet under load, got {sla_ms:g}; raise it")
    return low
