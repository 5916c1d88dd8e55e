"""Cluster files: what is accepted, every field's bounds, and all mistakes of a file told at once."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from repo_builder.errors import ClusterError
from repo_builder.partition.placement.cluster import Cluster, NodePool, load_cluster

EXAMPLES = Path(__file__).parents[3] / "examples" / "clusters"
VALID: dict[str, Any] = {
    "name": "c",
    "pools": [{"name": "p", "count": 2, "cores": 4, "memory_gb": 16, "price_per_hour": 1.5}],
}


def load(folder: Path, document: object) -> Cluster:
    (folder / "c.yaml").write_text(yaml.safe_dump(document))
    return load_cluster(folder / "c.yaml")


def problems_of(folder: Path, document: object) -> list[str]:
    with pytest.raises(ClusterError) as caught:
        load(folder, document)
    assert all(problem.startswith(f"{folder / 'c.yaml'}: ") for problem in caught.value.problems)
    return [problem.removeprefix(f"{folder / 'c.yaml'}: ") for problem in caught.value.problems]


def test_the_papers_clusters() -> None:
    cpu, gpu = load_cluster(EXAMPLES / "cpu.yaml"), load_cluster(EXAMPLES / "gpu.yaml")
    assert cpu.pools == (NodePool("cpu", 11, 64_000, 384 * 10**9, 0, 0, 3.5),)
    assert gpu.pools == (NodePool("gpu", 20, 32_000, 120 * 10**9, 1, 16 * 10**9, 2.2),)
    assert cpu.gpu_pools == () and gpu.gpu_pools == gpu.pools


def test_defaults_and_units(tmp_path: Path) -> None:
    """A GB is 10^9 bytes; half a service's replicas on a node; an endless pool where no count is said."""
    document = copy.deepcopy(VALID)
    del document["pools"][0]["count"]
    document["pools"][0]["cores"] = 3.92
    cluster = load(tmp_path, document)
    assert cluster == Cluster("c", (NodePool("p", None, 3920, 16 * 10**9, 0, 0, 1.5),), None, 1000, 1, 0.5)
    more = {**document, "min_memory_gb": 0.25, "instance_cores": 0.5, "max_instances": 4, "spread": 1}
    cluster = load(tmp_path, more)
    assert (cluster.min_memory_bytes, cluster.instance_millicores) == (250_000_000, 500)
    assert (cluster.max_instances, cluster.spread) == (4, 1.0)


@pytest.mark.parametrize(
    ("spread", "replicas", "most"),
    [(0.5, 1, 1), (0.5, 2, 1), (0.5, 3, 1), (0.5, 4, 2), (0.3, 10, 3), (0.1, 30, 3), (0.01, 5, 1), (1.0, 7, 7)],
)
def test_most_on_a_node_is_the_share_rounded_down(spread: float, replicas: int, most: int) -> None:
    assert Cluster("c", (), spread=spread).most_on_a_node(replicas) == most


def test_all_mistakes_at_once(tmp_path: Path) -> None:
    document = {
        "pools": [
            {"name": "p", "count": 0, "cores": 4, "memory_gb": 16, "price_per_hour": 0, "memory_gib": 1},
            {"name": "p", "cores": -1, "memory_gb": 16, "price_per_hour": 1, "gpus": 1},
            {"name": "q", "cores": 1, "memory_gb": float("nan"), "price_per_hour": 1, "gpu_memory_gb": 16},
        ],
        "spread": 2,
        "max_instances": 0,
        "min_memory_gb": "1 GB",
        "instance_cores": 0,
    }
    assert sorted(problem.split(": ")[0] for problem in problems_of(tmp_path, document)) == sorted(
        [
            "name",
            "pools[0].count",
            "pools[0].price_per_hour",
            "pools[0].memory_gib",
            "pools[1].name",
            "pools[1].cores",
            "pools[1].gpu_memory_gb",
            "pools[2].memory_gb",
            "pools[2].gpus",
            "spread",
            "max_instances",
            "min_memory_gb",
            "instance_cores",
        ]
    )


@pytest.mark.parametrize("document", [[], None, "text", {"name": "c", "pools": []}, {"name": "c", "pools": [1]}])
def test_what_is_no_cluster_is_an_error(tmp_path: Path, document: object) -> None:
    assert problems_of(tmp_path, document)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match=r"none\.yaml: expected a file"):
        load_cluster(tmp_path / "none.yaml")
