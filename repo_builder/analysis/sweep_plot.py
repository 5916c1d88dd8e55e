"""A picture of a sweep: memory against model-wise, replicas, services."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from repo_builder.analysis.sweep import FIELDS, Point, Setting, Sweep
from repo_builder.figures import INK, count_axis, dress, nested_width, new_figure, save_png

_OURS, _MODEL_WISE = "#1f77b4", "#9a9a9a"


def plot_sweep(sweep: Sweep, setting: Setting, points: Sequence[Point], path: Path) -> None:
    """Draw memory against model-wise, replicas and services into the PNG `path`, whole or not at all.

    Raises InputError where it cannot be written.
    """
    figure = new_figure(13, 4.4)
    figure.suptitle(
        f"{setting.spec.name}: a {setting.grouping} plan by the profile {setting.profile.name}, "
        f"over the {FIELDS[sweep.field].words}",
        fontsize=12,
        color=INK,
    )
    memory, replicas, services = figure.subplots(1, 3)
    _line(memory, sweep, points, "Memory gain over model-wise", lambda point: point.gain)
    memory.axhline(1, color=INK, linewidth=1, label="as much as model-wise; below: more", zorder=1)
    values = [point.value for point in points]
    whole = [point.model_wise_replicas for point in points]
    replicas.plot(
        values, whole, "s-", color=_MODEL_WISE, markersize=7, linewidth=nested_width(0, 2), label="model-wise"
    )
    _line(replicas, sweep, points, "Replicas of all services", lambda point: point.replicas, "ElasticRec")
    _line(services, sweep, points, "Services", lambda point: point.services)
    for axes in (memory, replicas, services):
        axes.set_ylim(bottom=0, top=1.25 * axes.get_ylim()[1])
    memory.yaxis.set_major_formatter(FuncFormatter(lambda gain, _: f"{gain:g}x"))
    count_axis(replicas.yaxis)
    count_axis(services.yaxis)
    for axes in (memory, replicas):
        axes.legend(frameon=False, loc="upper left", fontsize=9)
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
    dress(axes, title, f"{field.words[0].upper()}{field.words[1:]}, {field.unit}", "")
    axes.xaxis.label.set_fontsize(9)
    values = [point.value for point in points]
    axes.plot(
        values,
        [height(point) for point in points],
        "o-",
        color=_OURS,
        markersize=4,
        linewidth=nested_width(1, 2),
        label=label,
    )
    if field.spread == "ratio":
        axes.set_xscale("log")
    if field.spread == "whole":
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
