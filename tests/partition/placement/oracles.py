"""An independent checker of packings, and the least price by trying everything."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import product

from repo_builder.partition.placement.cluster import Cluster
from repo_builder.partition.placement.nodes import Demand, Packing


def check(packing: Packing, demands: Sequence[Demand], cluster: Cluster) -> None:
    """Every replica once, no node over what it has, no pool over its count, no service too close together."""
    by_name, pools = {demand.name: demand for demand in demands}, {pool.name: pool for pool in cluster.pools}
    placed: Counter[str] = Counter()
    nodes: Counter[str] = Counter()
    for group in packing.groups:
        pool = pools[group.pool]
        held = [(by_name[name], count) for name, count in group.replicas.items()]
        assert group.nodes > 0 and held and all(count > 0 for _, count in held)
        assert sum(count * demand.millicores for demand, count in held) <= pool.millicores
        assert sum(count * demand.memory_bytes for demand, count in held) <= pool.memory_bytes
        assert sum(count * demand.gpus for demand, count in held) <= pool.gpus
        for demand, count in held:
            assert count == 1 or count / demand.replicas <= cluster.spread + 1e-9
            assert not demand.gpus or demand.gpu_memory_bytes <= pool.gpu_memory_bytes
            placed[demand.name] += group.nodes * count
        nodes[group.pool] += group.nodes
    assert placed == {demand.name: demand.replicas for demand in demands}
    assert all((pools[name].count or math.inf) >= count for name, count in nodes.items())
    assert packing.nodes == nodes.total() and packing.pool_nodes == nodes
    price = sum(pools[name].price_per_hour * count for name, count in nodes.items())
    assert math.isclose(packing.price_per_hour, price)
    assert packing.lower_bound_per_hour <= price * (1 + 1e-9)


def least_price(demands: Sequence[Demand], cluster: Cluster) -> float:
    """By dynamic programming over what is still to be placed, trying every content of a next node; inf if none fits."""
    contents = [list(_contents(demands, cluster, p)) for p in range(len(cluster.pools))]

    @cache
    def least(left: tuple[int, ...], nodes: tuple[int, ...]) -> float:
        if not any(left):
            return 0.0
        best = math.inf
        for p, pool in enumerate(cluster.pools):
            if not nodes[p]:
                continue
            fewer = (*nodes[:p], nodes[p] - 1, *nodes[p + 1 :])
            for counts in contents[p]:
                if all(count <= have for count, have in zip(counts, left, strict=True)):
                    rest = tuple(have - count for count, have in zip(counts, left, strict=True))
                    best = min(best, pool.price_per_hour + least(rest, fewer))
        return best

    replicas = tuple(demand.replicas for demand in demands)
    return least(replicas, tuple(sum(replicas) if pool.count is None else pool.count for pool in cluster.pools))


def _contents(demands: Sequence[Demand], cluster: Cluster, p: int) -> Iterator[tuple[int, ...]]:
    pool = cluster.pools[p]
    for counts in product(*(range(demand.replicas + 1) for demand in demands)):
        held = [(demand, count) for demand, count in zip(demands, counts, strict=True) if count]
        if (
            held
            and sum(count * demand.millicores for demand, count in held) <= pool.millicores
            and sum(count * demand.memory_bytes for demand, count in held) <= pool.memory_bytes
            and sum(count * demand.gpus for demand, count in held) <= pool.gpus
            and all(count == 1 or count / demand.replicas <= cluster.spread + 1e-9 for demand, count in held)
            and all(not demand.gpus or demand.gpu_memory_bytes <= pool.gpu_memory_bytes for demand, _ in held)
        ):
            yield counts
