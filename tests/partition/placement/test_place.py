"""Placement: devices, instances and replicas at the least price, and plans that can be built."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest

from repo_builder.errors import PlacementError
from repo_builder.partition.cost import DenseTime, DeviceTimes, Profile, ServiceTime
from repo_builder.partition.placement.cluster import GB, Cluster, NodePool
from repo_builder.partition.placement.options import GPU_CONTEXT_BYTES, GPU_HOST_BYTES, INSTANCE_BYTES, options
from repo_builder.partition.placement.packing import pack
from repo_builder.partition.placement.place import place, placement_document
from repo_builder.partition.plan import Plan, Service, Shard, check_plan
from repo_builder.repository.configs import embedding_config
from repo_builder.repository.design import Design
from tests.partition.helpers import small_spec
from tests.partition.placement.oracles import check

CPU = NodePool("cpu", 11, 64_000, 384 * GB, 0, 0, 3.5)
GPU = NodePool("gpu", 20, 32_000, 120 * GB, 1, 16 * GB, 2.2)
SPEC = small_spec([{"name": "A", "rows": 1000, "pooling": 500}, {"name": "B", "rows": 1000, "pooling": 1}])
FAST = DeviceTimes(ServiceTime(0.0005, 1e-10), DenseTime(0.0005, 2e-13))
PROFILE = Profile("round", ServiceTime(0.0005, 5e-8), 300 * 10**6, DenseTime(0.0005, 2e-11), gpu=FAST)


def a_plan(hot_replicas: int = 60, cold_bytes: int = 5 * GB, target_qps: float = 3000.0) -> Plan:
    """A dense service, one that works much and one that holds much."""
    hot = Service("tier0", "embedding", "cpu", 1, hot_replicas, 300 * 10**6, 0.0, 0.0, (Shard("A", 0, 1000),))
    seconds = hot_replicas / target_qps * 0.999
    gathers = (seconds - 0.0005) / 5e-8
    cold = Service("tier1", "embedding", "cpu", 1, 2, cold_bytes, 32.0, 1950.0, (Shard("B", 0, 1000),))
    dense = Service("dense", "dense", "cpu", 1, 2, 300 * 10**6, 0.0, 1990.0, ())
    hot = replace(hot, gathers=gathers, qps=1 / seconds)
    return Plan("m", "tiered", (dense, hot, cold), target_qps, 32)


def service(plan: Plan, name: str) -> Service:
    return next(each for each in plan.services if each.name == name)


def test_without_a_choice_the_plan_stays() -> None:
    plan = a_plan()
    placed = place(SPEC, plan, PROFILE, Cluster("c", (CPU,)))
    assert placed.plan == plan and placed.packing.gap == 0.0
    check(placed.packing, placed.demands, placed.cluster)
    assert [demand.replicas for demand in placed.demands] == [2, 60, 2]


def test_replicas_added_for_the_latency_are_placed_too() -> None:
    plan = a_plan()
    plan = replace(plan, services=tuple(replace(each, added=1) for each in plan.services))
    placed = place(SPEC, plan, PROFILE, Cluster("c", (CPU,), spread=1.0))
    assert [demand.replicas for demand in placed.demands] == [3, 61, 3]
    check(placed.packing, placed.demands, placed.cluster)


def test_a_replica_more_is_added_where_the_spread_then_needs_a_node_less() -> None:
    """Three replicas of which half may share a node take three nodes, four take two; one of a service stays alone."""
    plan = a_plan()
    odd = replace(plan, services=tuple(replace(each, added=1) for each in plan.services))
    cluster = Cluster("c", (CPU,))
    placed = place(SPEC, odd, PROFILE, cluster)
    assert [demand.replicas for demand in placed.demands] == [4, 62, 4]
    assert [service.added for service in placed.plan.services] == [2, 2, 2]
    check(placed.packing, placed.demands, placed.cluster)
    as_planned = pack([replace(each, replicas=n) for each, n in zip(placed.demands, (3, 61, 3), strict=True)], cluster)
    assert (placed.packing.nodes, as_planned.nodes) == (2, 3)
    assert placed.packing.price_per_hour < as_planned.price_per_hour
    alone = replace(plan, services=tuple(replace(each, replicas=1) for each in plan.services))
    assert [each.deployed for each in place(SPEC, alone, PROFILE, cluster).plan.services] == [1, 1, 1]


def test_a_service_that_works_much_goes_to_the_gpu_where_that_is_cheaper() -> None:
    """150 cores of gathers are five nodes of 32 cores; a GPU that gathers 500 times as fast leaves two."""
    placed = place(SPEC, a_plan(150), PROFILE, Cluster("c", (GPU,)))
    hot, cold = service(placed.plan, "tier0"), service(placed.plan, "tier1")
    assert (hot.device, hot.gpus, hot.instances, cold.device) == ("gpu", (0,), 1, "cpu")
    seconds = FAST.service_time.seconds(hot.gathers, hot.gathered_bytes)
    assert hot.qps == pytest.approx(1 / seconds)
    assert (hot.replicas - 1) * hot.qps < 3000 <= hot.replicas * hot.qps * (1 + 1e-9)
    assert hot.memory_bytes == 300 * 10**6 + GPU_HOST_BYTES
    check(placed.packing, placed.demands, placed.cluster)
    on_cpu = pack(
        [replace(d, gpus=0) for d in place(SPEC, a_plan(150), PROFILE, Cluster("c", (CPU,))).demands],
        Cluster("c", (GPU,)),
    )
    assert placed.packing.price_per_hour < on_cpu.price_per_hour


def test_a_shard_larger_than_a_gpu_stays_on_the_cpu() -> None:
    plan = a_plan(40)
    big = tuple(replace(each, memory_bytes=20 * GB) if each.name == "tier0" else each for each in plan.services)
    for gpu_memory_bytes, device in ((16 * GB, "cpu"), (24 * GB, "gpu")):
        where = Cluster("c", (replace(GPU, gpu_memory_bytes=gpu_memory_bytes),))
        assert service(place(SPEC, replace(plan, services=big), PROFILE, where).plan, "tier0").device == device


def test_slow_gpus_are_not_taken() -> None:
    slow = DeviceTimes(ServiceTime(0.1, 1e-5), DenseTime(0.1, 1e-9))
    placed = place(SPEC, a_plan(150), replace(PROFILE, gpu=slow), Cluster("c", (GPU,)))
    assert {each.device for each in placed.plan.services} == {"cpu"} and placed.gpu_measured


@pytest.mark.parametrize(
    ("pools", "instances"), [((GPU,), 1), ((replace(CPU, price_per_hour=9.0), GPU), 1), ((GPU,), 3)]
)
def test_the_choice_is_the_cheapest_of_all(pools: tuple[NodePool, ...], instances: int) -> None:
    where = Cluster("c", pools, max_instances=instances)
    plan = a_plan(hot_replicas=80, cold_bytes=70 * GB)
    placed = place(SPEC, plan, PROFILE, where)
    prices = []
    for chosen in product(*(options(each, plan, SPEC, PROFILE, where) for each in plan.services)):
        try:
            prices.append(pack([option.demand for option in chosen], where).price_per_hour)
        except PlacementError:
            continue
    assert placed.packing.price_per_hour == pytest.approx(min(prices))
    assert placed.packing.lower_bound_per_hour <= min(prices) + 1e-9


def test_instances_share_the_rows_of_a_replica() -> None:
    """Two copies of 70 GB need two nodes; one replica of two instances holds one."""
    one = NodePool("one", 1, 64_000, 120 * GB, 0, 0, 1.0)
    plan = a_plan(hot_replicas=4, cold_bytes=70 * GB)
    with pytest.raises(PlacementError):
        place(SPEC, plan, PROFILE, Cluster("c", (one,), spread=1.0))
    placed = place(SPEC, plan, PROFILE, Cluster("c", (one,), spread=1.0, max_instances=2))
    cold = service(placed.plan, "tier1")
    assert (cold.instances, cold.replicas, cold.qps) == (2, 1, 2 * 1950.0)
    assert cold.memory_bytes == 70 * GB + INSTANCE_BYTES
    assert next(demand for demand in placed.demands if demand.name == "tier1").millicores == 2000


def test_a_clusters_own_minimum_replaces_the_profiles() -> None:
    where = Cluster("c", (CPU,), min_memory_bytes=10**9)
    placed = place(SPEC, a_plan(), PROFILE, where)
    assert service(placed.plan, "tier1").memory_bytes == 5 * GB + 10**9 - PROFILE.min_memory_bytes


def test_what_fits_on_no_device_is_refused() -> None:
    with pytest.raises(PlacementError, match="service tier1: one replica needs 500"):
        place(SPEC, a_plan(cold_bytes=500 * GB), PROFILE, Cluster("c", (CPU, GPU)))


def test_a_gpu_replica_needs_its_rows_and_a_context_on_the_gpu() -> None:
    plan = a_plan(cold_bytes=2 * GB + PROFILE.min_memory_bytes)
    on_gpu = options(plan.services[2], plan, SPEC, PROFILE, Cluster("c", (GPU,)))[-1]
    assert on_gpu.demand.gpu_memory_bytes == 2 * GB + GPU_CONTEXT_BYTES and on_gpu.demand.gpus == 1


def test_instance_groups_follow_the_placement() -> None:
    """Triton's KIND_GPU on the device chosen, one instance a replica."""
    plan = place(SPEC, a_plan(150), PROFILE, Cluster("c", (GPU,))).plan
    check_plan(plan, SPEC)
    assert {each.device for each in plan.embedding_services} == {"cpu", "gpu"}
    design = Design.of(SPEC, plan, "single")
    for each, held in zip(plan.embedding_services, design.wiring, strict=True):
        config = embedding_config(design, held, "python")
        (group,) = config.instance_group
        assert (group.kind == group.KIND_GPU, list(group.gpus)) == (each.device == "gpu", list(each.gpus))
        assert group.count == each.instances * each.replicas


def test_the_document_places_every_replica() -> None:
    placed = place(SPEC, a_plan(), PROFILE, Cluster("c", (GPU,)))
    document = placement_document(placed)
    assert document["nodes"] == sum(group["nodes"] for group in document["groups"])
    counted = sum(group["nodes"] * sum(group["replicas"].values()) for group in document["groups"])
    assert counted == sum(demand.replicas for demand in placed.demands)
