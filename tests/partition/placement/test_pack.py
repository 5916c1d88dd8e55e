"""Packing: against trying everything, within every limit, and refusals that say what would do."""

from __future__ import annotations

import math
import random
import re
from dataclasses import replace

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from repo_builder.errors import PlacementError
from repo_builder.partition.placement.cluster import GB, Cluster, NodePool
from repo_builder.partition.placement.nodes import Demand
from repo_builder.partition.placement.packing import pack
from tests.partition.placement.oracles import check, least_price

CPU = NodePool("cpu", 11, 64_000, 384 * GB, 0, 0, 3.5)
GPU = NodePool("gpu", 20, 32_000, 120 * GB, 1, 16 * GB, 2.2)


def cluster(*pools: NodePool, spread: float = 0.5) -> Cluster:
    return Cluster("c", pools, spread=spread)


def small_demands() -> st.SearchStrategy[list[Demand]]:
    one = st.builds(
        Demand,
        name=st.just("d"),
        replicas=st.integers(1, 4),
        millicores=st.integers(0, 6),
        memory_bytes=st.integers(0, 10),
        gpus=st.sampled_from([0, 0, 0, 1]),
        gpu_memory_bytes=st.integers(0, 4),
    )
    return st.lists(one, min_size=1, max_size=3).map(
        lambda found: [replace(demand, name=f"d{i}") for i, demand in enumerate(found)]
    )


def small_clusters() -> st.SearchStrategy[Cluster]:
    pool = st.builds(
        NodePool,
        name=st.just("p"),
        count=st.one_of(st.none(), st.integers(1, 4)),
        millicores=st.integers(4, 10),
        memory_bytes=st.integers(6, 16),
        gpus=st.integers(0, 2),
        gpu_memory_bytes=st.integers(1, 4),
        price_per_hour=st.sampled_from([1.0, 1.5, 2.2, 0.7]),
    )
    pools = st.lists(pool, min_size=1, max_size=2).map(
        lambda found: tuple(replace(each, name=f"p{i}") for i, each in enumerate(found))
    )
    return st.builds(Cluster, name=st.just("c"), pools=pools, spread=st.sampled_from([0.34, 0.5, 1.0]))


@settings(max_examples=150, deadline=None)
@given(small_demands(), small_clusters())
def test_the_least_price_of_all(demands: list[Demand], where: Cluster) -> None:
    """A proven least is the least, no bound lies above it, and what is refused cannot be packed."""
    least = least_price(demands, where)
    try:
        packing = pack(demands, where)
    except PlacementError:
        event("refused")
        assert least == math.inf
        return
    check(packing, demands, where)
    assert packing.lower_bound_per_hour <= least * (1 + 1e-9)
    event("proven" if packing.gap < 1e-9 else "not proven")
    assert packing.price_per_hour == pytest.approx(least)


@pytest.mark.slow
def test_thousands_of_replicas_within_two_per_cent() -> None:
    drawn = random.Random(0)
    demands = [
        Demand(f"s{i}", drawn.randint(1, 150), drawn.choice([500, 1000, 2000]), int(drawn.uniform(0.3, 30) * GB))
        for i in range(40)
    ]
    where = cluster(replace(CPU, count=None), replace(GPU, count=30))
    packing = pack(demands, where)
    check(packing, demands, where)
    assert sum(demand.replicas for demand in demands) > 2000 and packing.gap <= 0.02


def test_whole_models_by_hand() -> None:
    """26 GB into 384 GB: 14 fit, so that 100 of them take 8 nodes."""
    packing = pack([Demand("model", 100, 1000, 26 * GB)], cluster(CPU))
    assert (packing.nodes, packing.bottleneck, packing.gap) == (8, "memory", 0.0)
    assert packing.price_per_hour == pytest.approx(8 * 3.5)
    assert packing.utilisation["memory"] == pytest.approx(2600 / (8 * 384))


@pytest.mark.parametrize(
    ("demand", "bottleneck"),
    [
        (Demand("s", 10, 30_000, GB), "cores"),
        (Demand("s", 10, 1, 180 * GB), "memory"),
        (Demand("s", 2, 1, GB), "spread"),
    ],
)
def test_the_bottleneck_is_what_asks_for_the_most_nodes(demand: Demand, bottleneck: str) -> None:
    assert pack([demand], cluster(CPU)).bottleneck == bottleneck


def test_gpus_are_a_bottleneck_and_are_lent_whole() -> None:
    packing = pack([Demand("s", 5, 1000, GB, 1, 2 * GB)], cluster(GPU))
    assert (packing.nodes, packing.bottleneck) == (5, "GPUs")
    assert packing.utilisation["GPUs"] == 1.0 and packing.utilisation["GPU memory"] == pytest.approx(2 / 16)


def test_spread_keeps_replicas_apart_but_lets_one_alone_be() -> None:
    demands = [Demand("a", 4, 1000, GB), Demand("b", 1, 1000, GB)]
    assert pack(demands, cluster(CPU, spread=1.0)).nodes == 1
    assert pack(demands, cluster(CPU, spread=0.5)).nodes == 2
    assert pack(demands, cluster(CPU, spread=0.25)).nodes == 4


