"""What a report says about each run at a glance: figures picked out of the run, never measured or modelled again."""

from __future__ import annotations

from dataclasses import dataclass

from loadtest.run import Point, Run


@dataclass(frozen=True, slots=True)
class Summary:
    """One run at its best point: the most queries/s within the SLA without an error; None where no point is.

    errors: the points', and the timeline's where there are no points; memory_bytes: of all services together.
    """

    run: Run
    best: Point | None
    errors: int
    memory_bytes: int | None

    @property
    def throughput_qps(self) -> float | None:
        """The latency-bounded throughput, queries/s."""
        return self.best.throughput_qps if self.best else None


def holds(run: Run, point: Point) -> bool:
    """Whether a point has no error and meets the run's SLA, where it has one, at the run's percentile."""
    return point.errors == 0 and (run.sla_ms is None or point.latency_ms(run.percentile) <= run.sla_ms)


def summarize(run: Run) -> Summary:
    """Pick out a run's figures."""
    held = [point for point in run.points if holds(run, point)]
    best = max(held, key=lambda point: point.throughput_qps, default=None)
    errors = sum(part.errors for part in run.points or run.timeline)
    return Summary(run, best, errors, sum(run.memory_bytes.values()) if run.memory_bytes else None)


def breakdown_point(run: Run) -> Point | None:
    """The point whose services a report breaks down: the best one, else the first; None where none was measured."""
    measured = [point for point in run.points if point.services]
    best = summarize(run).best
    return best if best in measured else next(iter(measured), None)
