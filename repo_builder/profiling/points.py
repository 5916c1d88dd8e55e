"""What was measured: plain figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from repo_builder.profiling.queries import Accesses


@dataclass(frozen=True, slots=True)
class Found:
    """What was measured at a load: queries a second, queries joined in an execute call in the mean, latencies in ms
    as the client saw them.
    """

    qps: float
    queries: float
    p50_ms: float
    p95_ms: float


@dataclass(frozen=True, slots=True)
class EmbeddingPoint:
    """An embedding service's figures with queries of so many gathers."""

    accesses: Accesses
    gathers: int
    in_flight: int
    found: Found


@dataclass(frozen=True, slots=True)
class DensePoint:
    """The dense service's figures with queries of so many rows."""

    rows: int
    flops: int
    in_flight: int
    found: Found


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
