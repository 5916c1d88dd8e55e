"""Runs of perf_analyzer over several loads, each point recorded as soon as it is measured."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Protocol

from loadtest.loads import Load
from loadtest.run import NOT_ENDED, Point, Run
from loadtest.search import highest_rate, within
from loadtest.servers import Seen
from repo_builder.profiling.perf_analyzer import LoadTestError


class Measures(Protocol):
    """What measures one load: a `Target`."""

    def measure(self, load: Load) -> Point:
        """Raises LoadTestError where it cannot be measured."""


class Recording:
    """A run that grows; `keep` is given it after every change, and writes it whole; `look` sees the servers."""

    def __init__(self, run: Run, keep: Callable[[Run], None], look: Callable[[], Seen] = Seen) -> None:
        self.run = replace(run, complete=False, why=NOT_ENDED)
        self._keep, self._look = keep, look
        keep(self.run)

    def add(self, point: Point) -> None:
        """One point more, and what the servers hold after it."""
        seen, points = self._look(), (*self.run.points, point)
        memory_bytes = largest(self.run.memory_bytes, seen.memory_bytes)
        replicas = largest(self.run.replicas, seen.replicas)
        self._change(replace(self.run, points=points, memory_bytes=memory_bytes, replicas=replicas))

    def cut_off(self, why: str) -> None:
        """It ends before its time."""
        self._change(replace(self.run, why=why))

    def finish(self, found_qps: float | None) -> None:
        """It has come to its end."""
        self._change(replace(self.run, complete=True, why=None, found_qps=found_qps))

    def _change(self, run: Run) -> None:
        self.run = run
        self._keep(run)


def largest(former: Mapping[str, int], now: Mapping[str, int]) -> Mapping[str, int]:
    """The larger of both, key by key."""
    return {name: max(former.get(name, 0), now.get(name, 0)) for name in (*former, *now)}


def sweep(target: Measures, loads: Iterable[Load], recording: Recording) -> None:
    """Measure loads one after another."""
    for load in loads:
        recording.add(target.measure(load))


def search(target: Measures, sla_ms: float, recording: Recording) -> float:
    """The latency-bounded throughput in queries/s: what was answered at the highest rate that holds.

    Raises LoadTestError where a server misses the SLA with one query at a time, or at any rate.
    """
    percentile = recording.run.percentile
    idle = target.measure(Load("concurrency", 1))
    recording.add(idle)
    if idle.latency_ms(percentile) > sla_ms:
        raise LoadTestError(
            f"--search: expected p{percentile} within the SLA of {sla_ms:g} ms, but one query at a time takes "
            f"{idle.latency_ms(percentile):.3g} ms; give a longer one with --sla-ms"
        )

    def holds(rate_qps: float) -> bool:
        point = target.measure(Load("request_rate", rate_qps))
        recording.add(point)
        return within(point, sla_ms, percentile)

    rate_qps = highest_rate(holds, guess_qps=round(idle.throughput_qps, 1))
    if rate_qps is None:
        raise LoadTestError(f"--search: no request rate holds p{percentile} within the SLA of {sla_ms:g} ms")
    held = [p for p in recording.run.points if p.load == rate_qps and within(p, sla_ms, percentile)]
    return held[-1].throughput_qps
