"""What a profile measures, how long that takes, and the plain figures that come of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from repo_builder.model.types import RowFormat
from repo_builder.partition.plan import Grouping
from repo_builder.profiling import perf_analyzer
from repo_builder.profiling.perf_analyzer import Measurement
from repo_builder.repository.configs import ShardBackend
from repo_builder.serving.server import Server

Accesses = Literal["spec", "cached", "cold"]
"""Which rows a query gathers: as the model's accesses draw them, or all alike, some that lie together or all."""

CALLS = 4
"""Under way at a busy embedding service: each of several front ends has one at a replica, and joins what waits."""


def asked_bytes(cache_bytes: int) -> int:
    """How many bytes of rows are asked for to see what those of a cache cost: other things are held there too."""
    return cache_bytes // 2


@dataclass(frozen=True, slots=True)
class ServiceLoad:
    """What is sent to dense services and whole models: queries of `rows` rows, `in_flight` of them always under way."""

    input_data: Path | Literal["random"]
    in_flight: int
    rows: int = 1

    @property
    def joined(self) -> int:
        """Queries that a call brings."""
        return 1

    def run(self, server: Server, model: str, seconds: float) -> Measurement:
        """Measure it for about `seconds` with perf_analyzer; raises LoadTestError where that fails."""
        return perf_analyzer.run(model, server.grpc, self.input_data, self.in_flight, seconds, self.rows)


@dataclass(frozen=True, slots=True)
class LoadFigures:
    """What was measured at a load: queries per second, queries in an execute call in the mean, the server's CPU seconds
    a query, a call's latencies in ms; queries per second and latencies as the client saw them.
    """

    qps: float
    queries: float
    cpu_s: float
    p50_ms: float
    p95_ms: float

    @property
    def core_qps(self) -> float:
        """Queries per second that such a load leaves room for on a core, whatever else kept the server's waiting: the
        client, or other programs. Of a saturated server on a quiet machine that is `qps`.
        """
        return 1 / self.cpu_s


@dataclass(frozen=True, slots=True)
class EmbeddingLoad:
    """What is sent to an embedding service: queries of so many gathers, `joined` of them in a call, as the fan-out
    router does it, `in_flight` calls always under way; `within_bytes`: of all cached rows.
    """

    accesses: Accesses
    gathers: int
    joined: int
    in_flight: int
    within_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class EmbeddingPoint:
    """An embedding service's figures at a load; `capacity`: the most that was measured within the SLA."""

    load: EmbeddingLoad
    figures: LoadFigures
    capacity: bool = False


def is_busy(point: EmbeddingPoint) -> bool:
    """Whether it is one of a busy service with the spec's accesses: there the next call always waits."""
    return point.load.accesses == "spec" and point.load.in_flight == CALLS


@dataclass(frozen=True, slots=True)
class DensePoint:
    """The dense service's figures with queries of so many rows; `capacity` as an embedding point's."""

    rows: int
    flops: int
    in_flight: int
    figures: LoadFigures
    capacity: bool = False


@dataclass(frozen=True, slots=True)
class FrontPoint:
    """A fleet's front end with queries of so many rows and ids, which call so many embedding services; all points of a
    profile have as many rows and queries in flight. The figures' queries a call are 1: it joins none before its router.
    """

    services: int
    ids: int
    rows: int
    in_flight: int
    figures: LoadFigures


@dataclass(frozen=True, slots=True)
class RowPoint:
    """Seconds that the embedding services' kernel takes for a row of a format: from each level of the caches, and from
    memory.
    """

    format: RowFormat
    hit_s: tuple[float, ...]
    miss_s: float


@dataclass(frozen=True, slots=True)
class RemoteCall:
    """Seconds that a gRPC call from Python takes beyond the server's own time for it; the caller's CPU seconds."""

    latency_s: float
    client_cpu_s: float


@dataclass(frozen=True, slots=True)
class Measured:
    """All that a profile is made of; `tables` and `held_rows` are of the embedding service that was measured, and
    `row_bytes` what a row that it gathers has in the mean. `caches` are the bytes of the levels of the caches.
    """

    embedding: tuple[EmbeddingPoint, ...]
    caches: tuple[int, ...]
    rows: tuple[RowPoint, ...]
    row_bytes: float
    dense: tuple[DensePoint, ...]
    front: tuple[FrontPoint, ...]
    remote: RemoteCall
    min_memory_bytes: int
    tables: int
    held_rows: int
    machine: Mapping[str, str | int]


@dataclass(frozen=True, slots=True)
class Effort:
    """What is measured, and for how long: `seconds` a point, spread over `rounds` that take all points in turn.

    A point is the median of its rounds, so that a short disturbance does not show. `joined` are the queries of a busy
    embedding service's calls; a capacity has the most of them that the SLA allows. `row_gathers` is the size of the
    queries that show what a row from a cache, or from memory, costs.
    """

    seconds: float
    rounds: int
    gathers: tuple[int, ...]
    joined: tuple[int, ...]
    dense_rows: tuple[int, ...]
    dense_in_flight: tuple[int, ...]
    row_gathers: int = 32768

    def embedding_loads(self, caches: Sequence[int]) -> list[EmbeddingLoad]:
        """Every point of the embedding service, where the caches hold so many bytes, level by level."""
        loads = []
        for gathers in self.gathers:
            loads.append(EmbeddingLoad("spec", gathers, 1, 1))
            loads += [EmbeddingLoad("spec", gathers, joined, CALLS) for joined in self.joined]
        rows = self.row_gathers, max(self.joined), CALLS
        cached = [EmbeddingLoad("cached", *rows, asked_bytes(size)) for size in caches]
        return [*loads, *cached, EmbeddingLoad("cold", *rows)]

    @property
    def dense_loads(self) -> list[tuple[int, int]]:
        """The rows per query and the queries in flight of every point of the dense service."""
        return [(rows, in_flight) for rows in self.dense_rows for in_flight in self.dense_in_flight]


STANDARD = Effort(3.0, 3, (32, 1024, 4096, 16384, 65536), (1, 4, 16), (1, 8, 32, 128, 512), (1, 16))
QUICK = Effort(1.0, 1, (32, 8192, 32768), (1, 4, 16), (1, 32, 256), (1, 16))


@dataclass(frozen=True, slots=True)
class ProfileOptions:
    """What the profile is for: services of which grouping and backend, measured on at most some `max_rows` rows."""

    grouping: Grouping
    backend: ShardBackend
    max_rows: int
    effort: Effort
