"""A run over time: latency, and under it on the same axis traffic, errors, replicas and memory, where there are any."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from loadtest.report.charts import MIB, Chart, Key, Legend, axis, layout, log_axis, service, sla_key, sla_line, text
from loadtest.run import Run, RunSample

ROW_PX = 200
GAP_PX = 28
AXIS_PX = 60
COUNTS = ("errors", "replicas")  # of which there are no halves
WIDTH = 1.8


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a row: what a sample says, None for a gap."""

    key: Key
    of: Callable[[RunSample], float | None]
    shape: str = "linear"
    width: float = WIDTH


@dataclass(frozen=True, slots=True)
class TimePanel:
    """One of the plots that stand one under another."""

    title: str
    lines: tuple[Line, ...]


def timeline_charts(runs: Sequence[Run], colours: Mapping[str, str]) -> list[Chart]:
    """A chart for each run that has a timeline, all on time axes of one length."""
    longest_s = max((sample.time_s for run in runs for sample in run.timeline), default=0.0)
    return [_timeline(i, run, longest_s, colours) for i, run in enumerate(runs) if run.timeline]


def _timeline(index: int, run: Run, longest_s: float, colours: Mapping[str, str]) -> Chart:
    panels = _panels(run, colours)
    height_px = ROW_PX * len(panels) + GAP_PX * (len(panels) - 1) + AXIS_PX
    data = [_trace(run, line, row) for row, panel in enumerate(panels) for line in panel.lines]
    shown = layout(
        height_px,
        hovermode="x unified",
        shapes=[] if run.sla_ms is None else [sla_line(run.sla_ms)],
        xaxis=axis("time, s", range=[0, longest_s or 1], anchor=_name("y", len(panels) - 1), hoverformat=",.1f"),
        **{_name("yaxis", row): _axis(run, panel, row, len(panels)) for row, panel in enumerate(panels)},
    )
    legends = [Legend(panel.title, tuple(line.key for line in panel.lines)) for panel in panels]
    if run.sla_ms is not None:
        legends[0] = Legend(legends[0].title, (*legends[0].keys, sla_key(run.sla_ms, run.percentile)))
    label = f"{run.title}: {', '.join(panel.title for panel in panels)} over time"
    return Chart(f"time-{index}", run.title, tuple(legends), {"data": data, "layout": shown}, height_px, label)


def _panels(run: Run, colours: Mapping[str, str]) -> list[TimePanel]:
    latency = (
        Line(Key("p50", "--c2"), lambda sample: sample.p50_ms),
        Line(Key("p95", "--c0"), lambda sample: sample.p95_ms),
        Line(Key("p99", "--c3"), lambda sample: sample.p99_ms),
    )
    traffic = (
        Line(Key("offered", "--soft"), lambda sample: sample.offered_qps, width=_nested(0, 2)),
        Line(Key("answered", "--c0"), lambda sample: sample.answered_qps),
    )
    panels = [TimePanel("latency, ms", latency), TimePanel("queries/s", traffic)]
    if any(sample.errors for sample in run.timeline):
        panels.append(TimePanel("errors", (Line(Key("errors", "--bad"), lambda sample: sample.errors, "hv"),)))
    replicas = _named(sample.replicas for sample in run.timeline)
    if replicas:
        panels.append(
            TimePanel(
                "replicas",
                tuple(_replicas(run, name, colours, _nested(i, len(replicas))) for i, name in enumerate(replicas)),
            )
        )
    memory = _named(sample.memory_bytes for sample in run.timeline)
    if memory:
        panels.append(TimePanel("memory, MiB", tuple(_memory(run, name, colours) for name in memory)))
    return panels


def _named(parts: Iterable[Iterable[str]]) -> list[str]:
    return list(dict.fromkeys(name for part in parts for name in part))


def _nested(index: int, lines: int) -> float:
    """The width of the index-th line drawn: where several lie on each other, all show."""
    return WIDTH + min(2.5, 8 / lines) * (lines - 1 - index)


def _replicas(run: Run, name: str, colours: Mapping[str, str], width: float) -> Line:
    return Line(Key(name, colours[service(run, name)]), lambda sample: sample.replicas.get(name), "hv", width)


def _memory(run: Run, name: str, colours: Mapping[str, str]) -> Line:
    def held_mib(sample: RunSample) -> float | None:
        return sample.memory_bytes[name] / MIB if name in sample.memory_bytes else None

    return Line(Key(name, colours[service(run, name)]), held_mib)


def _trace(run: Run, line: Line, row: int) -> dict[str, Any]:
    values = [line.of(sample) for sample in run.timeline]
    return {
        "type": "scatter",
        "mode": "lines",
        "name": text(line.key.label),
        "hovertemplate": f"{text(line.key.label)} %{{y:,.6~g}}<extra></extra>",
        "x": [sample.time_s for sample in run.timeline],
        "y": [value or None for value in values] if row == 0 else values,  # no logarithm of 0
        "xaxis": "x",
        "yaxis": _name("y", row),
        "line": {"color": line.key.colour, "dash": line.key.line, "shape": line.shape, "width": line.width},
    }


def _name(axis_name: str, row: int) -> str:
    """Plotly's name of a row's axis: y, y2, y3."""
    return axis_name if row == 0 else f"{axis_name}{row + 1}"


def _axis(run: Run, panel: TimePanel, row: int, rows: int) -> dict[str, Any]:
    """A row's axis in its share of the height, counted from the top."""
    drawn_px = ROW_PX * rows + GAP_PX * (rows - 1)
    top = 1 - row * (ROW_PX + GAP_PX) / drawn_px
    domain = [max(0.0, top - ROW_PX / drawn_px), top]
    values = [value for line in panel.lines for sample in run.timeline if (value := line.of(sample)) is not None]
    if row == 0:
        return log_axis(panel.title, [*values, run.sla_ms], domain=domain)
    whole = {"dtick": 1} if panel.title in COUNTS and max(values, default=0) <= 5 else {"nticks": 5}
    return axis(panel.title, domain=domain, rangemode="tozero", **whole)
