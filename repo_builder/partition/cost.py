"""What a service costs: its replicas at the target traffic times the memory of one (ElasticRec, ISCA 2024, alg. 1).

A replica that gathers g embedding rows in a query takes `fixed_s + per_gather_s * g` seconds for it, so it serves the
inverse of that in queries per second. At the target traffic a service's *load* is `target_qps * seconds`, in replicas.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from repo_builder.documents import format_problems, read_document, schema_problems
from repo_builder.errors import PlanError

FORMAT = 1
"""Of profile files; one of another number is refused by name."""

REPLICA_TOLERANCE = 1e-9
"""A load within this share above a whole number of replicas needs no further replica."""

DEFAULT_REMOTE_CALL_S = 0.0004
"""One gRPC call between servers, where it was not measured."""

DEFAULT_FRONT_CALL_S = 2.2e-5
"""A front end's CPU for one more service that a query calls, where it was not measured: benchmarks/fleet.py's 30 calls
of `per_table` beside 3 of `tiered`."""

SizeBy = Literal["capacity", "cpu"]
"""What replicas are counted by: a replica's most queries per second within the SLA on a core of its own; or the CPU
seconds that a query takes where queries come one at a time."""


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
class Batching:
    """How a call's fixed time is shared when Triton joins `queries` of them in it, the mean under full load.

    A call of n queries takes `call_s + n * query_s` beside the gathers, so that `ServiceTime.fixed_s`, a query's share
    of it, is `call_s / queries + query_s`; a query alone takes `call_s + query_s`.
    """

    call_s: float
    query_s: float
    queries: float


@dataclass(frozen=True, slots=True)
class RowCache:
    """What a gathered row costs: `hit_s` where all rows of its service fit into the processor's last cache of so many
    bytes, `miss_s` where they do not.
    """

    size_bytes: int
    hit_s: float
    miss_s: float


@dataclass(frozen=True, slots=True)
class DeviceTimes:
    """Service times of one instance on one kind of device, or at one kind of load."""

    service_time: ServiceTime
    dense_service_time: DenseTime


@dataclass(frozen=True, slots=True)
class Profile:
    """What was measured of the machine that will serve: service times, and the memory of an empty container.

    A replica's most queries per second within the SLA, on a core of its own, are the inverse of the service times;
    `light_load` has a core's time for a query that comes alone: threads are woken for it, and no other shares its call.
    `batching`, `row_cache` and `light_load` are None where they were not measured, `gpu` where there was none;
    `remote_call_s` is what one gRPC call of a service in another server adds to its latency, and `front_call_s` what it
    takes of the front end's CPU.

    The partitioner cuts by `service_time`, whose price of a row is the mean over the whole model's accesses. What a
    service then serves follows from its own rows, where `row_cache` says more of them.
    """

    name: str
    service_time: ServiceTime
    min_memory_bytes: int
    dense_service_time: DenseTime
    batching: Batching | None = None
    remote_call_s: float = DEFAULT_REMOTE_CALL_S
    gpu: DeviceTimes | None = None
    row_cache: RowCache | None = None
    light_load: DeviceTimes | None = None
    front_call_s: float = DEFAULT_FRONT_CALL_S

    def sized_by(self, size_by: SizeBy) -> Profile:
        """The profile whose service times are those that replicas are to be counted by.

        Raises PlanError where they were not measured.
        """
        if size_by == "capacity":
            return self
        if self.light_load is None:
            raise PlanError(
                f"--size-by cpu: expected a profile with light_load, got {self.name!r} without; measure again with "
                "elasticrec profile"
            )
        lone = self.light_load
        return replace(
            self,
            name=f"{self.name}, by CPU at light load",
            service_time=lone.service_time,
            dense_service_time=lone.dense_service_time,
            batching=None,
            row_cache=None,
            light_load=None,
        )

    def seconds(self, gathers: float, rows_bytes: int, whole_tables: bool = False) -> float:
        """A busy embedding service's time for a query that gathers so many of its rows, which take `rows_bytes`: of
        all rows of its tables, or of some.
        """
        return self.service_time.fixed_s + self._gather_s(rows_bytes, whole_tables) * gathers

    def alone_s(self, gathers: float, rows_bytes: int, whole_tables: bool = False) -> float:
        """The same of a query that no other shares the call with: what an idle server takes."""
        if self.batching is None:
            return self.seconds(gathers, rows_bytes, whole_tables)
        return self.batching.call_s + self.batching.query_s + self._gather_s(rows_bytes, whole_tables) * gathers

    def _gather_s(self, rows_bytes: int, whole_tables: bool) -> float:
        """Whole tables that fill more than the cache have their hot rows in it: theirs is the mean price."""
        if self.row_cache and rows_bytes <= self.row_cache.size_bytes:
            return self.row_cache.hit_s
        return self.service_time.per_gather_s if whole_tables or not self.row_cache else self.row_cache.miss_s


DEFAULT_GPU_TIMES = DeviceTimes(
    ServiceTime(fixed_s=0.0005, per_gather_s=2e-9), DenseTime(fixed_s=0.0005, per_flop_s=2e-13)
)
"""Stands in where no GPU was measured: calls of 0.5 ms, 500 M gathers/s, 5 TFLOP/s."""


def load_profile(path: Path) -> Profile:
    """Read a measured profile (`profile.schema.json`); keys that it does not know are passed over.

    Raises PlanError with one problem per line: file, field, what was expected, what came.
    """
    document = read_document(path, PlanError)
    problems = format_problems(document, FORMAT, "measure again with elasticrec profile")
    problems = problems or schema_problems(document, "profile.schema.json")
    if problems or not isinstance(document, Mapping):
        raise PlanError(*(f"{path}: {problem}" for problem in problems))
    dense = _dense_time(document["dense_service_time"]) if "dense_service_time" in document else DEFAULT_DENSE_TIME
    return _profile(document, path.stem, dense)


def _profile(document: Mapping[str, Any], default_name: str, dense: DenseTime) -> Profile:
    batching, cache, gpu, light = (document.get(key) for key in ("batching", "row_cache", "gpu", "light_load"))
    return Profile(
        name=document.get("name", default_name),
        service_time=_service_time(document["service_time"]),
        min_memory_bytes=int(document["min_memory_bytes"]),
        dense_service_time=dense,
        batching=Batching(*(float(batching[key]) for key in ("call_s", "query_s", "queries"))) if batching else None,
        remote_call_s=float(document.get("remote_call_s", DEFAULT_REMOTE_CALL_S)),
        gpu=_times(gpu) if gpu else None,
        row_cache=RowCache(int(cache["size_bytes"]), float(cache["hit_s"]), float(cache["miss_s"])) if cache else None,
        light_load=_times(light) if light else None,
        front_call_s=float(document.get("front_call_s", DEFAULT_FRONT_CALL_S)),
    )


def _times(entry: Mapping[str, Any]) -> DeviceTimes:
    return DeviceTimes(_service_time(entry["service_time"]), _dense_time(entry["dense_service_time"]))


def _service_time(entry: Mapping[str, Any]) -> ServiceTime:
    return ServiceTime(float(entry["fixed_s"]), float(entry["per_gather_s"]))


def _dense_time(entry: Mapping[str, Any]) -> DenseTime:
    return DenseTime(float(entry["fixed_s"]), float(entry["per_flop_s"]))


_MEASURED: Mapping[str, Any] = json.loads(
    resources.files("repo_builder.partition").joinpath("default_profile.json").read_text(encoding="utf-8")
)
DEFAULT_DENSE_TIME = _dense_time(_MEASURED["dense_service_time"])
DEFAULT_PROFILE = _profile(_MEASURED, "default", DEFAULT_DENSE_TIME)
"""Stands in where nothing was measured: what elasticrec profile found of native shards on another machine."""

DEFAULT_MEASURED_ON = (
    f"{_MEASURED['service']['backend']} shards, {_MEASURED['machine']['cpu']}, {_MEASURED['machine']['date']}"
)
"""What and where that was."""


def replicas_for(load: float) -> int:
    """The whole replicas that a load needs: at least 1, rounded up with the relative tolerance."""
    if not math.isfinite(load):
        raise PlanError("profile: expected service times whose product with target_qps is a number, got infinity")
    below = int(load)
    return max(1, below if load <= below * (1 + REPLICA_TOLERANCE) else below + 1)


@dataclass(frozen=True, slots=True)
class CostModel:
    """Prices the rows of a service: `replicas * (their bytes + min_memory_bytes)`, a whole number of bytes.

    service_bytes: what a service must be worth besides, however many replicas it has; 0 is the paper's price.
    """

    target_qps: float
    service_time: ServiceTime
    min_memory_bytes: int
    service_bytes: int = 0

    def load(self, gathers: float) -> float:
        """The service's time per second of traffic, in replicas."""
        return self.target_qps * (self.service_time.fixed_s + self.service_time.per_gather_s * gathers)

    def replicas(self, gathers: float) -> int:
        """Whole replicas of a service that gathers so many rows in a query."""
        return replicas_for(self.load(gathers))

    def cost(self, rows_bytes: int, gathers: float) -> int:
        """Bytes over all replicas of a service whose rows take `rows_bytes`, and its `service_bytes`."""
        return self.replicas(gathers) * (rows_bytes + self.min_memory_bytes) + self.service_bytes

    def loads(self, gathers: NDArray[np.float64]) -> NDArray[np.float64]:
        """`load` of many services at once, equal to it bit for bit; same shape as `gathers`."""
        return self.target_qps * (self.service_time.fixed_s + self.service_time.per_gather_s * gathers)

    def replica_counts(self, gathers: NDArray[np.float64]) -> NDArray[np.float64]:
        """`replicas` of many services at once, whole numbers; same shape as `gathers`."""
        loads = self.loads(gathers)
        below = np.floor(loads)
        below += loads > below * (1 + REPLICA_TOLERANCE)
        return np.maximum(below, 1.0)
