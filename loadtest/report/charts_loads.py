"""The charts of a run's loads: latency against throughput, a chart a percentile and one colour a run; and by service
where a query's time goes, and the memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from loadtest.report.charts import (
    MIB,
    Chart,
    Key,
    Legend,
    axis,
    colour,
    layout,
    log_axis,
    service,
    sla_key,
    sla_line,
    text,
)
from loadtest.report.summary import breakdown_point
from loadtest.run import LoadPoint, Run

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


def load_text(point: LoadPoint) -> str:
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


QUEUE, COMPUTE = Key("queue: pale", "--soft", "box"), Key("compute: full", "--soft", "box")

BAR_PX = 34
LABEL = 24  # characters of a service's name beside its bar


def breakdown_charts(runs: Sequence[Run], colours: Mapping[str, str]) -> list[Chart]:
    """A request's mean ms in each service's queue and compute, and on the network: a chart a run, on equal axes."""
    picked = [(i, run, point) for i, run in enumerate(runs) if (point := breakdown_point(run)) is not None]
    most_ms = max((_longest_ms(point) for _, _, point in picked), default=0.0)
    return [_breakdown(i, run, point, most_ms, colours) for i, run, point in picked]


def _longest_ms(point: LoadPoint) -> float:
    services = [times.queue_ms + times.compute_ms for times in point.services.values()]
    return max([*services, point.network_ms or 0.0])


def _breakdown(index: int, run: Run, point: LoadPoint, most_ms: float, colours: Mapping[str, str]) -> Chart:
    services = list(point.services)
    shades = [colours[service(run, name)] for name in services]
    queue_ms = [times.queue_ms for times in point.services.values()]
    compute_ms = [times.compute_ms for times in point.services.values()]
    data = [
        _bars("queue", shades, services, queue_ms, "ms", opacity=0.4),
        _bars("compute", shades, services, compute_ms, "ms"),
    ]
    rows = list(services)
    if point.network_ms is not None:
        data.append(_bars("network", ["--soft"], ["network"], [point.network_ms], "ms"))
        rows = [*rows, "network"]
    title = f"{run.title} at {point.throughput_qps:,.0f} queries/s"
    time_axis = axis("ms a request, mean", range=[0, most_ms * 1.05 or 1])
    return _stacked(f"services-{index}", title, (COMPUTE, QUEUE), data, rows, time_axis)


def memory_charts(runs: Sequence[Run], colours: Mapping[str, str]) -> list[Chart]:
    """Memory by service, a chart for each run that has measured it, on equal axes."""
    picked = [(i, run) for i, run in enumerate(runs) if run.memory_bytes]
    most_mib = max((max(run.memory_bytes.values()) for _, run in picked), default=0) / MIB
    return [_memory(i, run, most_mib, colours) for i, run in picked]


def _memory(index: int, run: Run, most_mib: float, colours: Mapping[str, str]) -> Chart:
    shades = [colours[service(run, name)] for name in run.memory_bytes]
    rows = [_counted(name, run.replicas.get(name)) for name in run.memory_bytes]
    data = [_bars("memory", shades, rows, [held_bytes / MIB for held_bytes in run.memory_bytes.values()], "MiB")]
    title = f"{run.title}: {sum(run.memory_bytes.values()) / MIB:,.1f} MiB in all"
    size_axis = axis("MiB", range=[0, most_mib * 1.05 or 1], tickformat=",")
    return _stacked(f"memory-{index}", title, (), data, rows, size_axis)


def _counted(name: str, replicas: int | None) -> str:
    return name if replicas is None else f"{name} x {replicas}"


def _bars(
    name: str, shades: list[str], rows: list[str], values: list[float], unit: str, opacity: float = 1.0
) -> dict[str, Any]:
    return {
        "type": "bar",
        "orientation": "h",
        "name": name,
        "y": rows,
        "x": values,
        "marker": {"color": shades, "opacity": opacity, "line": {"color": "--card", "width": 1}},
        "hovertemplate": f"{name} %{{x:,.2f}} {unit}<extra></extra>",
    }


def _stacked(
    name: str, title: str, keys: tuple[Key, ...], data: list[dict[str, Any]], rows: list[str], across: dict[str, Any]
) -> Chart:
    height_px = 70 + BAR_PX * len(rows)
    labels = [text(row if len(row) <= LABEL else f"{row[: LABEL - 1]}…") for row in rows]
    down = axis(
        "",
        showgrid=False,
        ticksuffix=" ",
        type="category",
        categoryarray=rows,
        autorange="reversed",
        tickvals=rows,
        ticktext=labels,
    )
    legends = (Legend("", keys),) if keys else ()
    shown = layout(height_px, barmode="stack", bargap=0.35, xaxis=across, yaxis=down)
    return Chart(name, title, legends, {"data": data, "layout": shown}, height_px, title)
