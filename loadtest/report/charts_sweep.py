"""Latency against throughput: a chart a percentile, one colour a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from loadtest.report.charts import Chart, Key, Legend, axis, colour, layout, log_axis, sla_key, sla_line, text
from loadtest.run import Point, Run

PERCENTILES = (50, 95, 99)
HEIGHT_PX = 320
MARKERS = {"concurrency": "circle", "request_rate": "diamond"}
LOADS = {"concurrency": "in flight", "request_rate": "queries/s offered"}


def sweep_charts(runs: Sequence[Run]) -> list[Chart]:
    """The charts, with an SLA in that of its percentile; none where no run has points."""
    if not any(run.points for run in runs):
        return []
    return [_sweep(runs, percentile) for percentile in PERCENTILES]


def run_legend(runs: Sequence[Run]) -> Legend:
    """The legend that these charts share."""
    return Legend("", tuple(Key(run.title, colour(i)) for i, run in enumerate(runs)))


def load_text(point: Point) -> str:
    """A point's load with its unit."""
    return f"{point.load:g} {LOADS[point.load_kind]}"


def _sweep(runs: Sequence[Run], percentile: int) -> Chart:
    kinds = [(i, run, kind) for i, run in enumerate(runs) for kind in MARKERS]
    data = [trace for i, run, kind in kinds if (trace := _trace(run, kind, percentile, colour(i)))["x"]]
    limits_ms = sorted({run.sla_ms for run in runs if run.sla_ms is not None and run.percentile == percentile})
    figure = {
        "data": data,
        "layout": layout(
            HEIGHT_PX,
            shapes=[sla_line(sla_ms) for sla_ms in limits_ms],
            hovermode="closest",
            xaxis=axis("queries/s", rangemode="tozero", nticks=6),
            yaxis=log_axis("latency, ms", [*limits_ms, *(value for trace in data for value in trace["y"])]),
        ),
    }
    keys = tuple(sla_key(sla_ms, percentile) for sla_ms in limits_ms)
    legends = (Legend("", keys),) if keys else ()
    label = f"p{percentile} latency against throughput"
    return Chart(f"sweep-p{percentile}", f"p{percentile}", legends, figure, HEIGHT_PX, label)


def _trace(run: Run, kind: str, percentile: int, shade: str) -> dict[str, Any]:
    """One kind of load of one run, as lines between its points in the order of their load."""
    points = sorted((point for point in run.points if point.load_kind == kind), key=lambda point: point.load)
    symbols = ["x" if point.errors else MARKERS[kind] for point in points]
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": text(run.title),
        "x": [point.throughput_qps for point in points],
        "y": [point.latency_ms(percentile) or None for point in points],  # no logarithm of 0
        "line": {"color": shade, "width": 2},
        "marker": {"size": 7, "color": shade, "symbol": symbols},
        "customdata": [[load_text(point), point.errors] for point in points],
        "hovertemplate": f"<b>{text(run.title)}</b><br>%{{x:,.1f}} queries/s<br>p{percentile} %{{y:,.2f}} ms<br>"
        "load: %{customdata[0]}<br>errors: %{customdata[1]}<extra></extra>",
    }
