"""What a report says about each run at a glance: figures picked out of the run, never measured or modelled again."""

from __future__ import annotations

from dataclasses import dataclass

from loadtest.run import Point, Run


@dataclass(frozen=True, slots=True)
class Summary:
    """One run at its best point: the most queries/s within the SLA without an error; None where no point is."""

    run: Run
    best: Point | None
    queries: int
    errors: int
    memory_bytes: int | None

    @property
    def throughput_qps(self) -> float | None:
        """The latency-bounded throughput, queries/s."""
        return self.best.throughput_qps if self.best else None


def latency_ms(point: Point, percentile: int) -> float:
    """A point's latency at 50, 95 or 99."""
    return {50: point.p50_ms, 95: point.p95_ms, 99: point.p99_ms}[percentile]


def holds(run: Run, point: Point) -> bool:
    """Whether a point has no error and meets the run's SLA at the run's percentile."""
    return point.errors == 0 and (run.sla_ms is None or latency_ms(point, run.percentile) <= run.sla_ms)


def summarize(run: Run) -> Summary:
    """Pick out a run's figures. Errors and queries are the points', or the timeline's where there are no points."""
    held = [point for point in run.points if holds(run, point)]
    best = max(held, key=lambda point: point.throughput_qps, default=None)
    memory_bytes = sum(run.memory_bytes.values()) if run.memory_bytes else None
    parts = run.points or run.timeline
    queries = sum(point.queries for point in run.points)
    return Summary(run, best, queries, sum(part.errors for part in parts), memory_bytes)


def breakdown_point(run: Run) -> Point | None:
    """The point whose services a report breaks down: the best one, else the first, if its services were measured."""
    measured = [point for point in run.points if point.services]
    best = summarize(run).best
    return best if best in measured else next(iter(measured), None)
