"""The record of a load test, whatever tool made it: what a report reads, as frozen values and as JSON; and its timeline
out of single queries. Pure, and without locust, which patches Python's own modules.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from repo_builder.documents import format_problems, read_document, schema_problems
from repo_builder.errors import InputError
from repo_builder.repository.manifest import ScoreError
from repo_builder.writing import write_whole

Tool = Literal["perf_analyzer", "locust"]
LoadKind = Literal["concurrency", "request_rate"]
Percentile = Literal[95, 99]
FORMAT = 1
"""Of run files; one of another number is refused by name."""

NOT_ENDED = "it had not come to its end when this was written"


@dataclass(frozen=True, slots=True)
class ServiceTimes:
    """A Triton model's share of a point: its requests and executions in it, and a request's mean times in ms."""

    requests: int
    executions: int
    queue_ms: float
    compute_ms: float


@dataclass(frozen=True, slots=True)
class LoadPoint:
    """One load and what was measured at it, as the client saw it.

    load: queries in flight, or queries/s that were offered, as `load_kind` says. services: by Triton model, where the
    servers' statistics could be read. network_ms: the mean time between client and server, which includes its HTTP or
    gRPC endpoint; None where the tool does not tell.
    """

    load_kind: LoadKind
    load: float
    throughput_qps: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    mean_ms: float
    queries: int
    errors: int
    services: Mapping[str, ServiceTimes]
    network_ms: float | None

    def latency_ms(self, percentile: int) -> float:
        """The latency at 50, 95 or 99."""
        return {50: self.p50_ms, 95: self.p95_ms, 99: self.p99_ms}[percentile]


@dataclass(frozen=True, slots=True)
class RunSample:
    """A second or so of a run: traffic and latencies of the queries that were due in it; latencies None where no query
    was answered. replicas, memory_bytes: by service, where somebody watched them.
    """

    time_s: float
    offered_qps: float
    answered_qps: float
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    errors: int
    replicas: Mapping[str, int] = field(default_factory=dict)
    memory_bytes: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Seen:
    """A look at the servers: PSS in bytes, by model of a single server or by service of a fleet; a fleet's replicas."""

    memory_bytes: Mapping[str, int] = field(default_factory=dict)
    replicas: Mapping[str, int] = field(default_factory=dict)


Looks = Sequence[tuple[float, Seen]]


@dataclass(frozen=True, slots=True)
class ServiceRows:
    """What an embedding service stores: its rows' formats, the widest first, how many there are, and their bytes."""

    dtypes: tuple[str, ...]
    rows: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Run:
    """One run of one tool on one served model.

    started: ISO 8601 with its zone; command: the words as given; batch: rows per query; complete: whether it came to
    its end, else `why` not; memory_bytes: the most PSS seen, by model of a single server or by service of a fleet over
    all its replicas, where the servers could be seen; replicas: of each service of a fleet; found_qps: the
    latency-bounded throughput, queries/s, where it was searched for and found; rows: by embedding service's model;
    score_error: what storing rows so did to scores at the build, where they came in more bits.
    """

    title: str
    tool: Tool
    started: str
    command: tuple[str, ...]
    model: str
    layout: str
    batch: int
    sla_ms: float | None
    percentile: Percentile
    machine: Mapping[str, str | int]
    complete: bool = False
    why: str | None = None
    points: tuple[LoadPoint, ...] = ()
    timeline: tuple[RunSample, ...] = ()
    memory_bytes: Mapping[str, int] = field(default_factory=dict)
    found_qps: float | None = None
    replicas: Mapping[str, int] = field(default_factory=dict)
    rows: Mapping[str, ServiceRows] = field(default_factory=dict)
    score_error: ScoreError | None = None

    def to_json(self) -> str:
        """The run file's text."""
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=1, allow_nan=False) + "\n"


def write_run(path: Path, run: Run) -> None:
    """Write a run as `write_whole` does; raises InputError where it cannot be written."""
    write_whole(path, run.to_json())


def read_run(path: Path) -> Run:
    """Read a run file; raises InputError with one line a mistake."""
    document: Any = read_document(path, InputError)
    problems = format_problems(document, FORMAT, "measure again, or read it with the version that wrote it")
    problems = problems or schema_problems(document, "run.schema.json")
    if problems:
        raise InputError(*(f"{path}: {problem}" for problem in problems))
    points = tuple(_point(point) for point in document.get("points", ()))
    timeline = tuple(RunSample(**sample) for sample in document.get("timeline", ()))
    document.pop("format", None)
    made = {
        "command": tuple(document["command"]),
        "points": points,
        "timeline": timeline,
        "rows": {name: _rows(entry) for name, entry in document.get("rows", {}).items()},
        "score_error": ScoreError(**document["score_error"]) if document.get("score_error") else None,
    }
    return Run(**{**document, **made})


def _rows(document: Mapping[str, Any]) -> ServiceRows:
    return ServiceRows(**{**document, "dtypes": tuple(document["dtypes"])})


def _point(document: Mapping[str, Any]) -> LoadPoint:
    services = {name: ServiceTimes(**times) for name, times in document["services"].items()}
    return LoadPoint(**{**document, "services": services})


def largest(former: Mapping[str, int], now: Mapping[str, int]) -> Mapping[str, int]:
    """The larger of both, key by key."""
    return {name: max(former.get(name, 0), now.get(name, 0)) for name in (*former, *now)}


def timeline(
    due_s: NDArray[np.float64],
    latency_ms: NDArray[np.float64],
    failed: NDArray[np.bool_],
    bucket_s: float = 1.0,
    looks: Looks = (),
) -> tuple[RunSample, ...]:
    """Samples of `bucket_s` each from the first query's due time on.

    due_s, latency_ms, failed: (N,), a query each. Offered and the latencies are of the queries that were due in a
    bucket; answered counts the right answers that came in it. looks: at the servers, by the same clock as due_s and
    in its order; a bucket has the last one before its end.
    """
    if not len(due_s):
        return ()
    start_s = float(due_s.min())
    due = ((due_s - start_s) / bucket_s).astype(np.int64)
    answered = ((due_s + latency_ms / 1000 - start_s) / bucket_s).astype(np.int64)[~failed]
    count = int(max(due.max(), answered.max(initial=0))) + 1
    seen = [_last(looks, start_s + (i + 1) * bucket_s) for i in range(count)]
    offered = np.bincount(due, minlength=count)
    came = np.bincount(answered, minlength=count)
    errors = np.bincount(due[failed], minlength=count)
    return tuple(
        RunSample(
            time_s=i * bucket_s,
            offered_qps=float(offered[i] / bucket_s),
            answered_qps=float(came[i] / bucket_s),
            p50_ms=_percentile(latency_ms[(due == i) & ~failed], 50),
            p95_ms=_percentile(latency_ms[(due == i) & ~failed], 95),
            p99_ms=_percentile(latency_ms[(due == i) & ~failed], 99),
            errors=int(errors[i]),
            replicas=seen[i].replicas,
            memory_bytes=seen[i].memory_bytes,
        )
        for i in range(count)
    )


def _last(looks: Looks, until_s: float) -> Seen:
    before = bisect_right(looks, until_s, key=lambda look: look[0])
    return looks[before - 1][1] if before else Seen()


def _percentile(latency_ms: NDArray[np.float64], percentile: float) -> float | None:
    return float(np.percentile(latency_ms, percentile)) if len(latency_ms) else None
