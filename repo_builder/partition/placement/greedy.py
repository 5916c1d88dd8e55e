"""First fit, node by node: a packing that is good enough to start from, in a moment.

A node is filled with the largest replicas first, those that the fewest pools can hold before all others; of the pools
the one that holds the most for its price is opened, and the same contents are repeated while they are wanted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from repo_builder.partition.placement.cluster import Cluster
from repo_builder.partition.placement.nodes import Demand, capacity


@dataclass(frozen=True, slots=True)
class Pattern:
    """What one node of a pool may hold: `pool` is its place in the cluster, `counts` the replicas of each demand."""

    pool: int
    counts: tuple[int, ...]


def greedy(demands: Sequence[Demand], cluster: Cluster, limited: bool) -> dict[Pattern, int] | None:
    """How many nodes of which pattern hold all replicas; None where the nodes run out (`limited` by the counts).

    Every demand must fit into a node of some pool.
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


def fill(
    demands: Sequence[Demand],
    wanted: Sequence[int],
    cluster: Cluster,
    pool: int,
    order: Sequence[int],
    held: Sequence[int] | None = None,
) -> Pattern:
    """A node's contents: beside what it holds already, as many replicas as fit and are wanted, in the given order."""
    counts = list(held) if held else [0] * len(demands)
    room = [
        have - sum(count * demand.vector[i] for count, demand in zip(counts, demands, strict=True))
        for i, have in enumerate(capacity(cluster.pools[pool]))
    ]
    for d in order:
        demand = demands[d]
        if not wanted[d] or not demand.fits(cluster.pools[pool]):
            continue
        more = min(wanted[d], cluster.most_on_a_node(demand.replicas)) - counts[d]
        more = min([more, *(have // need for have, need in zip(room, demand.vector, strict=True) if need)])
        counts[d] += more
        room = [have - more * need for have, need in zip(room, demand.vector, strict=True)]
    return Pattern(pool, tuple(counts))


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
