"""A picture of a sweep: memory against model-wise, replicas, services."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from repo_builder.analysis.sweep import FIELDS, Point, Setting, Sweep
from repo_builder.figures import INK, dress, new_figure, save_png

_OURS, _MODEL_WISE = "#1f77b4", "#9a9a9a"


def plot_sweep(sweep: Sweep, setting: Setting, points: Sequence[Point], path: Path) -> None:
    """Draw memory against model-wise, replicas and services into the PNG `path`, whole or not at all.

    Raises InputError where it cannot be written.
    """
    figure = new_figure(13, 4.2)
    figure.suptitle(
        f"{setting.spec.name}, {setting.grouping}, profile {setting.profile.name}: what if {sweep.field} changes",
        fontsize=12,
        color=INK,
    )
    memory, replicas, services = figure.subplots(1, 3)
    _line(memory, sweep, points, "Memory: times less than model-wise", lambda point: point.gain)
    memory.axhline(1, color=INK, linewidth=1)
    _line(replicas, sweep, points, "Replicas of all services", lambda point: point.replicas, "ElasticRec")
    replicas.plot(
        [point.value for point in points],
        [point.model_wise_replicas for point in points],
        "o--",
        color=_MODEL_WISE,
        markersize=4,
        label="model-wise",
    )
    replicas.legend(frameon=False)
    _line(services, sweep, points, "Services", lambda point: point.services)
    services.yaxis.set_major_locator(MaxNLocator(integer=True))
    for axes in (memory, replicas, services):
        axes.set_ylim(bottom=0, top=1.05 * axes.get_ylim()[1])
    save_png(figure, path)


def _line(
    axes: Axes,
    sweep: Sweep,
    points: Sequence[Point],
    title: str,
    height: Callable[[Point], float],
    label: str | None = None,
) -> None:
    field = FIELDS[sweep.field]
    dress(axes, title, f"{sweep.field}, {field.unit}", "")
    axes.plot([p.value for p in points], [height(p) for p in points], "o-", color=_OURS, markersize=4, label=label)
    if field.spread == "ratio":
        axes.set_xscale("log")
    if field.spread == "whole":
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
