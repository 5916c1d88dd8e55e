"""What a service costs: its replicas at the target traffic times the memory of one (ElasticRec, ISCA 2024, alg. 1).

A replica takes `fixed_s` seconds for a query, and for each row that it gathers what the row's bytes and where they lie
make of it, so it serves the inverse of the sum in queries per second. At the target traffic a service's *load* is
`target_qps * seconds`, in replicas.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray

from repo_builder.documents import format_problems, read_document, schema_problems
from repo_builder.errors import PlanError

Amount = TypeVar("Amount", float, NDArray[np.float64])

FORMAT = 2
"""Of profile files; one of another number is refused by name."""

REPLICA_TOLERANCE = 1e-9
"""A load within this share above a whole number of replicas needs no further replica."""

DEFAULT_REMOTE_CALL_S = 0.0004
"""One gRPC call between servers, where it was not measured."""

SizeBy = Literal["capacity", "cpu"]
"""What replicas are counted by: a replica's most queries per second within the SLA on a core of its own; or the CPU
seconds that a query takes where queries come one at a time."""


@dataclass(frozen=True, slots=True)
class ServiceTime:
    """Seconds that one replica of an embedding service takes for a query: `fixed_s`, and for each row that it gathers
    from memory `per_row_s`, and `per_byte_s` for each byte of it as it is stored.
    """

    fixed_s: float
    per_row_s: float
    per_byte_s: float = 0.0

    def rows_s(self, gathers: Amount, gathered_bytes: Amount) -> Amount:
        """Time of the rows of a query that gathers so many of them, of so many bytes together."""
        return self.per_row_s * gathers + self.per_byte_s * gathered_bytes

    def seconds(self, gathers: float, gathered_bytes: float) -> float:
        """Time of such a query."""
        return self.fixed_s + self.rows_s(gathers, gathered_bytes)


@dataclass(frozen=True, slots=True)
class DenseTime:
    """Seconds that one replica of the dense service takes for a query: affine in its floating-point operations."""

    fixed_s: float
    per_flop_s: float

    def seconds(self, flops: float) -> float:
        """Time of a query of so many floating-point operations."""
        return self.fixed_s + self.per_flop_s * flops


@dataclass(frozen=True, slots=True)
class FrontTime:
    """A front end's CPU seconds for a query beside its dense layers: `per_id_s` for each id, which it receives, checks,
    routes and sends on, and `per_call_s` for each service that it calls.
    """

    per_id_s: float = 0.0
    per_call_s: float = 0.0

    def seconds(self, ids: float, calls: int) -> float:
        """Time of a query of so many ids that calls so many services."""
        return self.per_id_s * ids + self.per_call_s * calls


DEFAULT_FRONT_TIME = FrontTime(per_id_s=2.6e-8, per_call_s=2.2e-5)
"""Where it was not measured. An id: benchmarks/replication.py's front ends of RM1, beside their dense layers. A call:
benchmarks/fleet.py's 30 calls of `per_table` beside 3 of `tiered`."""


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
    """What the processor's caches hold: a row among the hottest of `size_bytes` together takes a service `per_row_s`,
    and `per_byte_s` a byte.
    """

    size_bytes: int
    per_row_s: float
    per_byte_s: float = 0.0

    def rows_s(self, gathers: Amount, gathered_bytes: Amount) -> Amount:
        """Time of so many gathers, of so many bytes together."""
        return self.per_row_s * gathers + self.per_byte_s * gathered_bytes


@dataclass(frozen=True, slots=True)
class DeviceTimes:
    """Service times of one instance on one kind of device."""

    service_time: ServiceTime
    dense_service_time: DenseTime


@dataclass(frozen=True, slots=True)
class LightLoad:
    """A core's time for a query that comes alone, beside its gathers, which take what they take under load: threads are
    woken for it, and no other shares its call.
    """

    fixed_s: float
    dense_service_time: DenseTime


@dataclass(frozen=True, slots=True)
class Profile:
    """What was measured of the machine that will serve: service times, and the memory of an empty container.

    A replica's most queries per second within the SLA, on a core of its own, are the inverse of the service times.
    `batching` and `light_load` are None where they were not measured, `gpu` where there was none.
    `row_cache`, None where it was not measured either, is of services that hold other rows too; `row_levels`, by their
    size, of those that hold no others, each row of the smallest level that it is within. Services of rows from memory
    find hot rows far apart, in pages of their own, among all that was read since. `remote_call_s` is what one gRPC call
    of a service in another server adds to its latency, and `front_time` what queries take of a front end beside its
    dense layers.
    """

    name: str
    service_time: ServiceTime
    min_memory_bytes: int
    dense_service_time: DenseTime
    batching: Batching | None = None
    remote_call_s: float = DEFAULT_REMOTE_CALL_S
    gpu: DeviceTimes | None = None
    row_cache: RowCache | None = None
    row_levels: tuple[RowCache, ...] = ()
    light_load: LightLoad | None = None
    front_time: FrontTime = FrontTime()

    def sized_by(self, size_by: SizeBy) -> Profile:
        """The profile whose service times are those that replicas are to be counted by.

        Raises PlanError where they were not measured, and for any other word.
        """
        if size_by not in get_args(SizeBy):
            raise PlanError(f"size_by: expected one of {', '.join(get_args(SizeBy))}, got {size_by!r}")
        if size_by == "capacity":
            return self
        if self.light_load is None:
            raise PlanError(
                f"--size-by cpu: expected a profile with light_load, got {self.name!r} without; measure again with "
                "elasticrec profile"
            )
        return replace(
            self,
            name=f"{self.name}, by CPU at light load",
            service_time=replace(self.service_time, fixed_s=self.light_load.fixed_s),
            dense_service_time=self.light_load.dense_service_time,
            batching=None,
            light_load=None,
        )

    def alone_s(self, service_s: float) -> float:
        """What an idle embedding service takes that takes `service_s` for a query when busy: no other query shares the
        call.
        """
        batching = self.batching
        return service_s + batching.call_s * (1 - 1 / batching.queries) if batching else service_s

    def cost_model(self, target_qps: float) -> CostModel:
        """What services cost that serve so many queries per second."""
        return CostModel(target_qps, self.service_time, self.min_memory_bytes, 0, self.row_cache, self.row_levels)


