"""Running perf_analyzer on one served model at several loads, in turn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Literal

from repo_builder.profiling import perf_analyzer
from repo_builder.profiling.points import Found
from repo_builder.serving.client import times_by_model
from repo_builder.serving.server import Server


@dataclass(frozen=True, slots=True)
class Load:
    """What is sent: queries of `rows` rows (1 for an embedding service), `in_flight` of them always under way."""

    input_data: Path | Literal["random"]
    in_flight: int
    rows: int = 1


def measure_loads(
    server: Server, model: str, loads: Sequence[Load], rounds: int, seconds: float, tick: Callable[[], None]
) -> list[Found]:
    """Each load's figures: medians over `rounds` of all loads in turn, of `seconds` each; `tick` is called after each.

    Raises LoadTestError where perf_analyzer fails.
    """
    found: list[list[Found]] = [[] for _ in loads]
    for _ in range(rounds):
        for load, figures in zip(loads, found, strict=True):
            figures.append(_measure(server, model, load, seconds))
            tick()
    return [_median(figures) for figures in found]


def _measure(server: Server, model: str, load: Load, seconds: float) -> Found:
    before = times_by_model(server.http)[model]
    measured = perf_analyzer.run(model, server.grpc, load.input_data, load.in_flight, seconds, load.rows)
    after = times_by_model(server.http)[model]
    queries = (after.requests - before.requests) / (after.executions - before.executions)
    return Found(measured.throughput_qps, queries, measured.p50_ms, measured.p95_ms)


def _median(figures: Sequence[Found]) -> Found:
    """The median of each figure by itself."""
    return Found(
        qps=median(each.qps for each in figures),
        queries=median(each.queries for each in figures),
        p50_ms=median(each.p50_ms for each in figures),
        p95_ms=median(each.p95_ms for each in figures),
    )
