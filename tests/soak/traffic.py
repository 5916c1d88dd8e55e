"""The record of a soak's traffic, that a report shows."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from loadtest.open_loop import Answer
from loadtest.run import LoadPoint, RunSample

SAMPLE_S = 5.0


def samples(answers: Sequence[Answer], qps: float, memory: dict[int, int]) -> tuple[RunSample, ...]:
    """The timeline, a sample each SAMPLE_S; memory: PSS in bytes by the number of the sample."""
    by_time: dict[int, list[Answer]] = defaultdict(list)
    for answer in answers:
        by_time[int(answer.due_s / SAMPLE_S)].append(answer)
    return tuple(
        RunSample(
            time_s=number * SAMPLE_S,
            offered_qps=qps,
            answered_qps=len(due) / SAMPLE_S,
            **_latencies(due),
            errors=sum(bool(answer.problem) for answer in due),
            memory_bytes={"server": memory[number]} if number in memory else {},
        )
        for number, due in sorted(by_time.items())
    )


def point(answers: Sequence[Answer], qps: float, seconds: float) -> LoadPoint:
    """All of the run as one load."""
    return LoadPoint(
        load_kind="request_rate",
        load=qps,
        throughput_qps=len(answers) / seconds,
        **_latencies(answers),
        mean_ms=float(np.mean([answer.latency_ms for answer in answers])),
        queries=len(answers),
        errors=sum(bool(answer.problem) for answer in answers),
        services={},
        network_ms=None,
    )


def _latencies(answers: Sequence[Answer]) -> dict[str, Any]:
    p50, p95, p99 = np.percentile([answer.latency_ms for answer in answers], [50, 95, 99])
    return {"p50_ms": float(p50), "p95_ms": float(p95), "p99_ms": float(p99)}
