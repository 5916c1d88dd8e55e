"""Pictures of a plan: where the accesses fall, where each cut lies and what it takes, and how a sweep changes it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, MultipleLocator, NullLocator
from numpy.typing import NDArray

from repo_builder.access.hotness import AccessedTable, Hotness
from repo_builder.access.powerlaw import hottest_rows
from repo_builder.analysis.explain import Chain
from repo_builder.analysis.sweep import FIELDS, Setting, Sweep, SweepPoint
from repo_builder.analysis.utility import UtilityModel
from repo_builder.figures import INK, count_axis, dress, nested_width, new_figure, save_png
from repo_builder.partition.accesses import ModelAccesses
from repo_builder.partition.order import Floats
from repo_builder.partition.plan import Service
from repo_builder.spec import Spec
from repo_builder.words import count, table_label

_CURVE_POINTS = 400  # of a curve, evenly spread over the logarithm of the rows
_NAMED_CURVES = 12  # more than these are drawn in grey under one name
_COLOURS = (*mpl.color_sequences["tab10"][:7], *mpl.color_sequences["tab10"][8:], "#1b3a6b", "#7a1f3d", "#0f5c4a")
_GREY = "#b5b5b5"

MOST_CHAINS = 4
"""More hotness orders than these are not drawn; the title says how many are missing."""

_POINTS = 600
_ROOM = 3  # bars that a panel has room for at least
_PANELS = (4.4, 1.6, 1.6, 1.6)  # widths: the CDF, memory, utility, replicas
_HOT, _COLD = 0.92, 0.15  # positions in the colour map

_OURS, _MODEL_WISE = "#1f77b4", "#9a9a9a"


@dataclass(frozen=True, slots=True)
class _Curve:
    """One line of the picture and the tables that it stands for; shares are in percent."""

    names: tuple[str, ...]
    rows_share: NDArray[np.float64]
    access_share: NDArray[np.float64]
    hottest: tuple[float, float]  # the point of the hottest 10% of the rows, rounded up to whole rows


def plot_hotness(spec: Spec, hotness: Hotness, path: Path) -> None:
    """Draw the CDF of every table of the spec into the PNG `path`, equal ones as one line.

    Holds one table's CDF at a time beyond what `hotness` holds. The file appears whole or not at all: InputError
    where it cannot be written.
    """
    figure = new_figure(9.5, 5)
    axes = figure.add_subplot()
    curves = _curves(spec, hotness)
    _draw_curves(axes, curves)
    _dress_curves(axes, spec.name)
    _legend(figure, axes, last_first=len(curves) > _NAMED_CURVES)
    save_png(figure, path)


def _curves(spec: Spec, hotness: Hotness) -> list[_Curve]:
    """The distinct curves, the most skewed first; tables whose curves agree to 1e-7 percent share one."""
    distinct: dict[tuple[bytes, bytes], _Curve] = {}
    for table in spec.model.tables:
        curve = _curve(table, hotness.cdf(table))
        key = (curve.rows_share.tobytes(), curve.access_share.round(7).tobytes())
        same = distinct.get(key, curve)
        distinct[key] = same if same is curve else replace(same, names=same.names + curve.names)
    return sorted(distinct.values(), key=lambda curve: -curve.hottest[1])


def _curve(table: AccessedTable, cdf: NDArray[np.float64]) -> _Curve:
    rows, hot = table.rows, hottest_rows(table.rows)
    ranks = np.unique(np.geomspace(1, rows, _CURVE_POINTS).round().astype(np.int64))
    return _Curve((table.name,), 100 * ranks / rows, 100 * cdf[ranks], (100 * hot / rows, 100 * float(cdf[hot])))


def _draw_curves(axes: Axes, curves: Sequence[_Curve]) -> None:
    named, others = curves[:_NAMED_CURVES], curves[_NAMED_CURVES:]
    for i, curve in enumerate(others):
        label = count(sum(len(other.names) for other in others), "other table") if i == 0 else None
        axes.plot(curve.rows_share, curve.access_share, color=_GREY, linewidth=1, label=label)
    for curve, colour in zip(named, _COLOURS, strict=False):
        label = f"{curve.hottest[1]:.1f}%  {table_label(curve.names)}"
        axes.plot(curve.rows_share, curve.access_share, color=colour, linewidth=1.8, label=label)
        axes.plot(*curve.hottest, "o", color=colour, markersize=5)
    axes.axvline(10, color=INK, linewidth=0.9, linestyle=(0, (4, 3)))


def _dress_curves(axes: Axes, title: str) -> None:
    dress(axes, f"{title}: accesses by hotness", "Hottest rows, share of the table", "Share of the accesses")
    axes.set_xscale("log")
    axes.set_xlim(right=100)
    axes.set_ylim(0, 102)
    axes.xaxis.set_major_locator(LogLocator(numticks=12))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{share:.10f}".rstrip("0").rstrip(".") + "%"))
    axes.yaxis.set_major_locator(MultipleLocator(20))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{share:.0f}%"))


def _legend(figure: Figure, axes: Axes, last_first: bool) -> None:
    """The legend beside the picture, in the order of the curves at the 10% mark; the grey ones, drawn first, last."""
    handles, labels = axes.get_legend_handles_labels()
    if last_first:
        handles, labels = [*handles[1:], handles[0]], [*labels[1:], labels[0]]
    figure.legend(
        handles,
        labels,
        title="Taken by the hottest 10%",
        loc="outside right upper",
        alignment="left",
        frameon=False,
        fontsize=9,
        title_fontsize=9,
    )


def plot_explanation(title: str, accesses: ModelAccesses, chains: Sequence[Chain], path: Path) -> None:
    """Draw the chains of a plan of these accesses into the PNG `path`, a row each, whole or not at all.

    Raises InputError where it cannot be written.
    """
    drawn = chains[:MOST_CHAINS]
    figure = new_figure(15, 1 + sum(3.8 if chain.cuts else 2.6 for chain in drawn))
    rest = len(chains) - len(drawn)
    more = f"; {count(rest, 'further kind')} of tables {'is' if rest == 1 else 'are'} not drawn" if rest else ""
    figure.suptitle(title + more, fontsize=13, color=INK)
    grid = figure.subplots(len(drawn), len(_PANELS), squeeze=False, width_ratios=_PANELS)
    utility = UtilityModel(accesses.tables)
    for row, chain in zip(grid, drawn, strict=True):
        colours = _colours(len(chain.services))
        _cdf(row[0], chain, chain.order.gathers, colours)
        _bars(row[1], chain, "Memory, all replicas, GiB", _gib, "{:,.3g}", colours)
        _bars(row[2], chain, "Rows in use, %", lambda each: 100 * utility.of_replica(each), "{:.3g}", colours)
        _bars(row[3], chain, "Replicas", lambda each: each.deployed, "{:,.0f}", colours)
        row[2].set_xticks([0, 50, 100])
        count_axis(row[3].xaxis)
    save_png(figure, path)


def _gib(service: Service) -> float:
    return service.deployed * service.memory_bytes / 1024**3


def _colours(count: int) -> list[tuple[float, float, float, float]]:
    """From hot to cold."""
    return [tuple(colour) for colour in mpl.colormaps["plasma"](np.linspace(_COLD, _HOT, count)[::-1])]


def _cdf(axes: Axes, chain: Chain, prefix: Floats, colours: Sequence[tuple[float, float, float, float]]) -> None:
    """The share of the gathers against the rows, with each shard's part of it in its colour."""
    rows = len(prefix) - 1
    title = table_label(chain.tables) if chain.cuts else f"{table_label(chain.tables)}: no cut pays"
    dress(axes, title, "Rows, hottest first", "Share of the look-ups")
    ends = [*(cut.position for cut in chain.cuts), rows]
    begin = 0
    for service, end, colour in zip(chain.services, ends, colours, strict=True):
        positions = np.unique(np.geomspace(max(begin, 1), end, _POINTS).round().astype(np.int64))
        share = 100 * prefix[positions] / prefix[-1]
        axes.fill_between(positions, share, color=colour, alpha=0.35, linewidth=0)
        axes.plot(positions, share, color=colour, linewidth=2)
        middle = np.sqrt(max(begin, 1) * end)
        if 1 < len(chain.services) <= 8:
            axes.annotate(service.name, (middle, 3), ha="center", va="bottom", rotation=90, fontsize=8, color=INK)
        begin = end
    if not chain.cuts:
        why = "no cut saves what a service must" if chain.weighed.merged else "any cut would take more memory"
        told = f"one service, {chain.services[0].name}, holds all rows:\n{why}"
        axes.text(0.97, 0.06, told, transform=axes.transAxes, ha="right", va="bottom", fontsize=10, color=INK)
    for cut in chain.cuts:
        axes.axvline(cut.position, color=INK, linewidth=0.9, linestyle=(0, (4, 3)))
        axes.annotate(
            f"{cut.position:,}\n{cut.accesses:.1%}",
            (cut.position, 100 * cut.accesses),
            (-5, 4),
            textcoords="offset points",
            ha="right",
            va="bottom",
            fontsize=8,
            color=INK,
            bbox={"facecolor": "white", "alpha": 0.75, "linewidth": 0, "pad": 1},
        )
    axes.set_xscale("log")
    axes.set_xlim(1, rows)
    axes.set_ylim(0, 108)
    axes.xaxis.set_major_locator(LogLocator(numticks=12))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda position, _: f"{position:,.0f}"))
    axes.yaxis.set_major_locator(MultipleLocator(20))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{share:.0f}%"))


