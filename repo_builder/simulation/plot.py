"""A picture of a simulation: traffic, replicas, memory and SLA misses over time, the fleets above each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from repo_builder.figures import INK, count_axis, dress, nested_width, new_figure, save_png
from repo_builder.scaling.hpa import SYNC_S
from repo_builder.simulation.report import Played

_COLOURS = ("#9a9a9a", "#1f77b4", "#d95f02")
Floats = NDArray[np.float64]


def plot_simulation(title: str, played: Sequence[Played], path: Path) -> None:
    """Draw it into the PNG `path`, with a fifth panel where there are prices.

    The file appears whole or not at all: InputError where it cannot be written.
    """
    panels: list[tuple[str, Callable[[Played], Floats]]] = [
        ("replicas", lambda each: each.timeline.replicas.sum(axis=1).astype(np.float64)),
        ("memory, GiB", lambda each: each.timeline.memory_bytes / 1024**3),
        ("queries past\nthe SLA, %", lambda each: 100 * each.missed_share),
    ]
    if all(each.price_per_hour is not None for each in played):
        panels.append(("price per hour", lambda each: np.asarray(each.price_per_hour)))
    figure = new_figure(9.5, 2.1 * (1 + len(panels)))
    axes = figure.subplots(1 + len(panels), sharex=True)
    unit, seconds = _time_unit(float(played[0].timeline.times_s[-1]))
    times = played[0].timeline.times_s / seconds
    axes[0].plot(times, played[0].timeline.arrived / SYNC_S, color=INK, linewidth=1.4, drawstyle="steps-post")
    _dress(axes[0], title, "queries/s")
    for axis, (label, values) in zip(axes[1:], panels, strict=True):
        for i, (each, colour) in enumerate(zip(played, _COLOURS, strict=False)):
            width = nested_width(i, len(played))
            axis.plot(times, values(each), color=colour, linewidth=width, drawstyle="steps-post", label=each.name)
        _dress(axis, "", label)
    count_axis(axes[1].yaxis)
    axes[1].legend(frameon=False, fontsize=9, loc="upper left")
    axes[-1].set_xlabel(unit)
    save_png(figure, path)


def _time_unit(last_s: float) -> tuple[str, float]:
    return ("hours", 3600.0) if last_s >= 2 * 3600 else ("minutes", 60.0)


def _dress(axes: Axes, title: str, label: str) -> None:
    dress(axes, title, "", label)
    top = max(1.0, axes.get_ylim()[1])
    axes.set_ylim(-0.04 * top, top)  # a line at 0 does not hide in the axis
    axes.margins(x=0)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
