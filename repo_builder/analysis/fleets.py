"""The four ways to serve a model at the same traffic, each as services placed on a cluster.

Assumptions, the same for every fleet: a replica is one Triton instance on one core (and one GPU where it uses one),
times come from the same profile, all queries are `serving.batch` rows with full bags, and the 95th percentile of the
latency, queueing included (`partition.latency`), meets the spec's SLA.

 model-wise  one container holds all tables, their rows as in a hottest service, and the dense layers. A query takes the
             dense layers' time plus one call of an embedding service that gathers everything: in one process there is
             no remote call. It has a fleet's time for each id, for it receives, checks and copies them all as a front
             end does: `build --layout model-wise` has a router too, and RM1's took as much (`benchmarks/README.md`,
             "The default profile"). A graph in ONNX that is served as it came has none; its gathers check ids.
 GPU cache   besides, the hottest rows of all tables that fit into the GPU's memory are gathered there and the dense
             layers run there. The CPU gathers the misses of one query while the GPU works on another, so the slower of
             the two bounds the throughput (the cache is given the benefit of a perfect overlap).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from repo_builder.errors import PlacementError, PlanError
from repo_builder.model.types import RowDtype
from repo_builder.partition.accesses import ModelAccesses
from repo_builder.partition.cost import DEFAULT_GPU_TIMES, Profile, replicas_for
from repo_builder.partition.latency import Queue
from repo_builder.partition.placement.cluster import Cluster
from repo_builder.partition.placement.nodes import RESOURCES, Demand, Packing, price_in_parts
from repo_builder.partition.placement.packing import pack
from repo_builder.partition.placement.place import on_fewer_nodes, place
from repo_builder.partition.plan import Grouping, Plan, Service, Shard
from repo_builder.partition.planner import plan_accesses
from repo_builder.partition.priced import whole_rows_s
from repo_builder.spec import Spec

MODEL_WISE, GPU_CACHE, PER_TABLE, TIERED = "model-wise", "model-wise, GPU cache", "per_table", "tiered"
STRATEGIES = (MODEL_WISE, GPU_CACHE, PER_TABLE, TIERED)
_GROUPINGS: Mapping[str, Grouping] = {PER_TABLE: "per_table", TIERED: "tiered"}

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
    row_dtype: RowDtype

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
            row_dtype=self.row_dtype,
        )


def model_wise(spec: Spec, accesses: ModelAccesses, profile: Profile, utilisation: float = 1.0) -> WholeModel:
    """The whole model on one core, loaded no more than `utilisation`.

    Raises PlanError where even an idle replica misses the SLA.
    """
    front_s = profile.front_time.seconds(accesses.gathered()[0], 0)
    dense_s = profile.dense_service_time.seconds(spec.dense_flops) + front_s
    rows_s = profile.service_time.fixed_s + whole_rows_s(accesses, profile)
    model = _whole_model(spec, profile, dense_s + rows_s, dense_s + profile.alone_s(rows_s), gpu_memory_bytes=0)
    return replace(model, utilisation=min(model.utilisation, utilisation))


def gpu_cached(spec: Spec, accesses: ModelAccesses, profile: Profile, gpu_memory_bytes: int) -> WholeModel:
    """The whole model on one core, with a GPU of so much memory as a cache of its hottest rows.

    Raises PlanError where the dense layers do not fit into the GPU, or even an idle replica misses the SLA.
    """
    room = gpu_memory_bytes - GPU_RESERVE_BYTES - spec.model.dense.parameter_bytes
    if room < 0:
        raise PlanError(f"gpu_memory_gb: expected room for the dense layers, got {gpu_memory_bytes / 1e9:g} GB")
    hits, hit_bytes = accesses.hottest(room, profile.service_time)
    gathers, gathered = accesses.gathered()
    gpu = profile.gpu or DEFAULT_GPU_TIMES
    gpu_s = gpu.dense_service_time.seconds(spec.dense_flops) + gpu.service_time.seconds(hits, hit_bytes)
    cpu_s = profile.service_time.seconds(max(0.0, gathers - hits), max(0.0, gathered - hit_bytes))
    cpu_s += profile.front_time.seconds(gathers, 0)
    alone_s = gpu_s + profile.alone_s(cpu_s)
    return _whole_model(spec, profile, max(gpu_s, cpu_s), alone_s, gpu_memory_bytes)


def _whole_model(spec: Spec, profile: Profile, service_s: float, alone_s: float, gpu_memory_bytes: int) -> WholeModel:
    tables_bytes = spec.model.stored_bytes(spec.rows.hot)
    return WholeModel(
        service_s=service_s,
        alone_s=alone_s,
        utilisation=most_utilisation(service_s, alone_s, spec.serving.sla_ms),
        memory_bytes=tables_bytes + spec.model.dense.parameter_bytes + profile.min_memory_bytes,
        gpu_memory_bytes=gpu_memory_bytes,
        gathers=spec.gathers,
        shards=tuple(Shard(table.name, 0, table.rows) for table in spec.model.tables),
        row_dtype=spec.rows.hot,
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


@dataclass(frozen=True, slots=True)
class ComparisonCase:
    """What is held equal in a comparison; `accesses` is that of `spec`.

    `least_saving` is what a service must be worth, `profile_error` how far off cuts take the profile to be.
    """

    spec: Spec
    accesses: ModelAccesses
    profile: Profile
    cluster: Cluster
    s_max: int
    least_saving: float = 0.0
    profile_error: float = 0.0


@dataclass(frozen=True, slots=True)
class SizedFleet:
    """All services of one strategy, what they need of nodes, and where they run.

    `plan` is None where the whole model is replicated. `packing` is None where nobody asked for it, or where the
    cluster cannot hold them: then `unplaced` says why.
    """

    strategy: str
    services: tuple[Service, ...]
    demands: tuple[Demand, ...]
    plan: Plan | None = None
    packing: Packing | None = None
    unplaced: str = ""

    @property
    def remote_calls(self) -> int:
        """Calls of services in other containers that a query makes."""
        return len(self.plan.embedding_services) if self.plan else 0

    @property
    def memory_bytes(self) -> int:
        """Host memory of all replicas."""
        return sum(service.deployed * service.memory_bytes for service in self.services)

    @property
    def replicas(self) -> int:
        """Replicas of all services."""
        return sum(service.deployed for service in self.services)

    def price_in_parts(self, cluster: Cluster) -> float | None:
        """`price_in_parts` of the pools that can hold everything; None where none can."""
        pools = [pool for pool in cluster.pools if all(demand.fits(pool) for demand in self.demands)]
        needs = [sum(demand.replicas * demand.vector[i] for demand in self.demands) for i in range(len(RESOURCES))]
        return float(price_in_parts(np.array([needs], float), pools)[0]) if pools else None


class SizedFleets:
    """Makes the fleets of a case, at any traffic; what does not depend on the traffic is computed once."""

    def __init__(self, case: ComparisonCase) -> None:
        self.case = case = _as_compared(case)
        self.whole = model_wise(case.spec, case.accesses, case.profile)
        self._whole = {MODEL_WISE: self.whole}
        if case.cluster.gpu_pools:
            gpu_memory_bytes = max(pool.gpu_memory_bytes for pool in case.cluster.gpu_pools)
            self._whole[GPU_CACHE] = gpu_cached(case.spec, case.accesses, case.profile, gpu_memory_bytes)

    @property
    def strategies(self) -> tuple[str, ...]:
        """The strategies that the cluster allows, in the order of STRATEGIES; a GPU cache needs a GPU."""
        return tuple(strategy for strategy in STRATEGIES if strategy in self._whole or strategy in _GROUPINGS)

    def target_qps(self, replicas: int) -> float:
        """The most traffic that so many model-wise replicas serve within the SLA."""
        return replicas * self.whole.capacity_qps

    def fleet(self, strategy: str, target_qps: float) -> SizedFleet:
        """The fleet that serves so many queries per second, nowhere placed: ElasticRec's on CPUs alone."""
        if strategy in self._whole:
            return self._replicated(strategy, self._whole[strategy], target_qps)
        return self._elastic(strategy, target_qps)

    def placed(self, strategy: str, target_qps: float) -> SizedFleet:
        """The fleet on the cluster's nodes; ElasticRec's services choose their devices."""
        fleet = self.fleet(strategy, target_qps)
        try:
            if fleet.plan is None:
                return self._packed(fleet)
            found = place(self._spec(target_qps), fleet.plan, self.case.profile, self.case.cluster)
        except PlacementError as exc:
            return replace(fleet, unplaced=str(exc))
        services, demands = found.plan.services, found.demands
        return replace(fleet, services=services, demands=demands, plan=found.plan, packing=found.packing)

    def _packed(self, fleet: SizedFleet) -> SizedFleet:
        """Whole replicas on nodes; one more of them where that takes fewer, as `place` tries it."""
        cluster, (service,), (demand,) = self.case.cluster, fleet.services, fleet.demands
        found = replace(fleet, packing=pack(fleet.demands, cluster))
        evened = on_fewer_nodes(service, cluster)
        if evened == service or not found.packing or found.packing.bottleneck != "spread":
            return found
        demands = (replace(demand, replicas=evened.deployed),)
        other = replace(fleet, services=(evened,), demands=demands, packing=pack(demands, cluster))
        return min(found, other, key=lambda each: each.packing.price_per_hour if each.packing else math.inf)

    def _replicated(self, strategy: str, model: WholeModel, target_qps: float) -> SizedFleet:
        service = model.replicas(target_qps)
        return SizedFleet(strategy, (service,), (self._demand(service, model.gpu_memory_bytes),))

    def _elastic(self, strategy: str, target_qps: float) -> SizedFleet:
        """A plan in which no replica is loaded above what model-wise replicas may be."""
        case, spec, grouping = self.case, self._spec(target_qps), _GROUPINGS[strategy]
        utilisation, saving, error = self.whole.utilisation, case.least_saving, case.profile_error
        plan = plan_accesses(spec, case.accesses, case.profile, grouping, case.s_max, utilisation, saving, error)
        demands = tuple(self._demand(service, 0) for service in plan.services)
        return SizedFleet(strategy, plan.services, demands, plan)

    def _spec(self, target_qps: float) -> Spec:
        return replace(self.case.spec, serving=replace(self.case.spec.serving, target_qps=target_qps))

    def _demand(self, service: Service, gpu_memory_bytes: int) -> Demand:
        return Demand(
            name=service.name,
            replicas=service.deployed,
            millicores=service.instances * self.case.cluster.instance_millicores,
            memory_bytes=service.memory_bytes,
            gpus=1 if gpu_memory_bytes else 0,
            gpu_memory_bytes=gpu_memory_bytes,
        )


def _as_compared(case: ComparisonCase) -> ComparisonCase:
    """The case with the cluster's minimum memory, where it has its own, and one instance in every replica."""
    profile, cluster = case.profile, replace(case.cluster, max_instances=1)
    if cluster.min_memory_bytes is not None:
        profile = replace(profile, min_memory_bytes=cluster.min_memory_bytes)
    return replace(case, profile=profile, cluster=cluster)
