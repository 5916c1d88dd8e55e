"""What packing takes and gives: demands of replicas, what a node may hold of them, and nodes with what they hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from repo_builder.partition.placement.cluster import Cluster, NodePool

RESOURCES = ("cores", "memory", "GPUs")
"""What a node's replicas share, in the order of every vector here: milli-cores, bytes of host memory, whole GPUs."""


@dataclass(frozen=True, slots=True)
class Demand:
    """A service's replicas and what each needs of a node.

    A replica has its `gpus` for itself, each with at least `gpu_memory_bytes`: Kubernetes lends GPUs whole.
    """

    name: str
    replicas: int
    millicores: int
    memory_bytes: int
    gpus: int = 0
    gpu_memory_bytes: int = 0

    @property
    def vector(self) -> tuple[int, int, int]:
        """One replica's needs, in the order of RESOURCES."""
        return self.millicores, self.memory_bytes, self.gpus

    def fits(self, pool: NodePool) -> bool:
        """Whether an empty node of the pool can hold one replica."""
        roomy = all(need <= room for need, room in zip(self.vector, capacity(pool), strict=True))
        return roomy and (not self.gpus or self.gpu_memory_bytes <= pool.gpu_memory_bytes)


def capacity(pool: NodePool) -> tuple[int, int, int]:
    """What a node of the pool has, in the order of RESOURCES."""
    return pool.millicores, pool.memory_bytes, pool.gpus


@dataclass(frozen=True, slots=True)
class Pattern:
    """What one node of a pool may hold: `pool` is its index in the cluster, `counts` the replicas of each demand."""

    pool: int
    counts: tuple[int, ...]


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


@dataclass(frozen=True, slots=True)
class NodeGroup:
    """So many nodes of a pool with the same contents: replicas of each demand by name, zeros left out."""

    pool: str
    nodes: int
    replicas: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Packing:
    """Where every replica runs. Prices are an hour's.

    `bottleneck` is the constraint that alone would make the nodes cost the most: one of RESOURCES, or "spread".
    `utilisation` is the used share of the used nodes' cores, memory, GPUs and GPU memory, where they have any.
    """

    groups: tuple[NodeGroup, ...]
    price_per_hour: float
    lower_bound_per_hour: float
    bottleneck: str
    utilisation: Mapping[str, float]

    @property
    def nodes(self) -> int:
        """Nodes in use."""
        return sum(group.nodes for group in self.groups)

    @property
    def pool_nodes(self) -> Mapping[str, int]:
        """Nodes in use by pool; pools without any are left out."""
        counts: dict[str, int] = {}
        for group in self.groups:
            counts[group.pool] = counts.get(group.pool, 0) + group.nodes
        return counts

    @property
    def gap(self) -> float:
        """How much of the price may be too much: 0 is proven least, 0.01 at most one per cent above the least."""
        return max(0.0, 1 - self.lower_bound_per_hour / self.price_per_hour) if self.price_per_hour else 0.0


def utilisation(groups: tuple[NodeGroup, ...], demands: tuple[Demand, ...], cluster: Cluster) -> dict[str, float]:
    """The used share of every resource of the used nodes; resources that they do not have are left out."""
    pools, needs = {pool.name: pool for pool in cluster.pools}, {demand.name: demand for demand in demands}
    had, used = [0.0] * 4, [0.0] * 4
    for group in groups:
        pool = pools[group.pool]
        for i, room in enumerate((*capacity(pool), pool.gpus * pool.gpu_memory_bytes)):
            had[i] += group.nodes * room
        for name, replicas in group.replicas.items():
            demand = needs[name]
            for i, need in enumerate((*demand.vector, demand.gpus * demand.gpu_memory_bytes)):
                used[i] += group.nodes * replicas * need
    return {name: u / h for name, u, h in zip((*RESOURCES, "GPU memory"), used, had, strict=True) if h}


def price_in_parts(needs: NDArray[np.float64], pools: Sequence[NodePool]) -> NDArray[np.float64]:
    """An hour's price if nodes were sold in parts: the largest share of a resource times the price of the nodes.

    Of the cheapest of the pools, of which there must be one; whole nodes and spreading come on top. `needs` are those
    of all replicas together, (k, resources) in the order of RESOURCES; the prices are (k,).
    """
    prices = []
    for pool in pools:
        room = np.array(capacity(pool), float)
        prices.append(pool.price_per_hour * (needs[:, room > 0] / room[room > 0]).max(axis=1))
    return np.asarray(np.min(prices, axis=0))