DEFAULT_GPU_TIMES = DeviceTimes(
    ServiceTime(fixed_s=0.0005, per_row_s=2e-9), DenseTime(fixed_s=0.0005, per_flop_s=2e-13)
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
    profile = _profile(document, path.stem, dense)
    problems = list(_falls(profile))
    if problems:
        raise PlanError(*(f"{path}: {problem}" for problem in problems))
    return profile


def _falls(profile: Profile) -> Iterator[str]:
    """What is less of a level than of the one before, of the caches than of the last, or of memory than of these."""
    if profile.row_levels and profile.row_cache is None:
        yield "row_levels: expected row_cache beside them, got none"
    levels: list[tuple[str, RowCache | ServiceTime]]
    levels = [(f"row_levels[{i}]", level) for i, level in enumerate(profile.row_levels)]
    levels += [("row_cache", profile.row_cache)] if profile.row_cache else []
    for (name, level), (larger, next_level) in pairwise([*levels, ("service_time", profile.service_time)]):
        for key in ("size_bytes", "per_row_s", "per_byte_s"):
            found, most = getattr(level, key), getattr(next_level, key, math.inf)
            if found > most:
                yield f"{name}.{key}: expected at most {larger}.{key} = {most:g}, got {found:g}"


def _profile(document: Mapping[str, Any], default_name: str, dense: DenseTime) -> Profile:
    optional = ("batching", "row_cache", "gpu", "light_load", "front_time")
    batching, cache, gpu, light, front = map(document.get, optional)
    return Profile(
        name=document.get("name", default_name),
        service_time=_service_time(document["service_time"]),
        min_memory_bytes=int(document["min_memory_bytes"]),
        dense_service_time=dense,
        batching=Batching(*(float(batching[key]) for key in ("call_s", "query_s", "queries"))) if batching else None,
        remote_call_s=float(document.get("remote_call_s", DEFAULT_REMOTE_CALL_S)),
        gpu=_times(gpu) if gpu else None,
        row_cache=_row_cache(cache) if cache else None,
        row_levels=tuple(map(_row_cache, document.get("row_levels", ()))),
        light_load=LightLoad(float(light["fixed_s"]), _dense_time(light["dense_service_time"])) if light else None,
        front_time=FrontTime(float(front["per_id_s"]), float(front["per_call_s"])) if front else DEFAULT_FRONT_TIME,
    )


def _times(entry: Mapping[str, Any]) -> DeviceTimes:
    return DeviceTimes(_service_time(entry["service_time"]), _dense_time(entry["dense_service_time"]))


def _service_time(entry: Mapping[str, Any]) -> ServiceTime:
    return ServiceTime(float(entry["fixed_s"]), *_row_time(entry))


def _row_cache(entry: Mapping[str, Any]) -> RowCache:
    return RowCache(int(entry["size_bytes"]), *_row_time(entry))


def _row_time(entry: Mapping[str, Any]) -> tuple[float, float]:
    return float(entry["per_row_s"]), float(entry.get("per_byte_s", 0.0))


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
    """Prices a service by its rows' bytes and time: `replicas * (bytes + min_memory_bytes)`, a whole number of bytes.

    service_bytes: what a service must be worth besides, however many replicas it has; 0 is the paper's price.
    """

    target_qps: float
    service_time: ServiceTime
    min_memory_bytes: int
    service_bytes: int = 0
    row_cache: RowCache | None = None
    row_levels: tuple[RowCache, ...] = ()

    def load(self, rows_s: float) -> float:
        """The service's time per second of traffic, in replicas, where a query's rows take `rows_s`."""
        return self.target_qps * (self.service_time.fixed_s + rows_s)

    def replicas(self, rows_s: float) -> int:
        """Whole replicas of a service where a query's rows take `rows_s`."""
        return replicas_for(self.load(rows_s))

    def cost(self, rows_bytes: int, rows_s: float) -> int:
        """Bytes over all replicas of a service whose rows take `rows_bytes`, and its `service_bytes`."""
        return self.replicas(rows_s) * (rows_bytes + self.min_memory_bytes) + self.service_bytes

    def loads(self, rows_s: NDArray[np.float64]) -> NDArray[np.float64]:
        """`load` of many services at once, equal to it bit for bit; same shape as `rows_s`."""
        return self.target_qps * (self.service_time.fixed_s + rows_s)

    def replica_counts(self, rows_s: NDArray[np.float64]) -> NDArray[np.float64]:
        """`replicas` of many services at once, whole numbers; same shape as `rows_s`."""
        loads = self.loads(rows_s)
        below = np.floor(loads)
        below += loads > below * (1 + REPLICA_TOLERANCE)
        return np.maximum(below, 1.0)
