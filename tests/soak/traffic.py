"""The soak's traffic, by the load test's own open-loop sender, and the record of it that a report shows."""

import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from loadtest.run import Point, Sample
from loadtest.sender import Load

SAMPLE_S = 5.0


@dataclass(frozen=True)
class Answer:
    """A query: when it was due, s since the start; its latency from then on; what was wrong with it, or nothing."""

    due_s: float
    latency_ms: float
    problem: str


def send(load: Load, qps: float, seconds: float) -> list[Answer]:
    """Send at Poisson times for so long; returns when the last answer has come, ordered as they were due."""
    command = [sys.executable, "-m", "loadtest.sender", load.to_json()]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as sender:
        assert sender.stdin
        assert sender.stdout
        assert sender.stdout.readline() == "ready\n"
        start_s = time.time()
        sender.stdin.write(f"{qps}\n")
        sender.stdin.flush()
        lines = _lines_until(sender, start_s + seconds)
    assert sender.returncode == 0
    answers = [Answer(float(due) - start_s, float(ms), problem) for due, ms, problem in lines]
    return sorted(answers, key=lambda answer: answer.due_s)


def _lines_until(sender: subprocess.Popen[str], end_s: float) -> list[list[str]]:
    """The sender's lines, split in three; it is told to end at that Unix time. Read as they come, or its pipe fills."""
    found = []
    while line := sender.stdout.readline():
        found.append(line.rstrip("\n").split(" ", 2))
        if time.time() >= end_s and not sender.stdin.closed:
            sender.stdin.close()
    return found


def samples(answers: Sequence[Answer], qps: float, memory: dict[int, int]) -> tuple[Sample, ...]:
    """The timeline, a sample each SAMPLE_S; memory: PSS in bytes by the number of the sample."""
    by_time: dict[int, list[Answer]] = defaultdict(list)
    for answer in answers:
        by_time[int(answer.due_s / SAMPLE_S)].append(answer)
    return tuple(
        Sample(
            time_s=number * SAMPLE_S,
            offered_qps=qps,
            answered_qps=len(due) / SAMPLE_S,
            **_latencies(due),
            errors=sum(bool(answer.problem) for answer in due),
            memory_bytes={"server": memory[number]} if number in memory else {},
        )
        for number, due in sorted(by_time.items())
    )


def point(answers: Sequence[Answer], qps: float, seconds: float) -> Point:
    """All of the run as one load."""
    return Point(
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
