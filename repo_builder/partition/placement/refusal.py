"""Why replicas do not fit onto a cluster's nodes, and the smallest change with which they would."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from repo_builder.partition.placement.cluster import GB, Cluster, NodePool
from repo_builder.partition.placement.nodes import RESOURCES, Demand, capacity
from repo_builder.partition.placement.patterns import Solution
from repo_builder.words import count, plural

_FREE = 1e-6  # what the nodes that exist cost, beside those asked for
_FEWER_PIECES = "; or cut the tables into smaller services (--s-max, --grouping)"


def too_big(demands: Sequence[Demand], cluster: Cluster) -> list[str]:
    """A line for every demand of which one replica is larger than every node."""
    return [
        f"cluster {cluster.name}: service {demand.name}: {_too_big(demand, cluster)}"
        for demand in demands
        if not any(demand.fits(pool) for pool in cluster.pools)
    ]


def _too_big(demand: Demand, cluster: Cluster) -> str:
    """Of the pool that comes closest: the one with the smallest shortage."""

    def lacks(pool: NodePool) -> list[tuple[str, float, str, str]]:
        named = list(zip(RESOURCES, demand.vector, capacity(pool), strict=True))
        if demand.gpus and pool.gpus:
            named.append(("GPU memory", demand.gpu_memory_bytes, pool.gpu_memory_bytes))
        return [
            (name, need / room if room else math.inf, amount(name, need), amount(name, room))
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
        f"spread: service {demand.name} has {count(demand.replicas, 'replica')}, at most {most} a node "
        f"(spread {cluster.spread:g}), so {count(needed, 'node')}, and {have:g} can hold one"
    )


def refusal(demands: Sequence[Demand], cluster: Cluster, solve: Callable[[Sequence[Demand], Cluster], Solution]) -> str:
    """Why the replicas together do not fit, and which nodes more would do."""
    changes = [change for pool in cluster.pools if (change := _more(demands, cluster, pool, solve))]
    fix = f"; {more_nodes(*min(changes, key=lambda c: (c[0] * c[1].price_per_hour, c[0])))}" if changes else ""
    return f"cluster {cluster.name}: {_constraint(demands, cluster, solve)}{fix}"


def _constraint(
    demands: Sequence[Demand], cluster: Cluster, solve: Callable[[Sequence[Demand], Cluster], Solution]
) -> str:
    totals = []
    for i, name in enumerate(RESOURCES):
        need = sum(demand.replicas * demand.vector[i] for demand in demands)
        have = sum(math.inf if pool.count is None else pool.count * capacity(pool)[i] for pool in cluster.pools)
        totals.append((need / max(have, 1), name, need, have))
    share, name, need, have = max(totals)
    if share > 1:
        return f"{name}: the replicas need {amount(name, need)} in all, the nodes have {amount(name, have)}"
    too_few = next(filter(None, (_too_few(demand, cluster) for demand in demands)), None)
    if too_few:
        return too_few
    if not solve(demands, replace(cluster, spread=1.0)).missing:
        return (
            f"spread: with at most {cluster.spread:g} of a service's replicas on a node they do not fit; without, yes"
        )
    return (
        f"{name}: the replicas need {share:.0%} of what all nodes have, but do not fit together; none found that does"
    )


def _more(
    demands: Sequence[Demand],
    cluster: Cluster,
    pool: NodePool,
    solve: Callable[[Sequence[Demand], Cluster], Solution],
) -> tuple[int, NodePool] | None:
    """How many more nodes of the pool make everything fit; None where it is endless or they cannot."""
    if pool.count is None:
        return None
    pools = [replace(other, price_per_hour=other.price_per_hour * _FREE) for other in cluster.pools]
    place = cluster.pools.index(pool)
    pools[place] = replace(pool, count=None)
    found = solve(demands, replace(cluster, pools=tuple(pools)))
    nodes = sum(times for pattern, times in found.used.items() if pattern.pool == place)
    return None if found.missing else (max(1, nodes - pool.count), pool)


def more_nodes(nodes: int, pool: NodePool) -> str:
    """The change in words."""
    return f"{nodes} more {plural(nodes, 'node')} of pool {pool.name} would do"


def amount(resource: str, value: float) -> str:
    """A resource's amount for a reader, in the cluster file's units."""
    if resource == "cores":
        return f"{value / 1000:,g}"
    return f"{value:,g}" if resource == "GPUs" else f"{value / GB:,.1f} GB"


def _of(resource: str) -> str:
    return {"memory": "of memory", "GPU memory": "of GPU memory"}.get(resource, resource)