def _bars(
    axes: Axes,
    chain: Chain,
    title: str,
    figure_of: Callable[[Service], float],
    form: str,
    colours: Sequence[tuple[float, float, float, float]],
) -> None:
    """A bar per shard, the hottest at the top, its figure behind it."""
    dress(axes, title, "", "")
    heights = [figure_of(service) for service in chain.services]
    positions = np.arange(len(heights))
    bars = axes.barh(positions, heights, color=colours, height=0.72)
    axes.bar_label(bars, [form.format(height) for height in heights], padding=3, fontsize=8, color=INK)
    axes.set_yticks(positions, [service.name for service in chain.services], fontsize=8)
    spare = max(0, _ROOM - len(heights)) / 2
    axes.set_ylim(len(heights) - 0.5 + spare, -0.5 - spare)  # the hottest at the top; few bars grow no thicker
    axes.set_xlim(0, 1.28 * max(heights))
    axes.grid(visible=False, axis="y")
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.tick_params(axis="x", labelsize=8)


def plot_sweep(sweep: Sweep, setting: Setting, points: Sequence[SweepPoint], path: Path) -> None:
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
    _sweep_line(memory, sweep, points, "Memory gain over model-wise", lambda point: point.gain)
    memory.axhline(1, color=INK, linewidth=1, label="as much as model-wise; below: more", zorder=1)
    values = [point.value for point in points]
    whole = [point.model_wise_replicas for point in points]
    replicas.plot(
        values, whole, "s-", color=_MODEL_WISE, markersize=7, linewidth=nested_width(0, 2), label="model-wise"
    )
    _sweep_line(replicas, sweep, points, "Replicas of all services", lambda point: point.replicas, "ElasticRec")
    _sweep_line(services, sweep, points, "Services", lambda point: point.services)
    for axes in (memory, replicas, services):
        axes.set_ylim(bottom=0, top=1.25 * axes.get_ylim()[1])
    memory.yaxis.set_major_formatter(FuncFormatter(lambda gain, _: f"{gain:g}x"))
    count_axis(replicas.yaxis)
    count_axis(services.yaxis)
    for axes in (memory, replicas):
        axes.legend(frameon=False, loc="upper left", fontsize=9)
    save_png(figure, path)


def _sweep_line(
    axes: Axes,
    sweep: Sweep,
    points: Sequence[SweepPoint],
    title: str,
    height: Callable[[SweepPoint], float],
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
