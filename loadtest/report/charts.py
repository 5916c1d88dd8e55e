"""What all charts share. A figure is Plotly's JSON; a colour in it is the name of a CSS variable of the page."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from loadtest.run import Run

COLOURS = 8
MIB = 1024**2
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"


@dataclass(frozen=True, slots=True)
class Key:
    """An entry of a legend; `line` is solid, dash, dot, or box for a bar."""

    label: str
    colour: str
    line: str = "solid"


@dataclass(frozen=True, slots=True)
class Legend:
    """A line of a chart's legend, which is HTML so that it wraps on a phone and never covers the chart."""

    title: str
    keys: tuple[Key, ...]


@dataclass(frozen=True, slots=True)
class Chart:
    """One drawing: its element's id, heading, legends, Plotly's figure (data, layout), height, and spoken label."""

    id: str
    title: str
    legends: tuple[Legend, ...]
    figure: dict[str, Any]
    height_px: int
    label: str


def colour(index: int) -> str:
    """The CSS variable of the index-th colour; they begin again after the last."""
    return f"--c{index % COLOURS}"


def service(run: Run, name: str) -> str:
    """A service's name whichever tool told it: of the model rm1, rm1_tier0 and tier0 are the same."""
    return name.removeprefix(f"{run.model}_")


def service_colours(runs: Iterable[Run]) -> Mapping[str, str]:
    """A colour for each service of all the runs, the same in every chart."""
    names: dict[str, None] = {}
    for run in runs:
        told = [run.memory_bytes, run.replicas, *(point.services for point in run.points)]
        told += [part for sample in run.timeline for part in (sample.replicas, sample.memory_bytes)]
        names |= {service(run, name): None for part in told for name in part}
    return {name: colour(i) for i, name in enumerate(names)}


def text(words: str) -> str:
    """A user's words for Plotly, which reads tags, and placeholders in a hover's template."""
    return html.escape(words, quote=False).replace("%{", "%&#123;")


def axis(title: str, **more: Any) -> dict[str, Any]:
    """An axis in the page's colours."""
    common = {"gridcolor": "--grid", "linecolor": "--line", "zerolinecolor": "--line", "tickcolor": "--line"}
    named = {"title": {"text": title, "font": {"size": 13}, "standoff": 8}} if title else {}
    return {**common, **named, "automargin": True, "fixedrange": True, "exponentformat": "none", **more}


def log_axis(title: str, values: Iterable[float | None], **more: Any) -> dict[str, Any]:
    """A logarithmic axis whose ticks read 1, 2, 5, 10, 20, or over many decades 1, 10, 100."""
    shown = [value for value in values if value]
    steps = (1, 2, 5) if shown and max(shown) < 300 * min(shown) else (1,)
    ticks = [step * 10.0**power for power in range(-4, 8) for step in steps]
    labels = [f"{tick:,.10g}" for tick in ticks]
    return axis(title, type="log", tickvals=ticks, ticktext=labels, **more)


def layout(height_px: int, **more: Any) -> dict[str, Any]:
    """A clear background, the page's font, room for the axes only."""
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


def sla_line(sla_ms: float) -> dict[str, Any]:
    """A horizontal line at the SLA across the uppermost plot."""
    line = {"color": "--bad", "width": 1.5, "dash": "dash"}
    return {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "yref": "y", "y0": sla_ms, "y1": sla_ms, "line": line}


def sla_key(sla_ms: float, percentile: int) -> Key:
    """The line's entry in a legend."""
    return Key(f"SLA p{percentile} {sla_ms:g} ms", "--bad", "dash")
