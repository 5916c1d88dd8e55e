"""The report as one HTML file that needs no network: Plotly, the style and the figures are inside it."""

from __future__ import annotations

import base64
import hashlib
import json
import shlex
from collections.abc import Sequence
from importlib import resources

import jinja2
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from loadtest.report.charts import MIB, Chart, service_colours
from loadtest.report.charts_loads import breakdown_charts, load_text, memory_charts, run_legend, sweep_charts
from loadtest.report.charts_time import timeline_charts
from loadtest.report.figures import FigureTable, memory_table, points_table, services_table, summary_gaps, summary_table
from loadtest.report.summary import breakdown_point, summarize
from loadtest.run import Run
from repo_builder.words import count


def page(runs: Sequence[Run]) -> str:
    """The whole page for one or several runs. All that users wrote is escaped, and no script but ours may run."""
    library, script = get_plotlyjs(), _file("page.js")
    colours = service_colours(runs)
    sweep, timelines = sweep_charts(runs), timeline_charts(runs, colours)
    breakdowns, memories = breakdown_charts(runs, colours), memory_charts(runs, colours)
    summaries = [summarize(run) for run in runs]
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(_file("page.html")).render(
        runs=runs,
        policy=_policy(library, script),
        style=Markup(_file("style.css")),  # noqa: S704 - shipped beside this file: holds nothing of a run
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
        figures=_figures([*sweep, *timelines, *breakdowns, *memories]),
        library=Markup(library),  # noqa: S704 - Plotly's own script; escaped it would not run, and holds nothing of a run
        script=Markup(script),  # noqa: S704 - shipped beside this file: holds nothing of a run
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


def _figures(charts: Sequence[Chart]) -> Markup:
    """The figures as JSON inside a script element, which only `<` could end."""
    text = json.dumps({chart.id: chart.figure for chart in charts}, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c"))  # noqa: S704 - escaped here: `<` stands in JSON's strings only


def _facts(run: Run) -> list[tuple[str, str]]:
    """What was measured, when, and where."""
    facts = [("started", run.started), ("tool", run.tool), ("model", run.model), ("layout", run.layout)]
    facts.append(("batch", f"{count(run.batch, 'row')} a query"))
    if run.sla_ms is not None:
        facts.append(("SLA", f"p{run.percentile} within {run.sla_ms:g} ms"))
    if run.found_qps is not None:
        facts.append(("search found", f"{run.found_qps:,.1f} queries/s within the SLA"))
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
    return found
