"""What a profile measures, how long that takes, and the plain figures that come of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from repo_builder.partition.plan import Grouping
from repo_builder.repository.configs import ShardBackend

Accesses = Literal["spec", "hot", "cold"]
"""Whose rows a query gathers: those that the model's accesses draw, hot ones only, or all alike."""


@dataclass(frozen=True, slots=True)
class ServiceLoad:
    """What is sent: queries of `rows` rows (1 for an embedding service), `in_flight` of them always under way."""

    input_data: Path | Literal["random"]
    in_flight: int
    rows: int = 1


@dataclass(frozen=True, slots=True)
class LoadFigures:
    """What was measured at a load: queries per second, queries joined in an execute call in the mean, the server's CPU
    seconds a query, latencies in ms; queries per second and latencies as the client saw them.
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
class EmbeddingPoint:
    """An embedding service's figures with queries of so many gathers; `capacity`: no other load within the SLA brings
    more queries per second.
    """

    accesses: Accesses
    gathers: int
    in_flight: int
    figures: LoadFigures
    capacity: bool = False


@dataclass(frozen=True, slots=True)
class DensePoint:
    """The dense service's figures with queries of so many rows; `capacity` as an embedding point's."""

    rows: int
    flops: int
    in_flight: int
    figures: LoadFigures
    capacity: bool = False


@dataclass(frozen=True, slots=True)
class RemoteCall:
    """Seconds that a gRPC call from Python takes beyond the server's own time for it; the caller's CPU seconds."""

    latency_s: float
    client_cpu_s: float


@dataclass(frozen=True, slots=True)
class Measured:
    """All that a profile is made of; `tables` and `held_rows` are of the embedding service that was measured."""

    embedding: tuple[EmbeddingPoint, ...]
    dense: tuple[DensePoint, ...]
    remote: RemoteCall
    min_memory_bytes: int
    tables: int
    held_rows: int
    machine: Mapping[str, str | int]


@dataclass(frozen=True, slots=True)
class Effort:
    """What is measured, and for how long: `seconds` a point, spread over `rounds` that take all points in turn.

    A point is the median of its rounds, so that a short disturbance does not show. The search for a capacity begins
    with the most queries `in_flight`. `end_gathers` is the size of the queries that show what hot and cold rows cost.
    """

    seconds: float
    rounds: int
    gathers: tuple[int, ...]
    in_flight: tuple[int, ...]
    dense_rows: tuple[int, ...]
    dense_in_flight: tuple[int, ...]
    end_gathers: int = 32768

    @property
    def embedding_loads(self) -> list[tuple[Accesses, int, int]]:
        """The accesses, the gathers and the queries in flight of every point of the embedding service."""
        loads: list[tuple[Accesses, int, int]] = [("spec", g, n) for g in self.gathers for n in self.in_flight]
        most = max(self.in_flight)
        return [*loads, ("hot", self.end_gathers, most), ("cold", self.end_gathers, most)]

    @property
    def dense_loads(self) -> list[tuple[int, int]]:
        """The rows per query and the queries in flight of every point of the dense service."""
        return [(rows, in_flight) for rows in self.dense_rows for in_flight in self.dense_in_flight]


STANDARD = Effort(3.0, 3, (32, 1024, 4096, 16384, 32768, 65536), (1, 4, 16), (1, 8, 32, 128, 512), (1, 16))
QUICK = Effort(1.0, 1, (32, 8192, 32768), (1, 4, 16), (1, 32, 256), (1, 16))


@dataclass(frozen=True, slots=True)
class ProfileOptions:
    """What the profile is for: services of which grouping and backend, measured on at most some `max_rows` rows."""

    grouping: Grouping
    backend: ShardBackend
    max_rows: int
    effort: Effort
