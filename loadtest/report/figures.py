"""The report's tables: cells as text, rounded for reading; the exact figures are in the report's JSON and CSV."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from loadtest.report.charts import MIB, colour
from loadtest.report.charts_loads import load_text
from loadtest.report.summary import RunSummary
from loadtest.run import LoadPoint, Run

Mood = Literal["", "good", "warn", "bad"]
NONE = "-"


@dataclass(frozen=True, slots=True)
class Cell:
    """What a cell says, and whether it is good or bad news."""

    text: str
    mood: Mood = ""


@dataclass(frozen=True, slots=True)
class Row:
    """A row, its first cell the heading; `colour` is the run's in the charts."""

    cells: tuple[Cell, ...]
    colour: str = ""


@dataclass(frozen=True, slots=True)
class FigureTable:
    """A table with a heading for each column."""

    columns: tuple[str, ...]
    rows: tuple[Row, ...]


def number(value: float | None, digits: int = 2) -> str:
    """A number with thousands set apart, or a dash."""
    return NONE if value is None else f"{value:,.{digits}f}"


def errors_cell(errors: int) -> Cell:
    """A count of errors: any is bad."""
    return Cell(f"{errors:,}", "bad" if errors else "")


def summary_table(summaries: Sequence[RunSummary]) -> FigureTable:
    """The runs side by side at their best points; throughput and memory also as multiples of the first."""
    columns = ("run", "best queries/s", "p50 ms", "p95 ms", "p99 ms", "SLA", "memory MiB", "errors", "run ended")
    rows = []
    for i, summary in enumerate(summaries):
        run, best, first = summary.run, summary.best, summaries[0]
        throughput = number(summary.throughput_qps, 1) + _times(summary.throughput_qps, first.throughput_qps, i)
        latencies = [Cell(number(best.latency_ms(percentile) if best else None)) for percentile in (50, 95, 99)]
        sla = Cell(NONE if run.sla_ms is None else f"p{run.percentile} {run.sla_ms:g} ms")
        memory_mib = None if summary.memory_bytes is None else summary.memory_bytes / MIB
        memory = Cell(number(memory_mib, 1) + _times(summary.memory_bytes, first.memory_bytes, i))
        ended = Cell("complete", "good") if run.complete else Cell("not complete", "warn")
        cells = (Cell(run.title), Cell(throughput), *latencies, sla, memory, errors_cell(summary.errors), ended)
        rows.append(Row(cells, colour(i)))
    return FigureTable(columns, tuple(rows))


def summary_gaps(summary: RunSummary) -> list[str]:
    """Why a run's row in the summary has dashes."""
    run, gaps = summary.run, []
    if not run.points:
        gaps.append("no best point: it was measured over time, not at one load after another")
    elif summary.best is None:
        gaps.append("no best point: no load met the SLA without an error")
    if run.sla_ms is None:
        gaps.append("no SLA: its spec has none")
    if summary.memory_bytes is None:
        gaps.append("no memory: its servers could not be seen from where it was measured")
    return [f"{run.title}: {gap}" for gap in gaps]


def _times(value: float | None, first: float | None, index: int) -> str:
    return f" ({value / first:.2f}x)" if index and value is not None and first else ""


def points_table(run: Run) -> FigureTable:
    """Every load of a run; latencies that miss the SLA are marked."""
    columns = ("load", "queries/s", "p50 ms", "p95 ms", "p99 ms", "mean ms", "network ms", "queries", "errors")
    rows = [
        Row((
            Cell(load_text(point)),
            Cell(number(point.throughput_qps, 1)),
            *(_latency(run, point, percentile) for percentile in (50, 95, 99)),
            Cell(number(point.mean_ms)),
            Cell("not told" if point.network_ms is None else number(point.network_ms)),
            Cell(f"{point.queries:,}"),
            errors_cell(point.errors),
        ))
        for point in run.points
    ]  # fmt: skip
    return FigureTable(columns, tuple(rows))


def _latency(run: Run, point: LoadPoint, percentile: int) -> Cell:
    value = point.latency_ms(percentile)
    missed = run.sla_ms is not None and percentile == run.percentile and value > run.sla_ms
    return Cell(number(value), "bad" if missed else "")


def services_table(point: LoadPoint) -> FigureTable:
    """Every service at one load: its requests, how many were served in one call, and its times."""
    columns = ("service", "requests", "requests/call", "queue ms", "compute ms")
    rows = [
        Row((
            Cell(name),
            Cell(f"{times.requests:,}"),
            Cell(number(times.requests / times.executions) if times.executions else "not called"),
            Cell(number(times.queue_ms)),
            Cell(number(times.compute_ms)),
        ))
        for name, times in point.services.items()
    ]  # fmt: skip
    return FigureTable(columns, tuple(rows))


def memory_table(run: Run) -> FigureTable:
    """Memory by service, MiB; of a fleet's services with the number of their replicas."""
    columns = ("service", "MiB", "replicas") if run.replicas else ("service", "MiB")
    rows = []
    for name, held in run.memory_bytes.items():
        replicas = [Cell(str(run.replicas.get(name, "not counted")))] if run.replicas else []
        rows.append(Row((Cell(name), Cell(number(held / MIB, 1)), *replicas)))
    return FigureTable(columns, tuple(rows))
