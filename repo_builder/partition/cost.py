"""What a service costs: its replicas at the target traffic times the memory of one (ElasticRec, ISCA 2024, alg. 1).

A replica that gathers g embedding rows in a query takes `fixed_s + per_gather_s * g` seconds for it, so it serves the
inverse of that in queries a second. At the target traffic a service's *load* is `target_qps * seconds`, in replicas.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repo_builder.documents import read_document, schema_problems
from repo_builder.errors import PlanError

REPLICA_TOLERANCE = 1e-9
"""A load within this share above a whole number of replicas needs no further replica."""


@dataclass(frozen=True, slots=True)
class ServiceTime:
    """Seconds that one replica of an embedding service takes for a query: affine in the rows that it gathers."""

    fixed_s: float
    per_gather_s: float

    def seconds(self, gathers: float) -> float:
        """Time of a query that gathers so many rows."""
        return self.fixed_s + self.per_gather_s * gathers


@dataclass(frozen=True, slots=True)
class DenseTime:
    """Seconds that one replica of the dense service takes for a query: affine in its floating-point operations."""

    fixed_s: float
    per_flop_s: float

    def seconds(self, flops: float) -> float:
        """Time of a query of so many floating-point operations."""
        return self.fixed_s + self.per_flop_s * flops


@dataclass(frozen=True, slots=True)
class Profile:
    """What was measured of the machine that will serve: service times, and the memory of an empty container."""

    name: str
    service_time: ServiceTime
    min_memory_bytes: int
    dense_service_time: DenseTime


DEFAULT_DENSE_TIME = DenseTime(fixed_s=0.0005, per_flop_s=2e-11)
DEFAULT_PROFILE = Profile("default", ServiceTime(fixed_s=0.0005, per_gather_s=5e-8), 300 * 10**6, DEFAULT_DENSE_TIME)
"""Stands in where nothing was measured: calls of 0.5 ms, 20 M gathers/s, 50 GFLOP/s, containers of 300 MB."""


def load_profile(path: Path) -> Profile:
    """Read a measured profile (`profile.schema.json`); keys that it does not know are passed over.

    Raises PlanError with one problem a line: file, field, what was expected, what came.
    """
    document = read_document(path, PlanError)
    problems = schema_problems(document, "profile.schema.json")
    if problems or not isinstance(document, Mapping):
        raise PlanError(*(f"{path}: {problem}" for problem in problems))
    return _profile(document, path.stem)


def _profile(document: Mapping[str, Any], default_name: str) -> Profile:
    embedding, dense = document["service_time"], document.get("dense_service_time")
    return Profile(
        name=document.get("name", default_name),
        service_time=ServiceTime(float(embedding["fixed_s"]), float(embedding["per_gather_s"])),
        min_memory_bytes=int(document["min_memory_bytes"]),
        dense_service_time=DenseTime(float(dense["fixed_s"]), float(dense["per_flop_s"]))
        if dense
        else DEFAULT_DENSE_TIME,
    )


def replicas_for(load: float) -> int:
    """The whole replicas that a load needs: at least 1, rounded up with the relative tolerance."""
    if not math.isfinite(load):
        raise PlanError("profile: expected service times whose product with target_qps is a number, got infinity")
    below = int(load)
    return max(1, below if load <= below * (1 + REPLICA_TOLERANCE) else below + 1)


@dataclass(frozen=True, slots=True)
class CostModel:
    """Prices a segment of a hotness order: `replicas * (rows * row_bytes + min_memory_bytes)`.

    With `ceiling`, replicas are whole and costs are ints (bytes); without it, replicas are the real `max(1, load)`.
    """

    target_qps: float
    service_time: ServiceTime
    row_bytes: int
    min_memory_bytes: int
    ceiling: bool = True

    def load(self, gathers: float) -> float:
        """The service's time per second of traffic, in replicas."""
        return self.target_qps * (self.service_time.fixed_s + self.service_time.per_gather_s * gathers)

    def replicas(self, gathers: float) -> float:
        """Replicas of a service that gathers so many rows in a query: an int with the ceiling."""
        load = self.load(gathers)
        return replicas_for(load) if self.ceiling else max(1.0, load)

    def cost(self, rows: int, gathers: float) -> float:
        """Bytes over all replicas of a segment: an int with the ceiling."""
        return self.replicas(gathers) * (rows * self.row_bytes + self.min_memory_bytes)

    def loads(self, gathers: NDArray[np.float64]) -> NDArray[np.float64]:
        """`load` of many services at once, equal to it bit for bit; same shape as `gathers`."""
        return self.target_qps * (self.service_time.fixed_s + self.service_time.per_gather_s * gathers)

    def replica_counts(self, gathers: NDArray[np.float64]) -> NDArray[np.float64]:
        """`replicas` of many services at once, whole numbers with the ceiling; same shape as `gathers`."""
        loads = self.loads(gathers)
        if not self.ceiling:
            return np.maximum(loads, 1.0)
        below = np.floor(loads)
        below += loads > below * (1 + REPLICA_TOLERANCE)
        return np.maximum(below, 1.0)
