"""A report's figures: what it picks out of each run, never measured or modelled again; and all of them for programs,
unrounded, as JSON (as nested as the runs are) and CSV (one value a line).
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from loadtest.run import LoadPoint, Run


@dataclass(frozen=True, slots=True)
class RunSummary:
    """One run at its best point: the most queries/s within the SLA without an error; None where no point is.

    errors: the points', and the timeline's where there are no points; memory_bytes: of all services together.
    """

    run: Run
    best: LoadPoint | None
    errors: int
    memory_bytes: int | None

    @property
    def throughput_qps(self) -> float | None:
        """The latency-bounded throughput, queries/s."""
        return self.best.throughput_qps if self.best else None


def holds(run: Run, point: LoadPoint) -> bool:
    """Whether a point has no error and meets the run's SLA, where it has one, at the run's percentile."""
    return point.errors == 0 and (run.sla_ms is None or point.latency_ms(run.percentile) <= run.sla_ms)


def summarize(run: Run) -> RunSummary:
    """Pick out a run's figures."""
    held = [point for point in run.points if holds(run, point)]
    best = max(held, key=lambda point: point.throughput_qps, default=None)
    errors = sum(part.errors for part in run.points or run.timeline)
    return RunSummary(run, best, errors, sum(run.memory_bytes.values()) if run.memory_bytes else None)


def breakdown_point(run: Run) -> LoadPoint | None:
    """The point whose services a report breaks down: the best one, else the first; None where none was measured."""
    measured = [point for point in run.points if point.services]
    best = summarize(run).best
    return best if best in measured else next(iter(measured), None)


COLUMNS = ("run", "title", "part", "at_kind", "at", "name", "measure", "value")
VERSION = 1


def report_json(runs: Sequence[Run]) -> str:
    """All of the runs, and what the report picks out of each."""
    found = [{"run": asdict(run), "summary": _summary(summarize(run))} for run in runs]
    return json.dumps({"version": VERSION, "runs": found}, indent=2, allow_nan=False) + "\n"


def _summary(summary: RunSummary) -> dict[str, Any]:
    best = asdict(summary.best) if summary.best else None
    return {"best": best, "errors": summary.errors, "memory_bytes": summary.memory_bytes}


def report_csv(runs: Sequence[Run]) -> str:
    """One value a line: `part` is point, service, timeline, replicas, memory or rows, of the service `name`.

    `at` is the load in `at_kind`'s unit (concurrency, request_rate), or a time_s. `run` counts from 0 in the report's
    order, as titles may be alike; what was not measured has no line.
    """
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(COLUMNS)
    for i, run in enumerate(runs):
        lines.writerows((i, run.title, *line) for line in _lines(run) if line[-1] is not None)
    return text.getvalue()


def _lines(run: Run) -> Iterator[tuple[str, str, float | str, str, str, float | None]]:
    for point in run.points:
        measures = asdict(point)
        kind, load, services = (measures.pop(name) for name in ("load_kind", "load", "services"))
        yield from (("point", kind, load, "", measure, value) for measure, value in measures.items())
        for name, times in services.items():
            yield from (("service", kind, load, name, measure, value) for measure, value in times.items())
    for sample in run.timeline:
        measures = asdict(sample)
        time_s, replicas, memory_bytes = (measures.pop(name) for name in ("time_s", "replicas", "memory_bytes"))
        yield from (("timeline", "time_s", time_s, "", measure, value) for measure, value in measures.items())
        yield from (("replicas", "time_s", time_s, name, "replicas", count) for name, count in replicas.items())
        yield from (("memory", "time_s", time_s, name, "memory_bytes", held) for name, held in memory_bytes.items())
    yield from (("memory", "", "", name, "memory_bytes", held) for name, held in run.memory_bytes.items())
    yield from (("replicas", "", "", name, "replicas", count) for name, count in run.replicas.items())
    for name, stored in run.rows.items():
        yield ("rows", "", "", name, "rows", stored.rows)
        yield ("rows", "", "", name, "size_bytes", stored.size_bytes)
    if run.score_error:
        yield from (("rows", "", "", "", f"{m}_score_error", value) for m, value in asdict(run.score_error).items())
