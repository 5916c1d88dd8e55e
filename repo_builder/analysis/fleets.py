"""The four ways to serve a model at the same traffic, each as services placed on a cluster."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from repo_builder.analysis.baselines import WholeModel, gpu_cached, model_wise
from repo_builder.errors import PlacementError
from repo_builder.partition.accesses import ModelAccesses
from repo_builder.partition.cost import Profile
from repo_builder.partition.placement.cluster import Cluster
from repo_builder.partition.placement.nodes import RESOURCES, Demand, Packing, price_in_parts
from repo_builder.partition.placement.packing import pack
from repo_builder.partition.placement.place import place
from repo_builder.partition.plan import Grouping, Plan, Service
from repo_builder.partition.planner import plan_accesses
from repo_builder.spec import Spec

MODEL_WISE, GPU_CACHE, PER_TABLE, TIERED = "model-wise", "model-wise, GPU cache", "per_table", "tiered"
STRATEGIES = (MODEL_WISE, GPU_CACHE, PER_TABLE, TIERED)
_GROUPINGS: Mapping[str, Grouping] = {PER_TABLE: "per_table", TIERED: "tiered"}


@dataclass(frozen=True, slots=True)
class ComparisonCase:
    """What is held equal in a comparison; `accesses` is that of `spec`."""

    spec: Spec
    accesses: ModelAccesses
    profile: Profile
    cluster: Cluster
    s_max: int


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
        self.whole = model_wise(case.spec, case.profile)
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
                return replace(fleet, packing=pack(fleet.demands, self.case.cluster))
            found = place(self._spec(target_qps), fleet.plan, self.case.profile, self.case.cluster)
        except PlacementError as exc:
            return replace(fleet, unplaced=str(exc))
        services, demands = found.plan.services, found.demands
        return replace(fleet, services=services, demands=demands, plan=found.plan, packing=found.packing)

    def _replicated(self, strategy: str, model: WholeModel, target_qps: float) -> SizedFleet:
        service = model.replicas(target_qps)
        return SizedFleet(strategy, (service,), (self._demand(service, model.gpu_memory_bytes),))

    def _elastic(self, strategy: str, target_qps: float) -> SizedFleet:
        """A plan in which no replica is loaded above what model-wise replicas may be."""
        case, spec, grouping = self.case, self._spec(target_qps), _GROUPINGS[strategy]
        plan = plan_accesses(spec, case.accesses, case.profile, grouping, case.s_max, self.whole.utilisation)
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
