"""Packing replicas onto nodes at the least price an hour."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from repo_builder.errors import PlacementError
from repo_builder.partition.placement.cluster import Cluster
from repo_builder.partition.placement.greedy import Pattern, greedy
from repo_builder.partition.placement.nodes import RESOURCES, Demand, NodeGroup, Packing, capacity, utilisation
from repo_builder.partition.placement.patterns import Solution, solve
from repo_builder.partition.placement.refusal import refusal, too_big
from repo_builder.partition.plan import duplicates


def pack(demands: Sequence[Demand], cluster: Cluster) -> Packing:
    """Put all replicas onto nodes of the cluster at the least price; `Packing.gap` says how surely it is the least.

    A node holds no more than it has, and at most the cluster's `spread` of a demand's replicas. Raises PlacementError
    where they do not fit, with the constraint and the smallest change that would fit.
    """
    _check(demands)
    if not demands:
        return Packing((), 0.0, 0.0, "none", {})
    problems = too_big(demands, cluster)
    if problems:
        raise PlacementError(*problems)
    alone = _prices_alone(demands, cluster)
    found = _solve(demands, cluster, max(alone.values()))
    if found.missing:
        raise PlacementError(refusal(demands, cluster, _solve))
    groups = _groups(found.used, demands, cluster)
    return Packing(
        groups=groups,
        price_per_hour=math.fsum(cluster.pools[p.pool].price_per_hour * times for p, times in found.used.items()),
        lower_bound_per_hour=found.lower_bound,
        bottleneck=max(alone, key=lambda name: alone[name]),
        utilisation=utilisation(groups, tuple(demands), cluster),
    )


def _check(demands: Sequence[Demand]) -> None:
    problems = [f"demand {name}: expected unique names, got it twice" for name in duplicates([d.name for d in demands])]
    for demand in demands:
        if demand.replicas < 1:
            problems.append(f"demand {demand.name}: replicas: expected at least 1, got {demand.replicas}")
        if min(*demand.vector, demand.gpu_memory_bytes) < 0:
            problems.append(f"demand {demand.name}: expected needs of at least 0, got {demand.vector}")
    if problems:
        raise PlacementError(*problems)


def _solve(demands: Sequence[Demand], cluster: Cluster, least: float = 0.0) -> Solution:
    start = greedy(demands, cluster, limited=True) or greedy(demands, cluster, limited=False)
    if start is None:
        raise AssertionError("every demand fits into an empty node, so nodes without a limit hold all")
    return solve(demands, cluster, start, least)


def _prices_alone(demands: Sequence[Demand], cluster: Cluster) -> dict[str, float]:
    """What nodes would cost if one resource were all that counted, in parts of nodes; and for the spread alone."""
    prices = {}
    for i, name in enumerate(RESOURCES):
        needed, price = float(sum(demand.replicas * demand.vector[i] for demand in demands)), 0.0
        for pool in sorted(cluster.pools, key=lambda pool: pool.price_per_hour / max(1, capacity(pool)[i])):
            room = capacity(pool)[i]
            nodes = min(needed / room, math.inf if pool.count is None else pool.count) if room else 0.0
            needed, price = needed - nodes * room, price + nodes * pool.price_per_hour
        prices[name] = price
    prices["spread"] = max(
        math.ceil(demand.replicas / cluster.most_on_a_node(demand.replicas))
        * min(pool.price_per_hour for pool in cluster.pools if demand.fits(pool))
        for demand in demands
    )
    return prices


def _groups(used: Mapping[Pattern, int], demands: Sequence[Demand], cluster: Cluster) -> tuple[NodeGroup, ...]:
    """Pools in the cluster's order, fullest nodes first."""
    return tuple(
        NodeGroup(
            cluster.pools[pattern.pool].name,
            times,
            {demand.name: count for demand, count in zip(demands, pattern.counts, strict=True) if count},
        )
        for pattern, times in sorted(used.items(), key=lambda item: (item[0].pool, [-c for c in item[0].counts]))
    )
