"""The report as one HTML file that needs no network: Plotly, the style and the figures are inside it.

Its tables' cells are text, rounded for reading; the exact figures are in the report's JSON and CSV.
"""

from __future__ import annotations

import base64
import hashlib
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Literal

import jinja2
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from loadtest.report.charts import MIB, colour, service_colours
from loadtest.report.charts_loads import breakdown_charts, load_text, memory_charts, run_legend, sweep_charts
from loadtest.report.charts_time import timeline_charts
from loadtest.report.summary import RunSummary, breakdown_point, summarize
from loadtest.run import LoadPoint, Run
from repo_builder.words import count


def page(runs: Sequence[Run]) -> str:
    """The whole page for one or several runs. All that users wrote is escaped, and no script but ours may run."""
    library, script = get_plotlyjs(), _file("page.js")
    colours = service_colours(runs)
    sweep, timelines = sweep_charts(runs), timeline_charts(runs, colours)
    breakdowns, memories = breakdown_charts(runs, colours), memory_charts(runs, colours)
    summaries = [summarize(run) for run in runs]
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    return environment.from_string(_file("page.html")).render(
        runs=runs,
        policy=_policy(library, script),
        style=Markup(_file("style.css")),  # noqa: S704 - a file of this package: nothing of a run or a user is in it
        summary=summary_table(summaries),
        gaps=[gap for each in summaries for gap in summary_gaps(each)],
        run_legend=run_legend(runs),
        sweep=sweep,
        timelines=timelines,
        breakdowns=breakdowns,
        memories=memories,
        facts=[_facts(run) for run in runs],
        commands=[shlex.join(run.command) for run in runs],
        details=[_details(i, run) for i, run in enumerate(runs)],
        figures={chart.id: chart.figure for chart in (*sweep, *timelines, *breakdowns, *memories)},
        library=Markup(library),  # noqa: S704 - Plotly's own script, which would not run escaped: nothing of a user is in it
        script=Markup(script),  # noqa: S704 - a file of this package: nothing of a run or a user is in it
    )


def _file(name: str) -> str:
    return resources.files("loadtest.report").joinpath(name).read_text(encoding="utf-8")


def _policy(*scripts: str) -> str:
    """A Content-Security-Policy: nothing is fetched, and only these scripts run. Plotly writes styles as it draws."""
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _facts(run: Run) -> list[tuple[str, str]]:
    """What was measured, when, and where."""
    facts = [("started", run.started), ("tool", run.tool), ("model", run.model), ("layout", run.layout)]
    facts.append(("batch", f"{count(run.batch, 'row')} a query"))
    if run.sla_ms is not None:
        facts.append(("SLA", f"p{run.percentile} within {run.sla_ms:g} ms"))
    if run.found_qps is not None:
        facts.append(("search found", f"{run.found_qps:,.1f} queries/s within the SLA"))
    if run.score_error:
        error = run.score_error
        told = f"at most {error.max:.1e}, on average {error.mean:.1e}, on samples"
        facts.append(("score error of stored rows", told))
    return facts + [_machine_fact(name, value) for name, value in run.machine.items()]


def _machine_fact(name: str, value: str | int) -> tuple[str, str]:
    if name.endswith("_bytes") and isinstance(value, int):
        return name.removesuffix("_bytes").replace("_", " "), f"{value / MIB:,.0f} MiB"
    return name.replace("_", " "), str(value)


def _details(index: int, run: Run) -> list[tuple[str, str, FigureTable]]:
    """A run's tables, each with its caption and its element's id."""
    found = []
    if run.points:
        found.append(("Every load", f"points-{index}", points_table(run)))
    point = breakdown_point(run)
    if point is not None:
        found.append((f"Services at {load_text(point)}", f"times-{index}", services_table(point)))
    if run.memory_bytes:
        found.append(("Memory", f"held-{index}", memory_table(run)))
    if run.rows:
        found.append(("Rows as they are stored", f"rows-{index}", rows_table(run)))
    return found


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


def rows_table(run: Run) -> FigureTable:
    """Every embedding service's rows: how many, in which formats, and their bytes."""
    rows = [
        Row((
            Cell(name),
            Cell(f"{stored.rows:,}"),
            Cell(", ".join(stored.dtypes)),
            Cell(number(stored.size_bytes / MIB, 1)),
            Cell(number(stored.size_bytes / stored.rows, 1) if stored.rows else NONE),
        ))
        for name, stored in run.rows.items()
    ]  # fmt: skip
    return FigureTable(("service", "rows", "stored", "MiB", "bytes/row"), tuple(rows))
