"""What a simulated fleet's pods cost over time."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from repo_builder.errors import PlacementError
from repo_builder.partition.placement.cluster import Cluster
from repo_builder.partition.placement.nodes import Demand, capacity
from repo_builder.simulation.types import Timeline


def price_in_parts(timeline: Timeline, cluster: Cluster) -> NDArray[np.float64]:
    """(k,) An hour's price if nodes were sold in parts: the largest share of a resource times the price of the nodes.

    Of the pool that is the cheapest for it, among those whose nodes hold a replica of every service. Whole nodes and
    spreading come on top: packing them takes seconds, and a day has 5,760 syncs. Raises PlacementError where no pool
    will do.
    """
    services = timeline.fleet.services
    demands = [Demand(s.name, 1, s.instances * cluster.instance_millicores, s.memory_bytes) for s in services]
    pools = [pool for pool in cluster.pools if all(demand.fits(pool) for demand in demands)]
    if not pools:
        most = max(demands, key=lambda demand: demand.memory_bytes)
        raise PlacementError(
            f"{cluster.name}: expected a pool whose nodes hold a replica of {most.name}, {most.memory_bytes / 1e9:.1f} "
            f"GB and {most.millicores / 1000:g} cores, and of all other services, found none; add larger nodes"
        )
    needs = timeline.replicas @ np.array([demand.vector for demand in demands], float)  # (k, 3)
    prices = []
    for pool in pools:
        room = np.array(capacity(pool), float)
        prices.append(pool.price_per_hour * (needs[:, room > 0] / room[room > 0]).max(axis=1))
    return np.asarray(np.min(prices, axis=0))
