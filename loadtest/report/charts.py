"""The charts of latency: against throughput, and over time. Figures are Plotly's JSON; a colour is a CSS variable."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from loadtest.report.summary import latency_ms
from loadtest.run import Run

PERCENTILES = (50, 95, 99)
COLOURS = 8
DASHES = {50: "dot", 95: "dash", 99: "solid"}
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"


@dataclass(frozen=True, slots=True)
class Key:
    """An entry of a chart's legend, which is HTML so that it wraps on a phone."""

    label: str
    colour: str
    line: str = "solid"  # solid, dash, dot; or box


@dataclass(frozen=True, slots=True)
class Chart:
    """One drawing: its element's id, heading, legend, Plotly's figure (data, layout) and height in pixels."""

    id: str
    title: str
    keys: tuple[Key, ...]
    figure: dict[str, Any]
    height_px: int
    label: str


def colour(index: int) -> str:
    """The CSS variable of the index-th colour; they begin again after the last."""
    return f"--c{index % COLOURS}"


def text(words: str) -> str:
    """A user's words for Plotly, which reads tags."""
    return html.escape(words, quote=False)


def axis(title: str, **more: Any) -> dict[str, Any]:
    """An axis in the page's colours."""
    common = {"gridcolor": "--grid", "linecolor": "--line", "zerolinecolor": "--line", "tickcolor": "--line"}
    named = {"title": {"text": title, "font": {"size": 13}, "standoff": 8}} if title else {}
    return {**common, **named, "automargin": True, "fixedrange": True, "exponentformat": "none", **more}


def layout(height_px: int, **more: Any) -> dict[str, Any]:
    """What all charts share: a clear background, the page's font, room for the axes only."""
    return {
        "height": height_px,
        "margin": {"l": 8, "r": 12, "t": 10, "b": 8},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": FONT, "size": 13, "color": "--text"},
        "hoverlabel": {"bgcolor": "--card", "bordercolor": "--line", "font": {"color": "--text"}, "align": "left"},
        "showlegend": False,
        **more,
    }


def sla_line(sla_ms: float, row: str = "y") -> dict[str, Any]:
    """A horizontal line across the plot at the SLA."""
    line = {"color": "--bad", "width": 1.5, "dash": "dash"}
    return {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "yref": row, "y0": sla_ms, "y1": sla_ms, "line": line}


def sweep_charts(runs: Sequence[Run]) -> list[Chart]:
    """Latency against throughput, a chart a percentile, one colour a run; the SLA where it counts at that percentile."""
    if not any(run.points for run in runs):
        return []
    return [_sweep(runs, percentile) for percentile in PERCENTILES]


def _sweep(runs: Sequence[Run], percentile: int) -> Chart:
    data = []
    for i, run in enumerate(runs):
        points = sorted(run.points, key=lambda point: point.load)
        data.append({
            "type": "scatter",
            "mode": "lines+markers",
            "name": text(run.title),
            "x": [point.throughput_qps for point in points],
            "y": [latency_ms(point, percentile) for point in points],
            "line": {"color": colour(i), "width": 2},
            "marker": {"size": 7, "color": colour(i), "symbol": ["x" if point.errors else "circle" for point in points]},
            "customdata": [[f"{point.load:g}", point.errors] for point in points],
            "hovertemplate": f"<b>{text(run.title)}</b><br>%{{x:,.1f}} queries/s, p{percentile} %{{y:,.2f}} ms<br>"
            "load %{customdata[0]}, errors %{customdata[1]}<extra></extra>",
        })  # fmt: skip
    limits = sorted({run.sla_ms for run in runs if run.sla_ms is not None and run.percentile == percentile})
    shapes = [sla_line(sla_ms) for sla_ms in limits]
    keys = tuple(Key(f"SLA {sla_ms:g} ms", "--bad", "dash") for sla_ms in limits)
    figure = {
        "data": data,
        "layout": layout(
            320,
            shapes=shapes,
            hovermode="closest",
            xaxis=axis("queries/s", rangemode="tozero"),
            yaxis=axis("latency, ms", type="log", nticks=7),
        ),
    }
    return Chart(f"sweep-p{percentile}", f"p{percentile}", keys, figure, 320, f"p{percentile} against throughput")


