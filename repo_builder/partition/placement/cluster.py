"""The cluster: pools of like nodes that a plan is placed on, in YAML or JSON, checked whole.

The file's `_gb` are 10^9 bytes, as clouds and the paper count them; everything here is in bytes and milli-cores.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repo_builder.documents import read_document, schema_problems
from repo_builder.errors import ClusterError

GB = 10**9
DEFAULT_SPREAD = 0.5
"""No node holds more than half of a service's replicas, so that losing one node leaves the other half serving."""

DEFAULT_INSTANCE_MILLICORES = 1000
"""A Triton instance of ours works in one thread."""


@dataclass(frozen=True, slots=True)
class NodePool:
    """Nodes alike. `count` None: as many as needed; `gpu_memory_bytes` is of one GPU; the price is of one node."""

    name: str
    count: int | None
    millicores: int
    memory_bytes: int
    gpus: int
    gpu_memory_bytes: int
    price_per_hour: float

    @property
    def cores(self) -> float:
        """Cores of one node."""
        return self.millicores / 1000


@dataclass(frozen=True, slots=True)
class Cluster:
    """Where services may run, and how they must be spread.

    `min_memory_bytes` is a container's minimum where it is not the profile's; `spread` the largest share of a
    service's replicas on one node (one replica is always allowed); `max_instances` the most Triton instances of a
    replica, each with `instance_millicores`.
    """

    name: str
    pools: tuple[NodePool, ...]
    min_memory_bytes: int | None = None
    instance_millicores: int = DEFAULT_INSTANCE_MILLICORES
    max_instances: int = 1
    spread: float = DEFAULT_SPREAD

    @property
    def gpu_pools(self) -> tuple[NodePool, ...]:
        """The pools whose nodes have GPUs."""
        return tuple(pool for pool in self.pools if pool.gpus)

    def most_on_a_node(self, replicas: int) -> int:
        """How many of a service's replicas may share a node: the spread's share, rounded down, and at least one."""
        return max(1, int(self.spread * replicas * (1 + 1e-9)))


def load_cluster(path: Path) -> Cluster:
    """Read and check a cluster file (`.json`, else YAML).

    Raises ClusterError with one problem per line: file, field, what was expected, what came.
    """
    document = read_document(path, ClusterError)
    problems = [*schema_problems(document, "cluster.schema.json"), *_cross_field_problems(document)]
    if problems or not isinstance(document, Mapping):
        raise ClusterError(*(f"{path}: {problem}" for problem in problems))
    min_memory_gb = document.get("min_memory_gb")
    return Cluster(
        name=document["name"],
        pools=tuple(_pool(entry) for entry in document["pools"]),
        min_memory_bytes=None if min_memory_gb is None else round(min_memory_gb * GB),
        instance_millicores=round(1000 * document.get("instance_cores", DEFAULT_INSTANCE_MILLICORES / 1000)),
        max_instances=document.get("max_instances", 1),
        spread=float(document.get("spread", DEFAULT_SPREAD)),
    )


def _pool(entry: Mapping[str, Any]) -> NodePool:
    return NodePool(
        name=entry["name"],
        count=entry.get("count"),
        millicores=round(1000 * entry["cores"]),
        memory_bytes=round(entry["memory_gb"] * GB),
        gpus=entry.get("gpus", 0),
        gpu_memory_bytes=round(entry.get("gpu_memory_gb", 0) * GB),
        price_per_hour=float(entry["price_per_hour"]),
    )


def _cross_field_problems(document: object) -> Iterator[str]:
    """What the schema cannot say: that pools differ in name, and that GPUs come with their memory."""
    pools = document.get("pools") if isinstance(document, Mapping) else None
    owners: dict[str, int] = {}
    for i, pool in enumerate(pools if isinstance(pools, list) else []):
        if not isinstance(pool, Mapping):
            continue
        name, gpus = pool.get("name"), pool.get("gpus", 0)
        if isinstance(name, str) and owners.setdefault(name, i) != i:
            yield f"pools[{i}].name: expected unique pool names, got {name!r} from pools[{owners[name]}] too"
        if isinstance(gpus, int) and gpus > 0 and "gpu_memory_gb" not in pool:
            yield f"pools[{i}].gpu_memory_gb: expected the memory of one GPU beside gpus: {gpus}, got none"
        if gpus == 0 and "gpu_memory_gb" in pool:
            yield f"pools[{i}].gpus: expected at least 1 beside gpu_memory_gb, got none"
