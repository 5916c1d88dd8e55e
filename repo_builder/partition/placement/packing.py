"""Packing replicas onto nodes at the least price per hour; or why they do not fit, and what would make them fit."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from repo_builder.errors import PlacementError
from repo_builder.partition.placement.cluster import GB, Cluster, NodePool
from repo_builder.partition.placement.nodes import (
    RESOURCES,
    Demand,
    NodeGroup,
    Packing,
    Pattern,
    capacity,
    fill,
    utilisation,
)
from repo_builder.partition.placement.search import Solution, solve
from repo_builder.partition.plan import duplicates
from repo_builder.words import count, plural

_FREE = 1e-6  # what the nodes that exist cost, beside those asked for
_FEWER_PIECES = "; or cut the tables into smaller services (--s-max, --grouping)"


def pack(demands: Sequence[Demand], cluster: Cluster) -> Packing:
    """Put all replicas onto nodes of the cluster at the least price; `Packing.gap` says how surely it is the least.

    A node holds no more than it has, and at most the cluster's `spread` of a demand's replicas. Raises PlacementError
    where they do not fit, with the constraint and the smallest change that would fit.
    """
    _check(demands)
    if not demands:
        return Packing((), 0.0, 0.0, "none", {})
    problems = _too_big(demands, cluster)
    if problems:
        raise PlacementError(*problems)
    alone = _prices_alone(demands, cluster)
    found = _solve(demands, cluster, max(alone.values()))
    if found.missing:
        raise PlacementError(_refusal(demands, cluster))
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
    start = _first_fit(demands, cluster, limited=True) or _first_fit(demands, cluster, limited=False)
    if start is None:
        raise AssertionError("every demand fits into an empty node, so nodes without a limit hold all")
    return solve(demands, cluster, start, least)


def _first_fit(demands: Sequence[Demand], cluster: Cluster, limited: bool) -> dict[Pattern, int] | None:
    """A packing that is good enough to start from, in a moment: how many nodes of which pattern hold all replicas.

    A node is filled with the largest replicas first, those that the fewest pools can hold before all others; of the
    pools the one that holds the most for its price is opened, and the same contents are repeated while they are wanted.
    None where the nodes run out (`limited` by the counts). Every demand must fit into a node of some pool.
    """
    wanted = [demand.replicas for demand in demands]
    left = [pool.count if limited and pool.count is not None else sum(wanted) for pool in cluster.pools]
    weights = _weights(demands, cluster)
    order = _order(demands, cluster, weights)
    used: dict[Pattern, int] = {}
    while any(wanted):
        filled = [fill(demands, wanted, cluster, p, order) for p in range(len(cluster.pools)) if left[p]]
        useful = [pattern for pattern in filled if any(pattern.counts)]
        if not useful:
            return None
        best = min(useful, key=lambda pattern: _price_of_weight(pattern, cluster, weights))
        times = min(have // count for have, count in zip(wanted, best.counts, strict=True) if count)
        times = min(times, left[best.pool])
        left[best.pool] -= times
        wanted = [have - times * count for have, count in zip(wanted, best.counts, strict=True)]
        used[best] = used.get(best, 0) + times
    return used


def _weights(demands: Sequence[Demand], cluster: Cluster) -> list[float]:
    """The largest share that a replica takes of any resource of the largest node."""
    largest = [max(rooms) for rooms in zip(*(capacity(pool) for pool in cluster.pools), strict=True)]
    return [
        max(1e-9, *(need / room for need, room in zip(demand.vector, largest, strict=True) if room))
        for demand in demands
    ]


def _order(demands: Sequence[Demand], cluster: Cluster, weights: Sequence[float]) -> list[int]:
    choices = [sum(demand.fits(pool) for pool in cluster.pools) for demand in demands]
    return sorted(range(len(demands)), key=lambda d: (choices[d], -weights[d], d))


def _price_of_weight(pattern: Pattern, cluster: Cluster, weights: Sequence[float]) -> float:
    held = sum(count * weight for count, weight in zip(pattern.counts, weights, strict=True))
    return cluster.pools[pattern.pool].price_per_hour / held


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


def _too_big(demands: Sequence[Demand], cluster: Cluster) -> list[str]:
    """A line for every demand of which one replica is larger than every node."""
    return [
        f"cluster {cluster.name}: service {demand.name}: {_lacking(demand, cluster)}"
        for demand in demands
        if not any(demand.fits(pool) for pool in cluster.pools)
    ]


def _lacking(demand: Demand, cluster: Cluster) -> str:
    """Of the pool that comes closest: the one with the smallest shortage."""

    def lacks(pool: NodePool) -> list[tuple[str, float, str, str]]:
        named = list(zip(RESOURCES, demand.vector, capacity(pool), strict=True))
        if demand.gpus and pool.gpus:
            named.append(("GPU memory", demand.gpu_memory_bytes, pool.gpu_memory_bytes))
        return [
            (name, need / room if room else math.inf, _amount(name, need), _amount(name, room))
            for name, need, room in named
            if need > room
        ]

    closest = min(cluster.pools, key=lambda pool: (max(share for _, share, _, _ in lacks(pool)), len(lacks(pool))))
    missing = lacks(closest)
    needs = " and ".join(f"{need} {_of(name)}" for name, _, need, _ in missing)
    has = " and ".join(f"{room} {_of(name)}" for name, _, _, room in missing)
    change = f"give the nodes of a pool {needs}"
    smaller = _FEWER_PIECES if "memory" in {name for name, *_ in missing} else ""
    return f"one replica needs {needs}, and no node has it: pool {closest.name} has {has}; {change}{smaller}"


def _too_few(demand: Demand, cluster: Cluster) -> str | None:
    """Why the spread alone asks for more nodes than can hold a replica of the demand; None where it does not."""
    most = cluster.most_on_a_node(demand.replicas)
    needed = math.ceil(demand.replicas / most)
    have = sum(math.inf if pool.count is None else pool.count for pool in cluster.pools if demand.fits(pool))
    if needed <= have:
        return None
    return (
        f"spread: service {demand.name} has {count(demand.replicas, 'replica')}, at most {most} per node "
        f"(spread {cluster.spread:g}), so {count(needed, 'node')}, and {have:g} can hold one"
    )


def _refusal(demands: Sequence[Demand], cluster: Cluster) -> str:
    """Why the replicas together do not fit, and which nodes more would do."""
    changes = [change for pool in cluster.pools if (change := _more(demands, cluster, pool))]
    fix = f"; {_more_nodes(*min(changes, key=lambda c: (c[0] * c[1].price_per_hour, c[0])))}" if changes else ""
    return f"cluster {cluster.name}: {_constraint(demands, cluster)}{fix}"


def _constraint(demands: Sequence[Demand], cluster: Cluster) -> str:
    totals = []
    for i, name in enumerate(RESOURCES):
        need = sum(demand.replicas * demand.vector[i] for demand in demands)
        have = sum(math.inf if pool.count is None else pool.count * capacity(pool)[i] for pool in cluster.pools)
        totals.append((need / max(have, 1), name, need, have))
    share, name, need, have = max(totals)
    if share > 1:
        return f"{name}: the replicas need {_amount(name, need)} in all, the nodes have {_amount(name, have)}"
    too_few = next(filter(None, (_too_few(demand, cluster) for demand in demands)), None)
    if too_few:
        return too_few
    if not _solve(demands, replace(cluster, spread=1.0)).missing:
        return (
            f"spread: with at most {cluster.spread:g} of a service's replicas on a node they do not fit; without, yes"
        )
    return (
        f"{name}: the replicas need {share:.0%} of what all nodes have, but do not fit together; none found that does"
    )


def _more(demands: Sequence[Demand], cluster: Cluster, pool: NodePool) -> tuple[int, NodePool] | None:
    """How many more nodes of the pool make everything fit; None where it is endless or they cannot."""
    if pool.count is None:
        return None
    pools = [replace(other, price_per_hour=other.price_per_hour * _FREE) for other in cluster.pools]
    index = cluster.pools.index(pool)
    pools[index] = replace(pool, count=None)
    found = _solve(demands, replace(cluster, pools=tuple(pools)))
    nodes = sum(times for pattern, times in found.used.items() if pattern.pool == index)
    return None if found.missing else (max(1, nodes - pool.count), pool)


def _more_nodes(nodes: int, pool: NodePool) -> str:
    """The change in words."""
    return f"{nodes} more {plural(nodes, 'node')} of pool {pool.name} would do"


def _amount(resource: str, value: float) -> str:
    """A resource's amount for a reader, in the cluster file's units."""
    if resource == "cores":
        return f"{value / 1000:,g}"
    return f"{value:,g}" if resource == "GPUs" else f"{value / GB:,.1f} GB"


def _of(resource: str) -> str:
    return {"memory": "of memory", "GPU memory": "of GPU memory"}.get(resource, resource)