def run_keys(runs: Sequence[Run]) -> tuple[Key, ...]:
    """The legend that the charts of all runs share."""
    return tuple(Key(run.title, colour(i)) for i, run in enumerate(runs))


def timeline_charts(runs: Sequence[Run]) -> list[Chart]:
    """Latency, traffic and replicas over time, a chart for each run that has a timeline; all on one time axis."""
    longest_s = max((sample.time_s for run in runs for sample in run.timeline), default=0.0)
    return [_timeline(i, run, longest_s) for i, run in enumerate(runs) if run.timeline]


def _timeline(index: int, run: Run, longest_s: float) -> Chart:
    time_s = [sample.time_s for sample in run.timeline]
    services = list(dict.fromkeys(name for sample in run.timeline for name in sample.replicas))

    def line(label: str, values: list[Any], row: str, shade: str, **style: Any) -> dict[str, Any]:
        hover = f"{text(label)} %{{y:,.6~g}}<extra></extra>"
        shared = {"type": "scatter", "mode": "lines", "connectgaps": False, "name": text(label), "hovertemplate": hover}
        return {**shared, "x": time_s, "y": values, "xaxis": "x", "yaxis": row, "line": {"color": shade, **style}}

    latencies = [
        line(f"p{percentile}, ms", [_positive(sample, percentile) for sample in run.timeline], "y", colour(shade))
        for percentile, shade in zip(PERCENTILES, (2, 0, 3), strict=True)
    ]
    traffic = [
        line("offered, queries/s", [sample.offered_qps for sample in run.timeline], "y2", "--soft", dash="dot"),
        line("answered, queries/s", [sample.answered_qps for sample in run.timeline], "y2", "--c0"),
    ]
    errors = [line("errors", [sample.errors for sample in run.timeline], "y2", "--bad")] if _errors(run) else []
    replicas = [
        line(f"{name}, replicas", [sample.replicas.get(name) for sample in run.timeline], "y3", colour(i), shape="hv")
        for i, name in enumerate(services)
    ]
    rows = 3 if services else 2
    height_px = 230 * rows
    figure = {
        "data": [*latencies, *traffic, *errors, *replicas],
        "layout": layout(
            height_px,
            hovermode="x unified",
            shapes=[sla_line(run.sla_ms)] if run.sla_ms is not None else [],
            xaxis=axis("time, s", range=[0, longest_s], anchor=f"y{rows}", hoverformat=",.4~g"),
            **_rows(rows),
        ),
    }
    sla = (Key(f"SLA {run.sla_ms:g} ms", "--bad", "dash"),) if run.sla_ms is not None else ()
    keys = tuple(Key(trace["name"], trace["line"]["color"], _stroke(trace)) for trace in figure["data"])
    keys = tuple(Key(html.unescape(key.label), key.colour, key.line) for key in keys)
    return Chart(f"time-{index}", run.title, (*keys, *sla), figure, height_px, "latency, traffic and replicas over time")


def _positive(sample: Any, percentile: int) -> float | None:
    """A gap where no query ended in that second."""
    value = latency_ms(sample, percentile)
    return value if value else None


def _errors(run: Run) -> int:
    return sum(sample.errors for sample in run.timeline)


def _stroke(trace: dict[str, Any]) -> str:
    return str(trace["line"].get("dash", "solid"))


def _rows(rows: int) -> dict[str, Any]:
    """The y axes one under another: latency, traffic, replicas."""
    gap = 0.07
    height = (1 - gap * (rows - 1)) / rows
    titles = ("latency, ms", "queries/s", "replicas")[:rows]
    axes = {}
    for row, title in enumerate(titles):
        low = 1 - row * (height + gap) - height
        kind = {"type": "log", "nticks": 6} if row == 0 else {"rangemode": "tozero"}
        axes["yaxis" if row == 0 else f"yaxis{row + 1}"] = axis(title, domain=[max(0, low), low + height], **kind)
    return axes