def test_a_small_gpu_is_passed_over() -> None:
    small = replace(GPU, name="small", gpu_memory_bytes=8 * GB, price_per_hour=1.0)
    packing = pack([Demand("s", 2, 1000, GB, 1, 10 * GB)], cluster(small, GPU))
    assert packing.pool_nodes == {"gpu": 2}


def test_nothing_takes_no_nodes() -> None:
    assert pack([], cluster(CPU)).nodes == 0


def refused(demands: list[Demand], where: Cluster) -> str:
    with pytest.raises(PlacementError) as caught:
        pack(demands, where)
    return str(caught.value)


@pytest.mark.parametrize(
    ("demand", "told"),
    [
        (Demand("s", 1, 1000, 412 * GB), ("412.0 GB of memory", "pool cpu has 384.0 GB of memory", "--s-max")),
        (Demand("s", 1, 65_000, GB), ("needs 65 cores", "pool cpu has 64 cores")),
        (Demand("s", 1, 1000, GB, 1, GB), ("needs 1 GPUs", "pool cpu has 0 GPUs")),
    ],
)
def test_a_replica_larger_than_every_node(demand: Demand, told: tuple[str, ...]) -> None:
    message = refused([demand], cluster(CPU))
    assert "service s: one replica" in message and all(part in message for part in told)


def test_a_replica_larger_than_every_gpu() -> None:
    message = refused([Demand("s", 1, 1000, GB, 1, 20 * GB)], cluster(CPU, GPU))
    assert "20.0 GB of GPU memory" in message and "pool gpu has 16.0 GB of GPU memory" in message


def test_every_replica_too_large_is_told() -> None:
    message = refused([Demand("a", 1, 1, 400 * GB), Demand("b", 1, 70_000, 1)], cluster(CPU))
    assert "service a" in message and "service b" in message


@pytest.mark.parametrize(
    ("demand", "where", "told"),
    [
        (
            Demand("s", 40, 1000, 192 * GB),
            CPU,
            "memory: the replicas need 7,680.0 GB in all, the nodes have 4,224.0 GB",
        ),
        (Demand("s", 40, 32_000, GB), CPU, "cores: the replicas need 1,280 in all, the nodes have 704"),
        (Demand("s", 22, 1000, GB, 1, GB), GPU, "GPUs: the replicas need 22 in all, the nodes have 20"),
        (Demand("s", 12, 1000, 200 * GB), CPU, "memory: the replicas need 57% of what all nodes have"),
    ],
)
def test_too_much_in_all_and_nodes_that_would_do(demand: Demand, where: NodePool, told: str) -> None:
    """With the nodes more it fits; with one fewer it does not."""
    message = refused([demand], cluster(where))
    assert told in message
    found = re.search(r"(\d+) more nodes? of pool (\w+) would do", message)
    assert found and found[2] == where.name and where.count
    enough = where.count + int(found[1])
    pack([demand], cluster(replace(where, count=enough)))
    refused([demand], cluster(replace(where, count=enough - 1)))


def test_the_cheapest_pool_to_enlarge_is_named() -> None:
    small = NodePool("small", 1, 4000, 16 * GB, 0, 0, 1.0)
    demands = [Demand(f"s{i}", 1, 4000, 8 * GB) for i in range(9)]
    message = refused(demands, cluster(replace(small, name="dear", price_per_hour=3.0), small))
    assert "7 more nodes of pool small would do" in message


def test_too_few_nodes_to_spread_over() -> None:
    demand = Demand("s", 4, 1000, GB)
    message = refused([demand], cluster(replace(CPU, count=1)))
    assert (
        "spread: service s has 4 replicas, at most 2 per node (spread 0.5), so 2 nodes, and 1 can hold one" in message
    )
    assert "; 1 more node of pool cpu would do" in message
    assert "2 more nodes of pool cpu would do" in refused([demand], cluster(replace(CPU, count=2), spread=0.25))


def test_spread_is_named_where_it_alone_is_in_the_way() -> None:
    """Two on each node at most; the big one leaves no room for two on its node."""
    demands = [Demand("big", 1, 1000, 12), Demand("s", 4, 1000, 4)]
    message = refused(demands, cluster(NodePool("p", 2, 64_000, 16, 0, 0, 1.0)))
    assert "spread: with at most 0.5" in message and "1 more node of pool p" in message
    assert pack(demands, cluster(NodePool("p", 2, 64_000, 16, 0, 0, 1.0), spread=1.0)).nodes == 2


def test_demands_must_make_sense() -> None:
    message = refused([Demand("a", 0, 1, 1), Demand("b", 1, -1, 1), Demand("b", 1, 1, 1)], cluster(CPU))
    assert len(message.splitlines()) == 3


def test_many_demands_are_packed_greedily_and_the_gap_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of services must not take hours: no linear program is solved, and the bound stays a bound."""

    def never(*_: object, **__: object) -> None:
        raise AssertionError("a search was started")

    monkeypatch.setattr("repo_builder.partition.placement.search._dive", never)
    pools = (NodePool("p", None, 8000, 64 * 10**9, 0, 0, 1.0),)
    demands = [Demand(f"d{i}", 1 + i % 3, 1000, (1 + i % 7) * 10**9) for i in range(1000)]
    packing = pack(demands, Cluster("c", pools))
    held = sum(group.nodes * sum(group.replicas.values()) for group in packing.groups)
    assert held == sum(demand.replicas for demand in demands)
    assert 0 <= packing.gap < 0.2
