"""A small model, its accesses and clusters for the tests of what plans are worth."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from repo_builder.access.powerlaw import PowerLawHotness
from repo_builder.partition.accesses import ModelAccesses, model_accesses
from repo_builder.partition.cost import Profile, ServiceTime
from repo_builder.partition.placement.cluster import Cluster, NodePool
from repo_builder.spec import Spec
from tests.partition.helpers import DENSE_TIME, small_spec

PROFILE = Profile("fast", ServiceTime(2e-5, 5e-8), 5000, DENSE_TIME)
TABLES: list[dict[str, Any]] = [
    {"name": "A", "rows": 20_000, "pooling": 128},
    {"name": "B", "rows": 3_000, "pooling": 64, "count": 2},
]
SPEC = small_spec(TABLES)
CPU_POOL = NodePool("cpu", 50, 8000, 4_000_000, 0, 0, 2.0)
GPU_POOL = NodePool("gpu", 50, 8000, 4_000_000, 1, 600_000_000, 5.0)
CPUS, GPUS = Cluster("cpus", (CPU_POOL,)), Cluster("gpus", (GPU_POOL,))


def accesses(spec: Spec = SPEC, locality: float = 0.9) -> ModelAccesses:
    return model_accesses(spec, PowerLawHotness(locality, 0), keep=True)


def with_sla(spec: Spec, sla_ms: float) -> Spec:
    return replace(spec, serving=replace(spec.serving, sla_ms=sla_ms))
