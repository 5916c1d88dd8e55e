"""The report's figures for programs, unrounded: JSON as nested as the runs are, and CSV with one value a line."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from loadtest.report.summary import Summary, summarize
from loadtest.run import Run

COLUMNS = ("run", "title", "part", "at_kind", "at", "name", "measure", "value")
VERSION = 1


def report_json(runs: Sequence[Run]) -> str:
    """All of the runs, and what the report picks out of each."""
    found = [{"run": asdict(run), "summary": _summary(summarize(run))} for run in runs]
    return json.dumps({"version": VERSION, "runs": found}, indent=2, allow_nan=False) + "\n"


def _summary(summary: Summary) -> dict[str, Any]:
    best = asdict(summary.best) if summary.best else None
    return {"best": best, "errors": summary.errors, "memory_bytes": summary.memory_bytes}


def report_csv(runs: Sequence[Run]) -> str:
    """One value a line: `part` is point, service, timeline, replicas or memory, of the service `name`.

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
