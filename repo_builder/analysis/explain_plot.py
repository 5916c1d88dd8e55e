"""A picture of a plan: the CDF of each hotness order with its cuts, and what each shard takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, MultipleLocator, NullLocator

from repo_builder.access.labels import table_label
from repo_builder.analysis.explain import Chain
from repo_builder.analysis.utility import UtilityModel
from repo_builder.figures import INK, count_axis, dress, new_figure, save_png
from repo_builder.partition.merge import Floats
from repo_builder.partition.plan import Service
from repo_builder.partition.workload import Workload
from repo_builder.words import count

MOST_CHAINS = 4
"""More hotness orders than these are not drawn; the title says how many are missing."""

_POINTS = 600
_ROOM = 3  # bars that a panel has room for at least
_PANELS = (4.4, 1.6, 1.6, 1.6)  # widths: the CDF, memory, utility, replicas
_HOT, _COLD = 0.92, 0.15  # places in the colour map


def plot_explanation(title: str, workload: Workload, chains: Sequence[Chain], path: Path) -> None:
    """Draw the chains of a plan of this workload into the PNG `path`, a row each, whole or not at all.

    Raises InputError where it cannot be written.
    """
    drawn = chains[:MOST_CHAINS]
    figure = new_figure(15, 1 + sum(3.8 if chain.cuts else 2.6 for chain in drawn))
    rest = len(chains) - len(drawn)
    more = f"; {count(rest, 'further kind')} of tables {'is' if rest == 1 else 'are'} not drawn" if rest else ""
    figure.suptitle(title + more, fontsize=13, color=INK)
    grid = figure.subplots(len(drawn), len(_PANELS), squeeze=False, width_ratios=_PANELS)
    utility = UtilityModel(workload.tables)
    for row, chain in zip(grid, drawn, strict=True):
        colours = _colours(len(chain.services))
        _cdf(row[0], chain, _prefix(workload, chain), colours)
        _bars(row[1], chain, "Memory, all replicas, GiB", _gib, "{:,.3g}", colours)
        _bars(row[2], chain, "Rows in use, %", lambda each: 100 * utility.of_replica(each), "{:.3g}", colours)
        _bars(row[3], chain, "Replicas", lambda each: each.deployed, "{:,.0f}", colours)
        row[2].set_xticks([0, 50, 100])
        count_axis(row[3].xaxis)
    save_png(figure, path)


def _prefix(workload: Workload, chain: Chain) -> Floats:
    """The gathers of the order that the chain cuts: of all its tables merged, or of the first one of those alike."""
    held = {shard.table for service in chain.services for shard in service.shards}
    return workload.order([table for table in workload.tables if table.table in held]).gathers


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
    ends = [*(cut.place for cut in chain.cuts), rows]
    begin = 0
    for service, end, colour in zip(chain.services, ends, colours, strict=True):
        places = np.unique(np.geomspace(max(begin, 1), end, _POINTS).round().astype(np.int64))
        share = 100 * prefix[places] / prefix[-1]
        axes.fill_between(places, share, color=colour, alpha=0.35, linewidth=0)
        axes.plot(places, share, color=colour, linewidth=2)
        middle = np.sqrt(max(begin, 1) * end)
        if 1 < len(chain.services) <= 8:
            axes.annotate(service.name, (middle, 3), ha="center", va="bottom", rotation=90, fontsize=8, color=INK)
        begin = end
    if not chain.cuts:
        told = f"one service, {chain.services[0].name}, holds all rows:\nany cut would take more memory"
        axes.text(0.97, 0.06, told, transform=axes.transAxes, ha="right", va="bottom", fontsize=10, color=INK)
    for cut in chain.cuts:
        axes.axvline(cut.place, color=INK, linewidth=0.9, linestyle=(0, (4, 3)))
        axes.annotate(
            f"{cut.place:,}\n{cut.accesses:.1%}",
            (cut.place, 100 * cut.accesses),
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
    axes.xaxis.set_major_formatter(FuncFormatter(lambda place, _: f"{place:,.0f}"))
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
    """A bar a shard, the hottest at the top, its figure behind it."""
    dress(axes, title, "", "")
    heights = [figure_of(service) for service in chain.services]
    places = np.arange(len(heights))
    bars = axes.barh(places, heights, color=colours, height=0.72)
    axes.bar_label(bars, [form.format(height) for height in heights], padding=3, fontsize=8, color=INK)
    axes.set_yticks(places, [service.name for service in chain.services], fontsize=8)
    spare = max(0, _ROOM - len(heights)) / 2
    axes.set_ylim(len(heights) - 0.5 + spare, -0.5 - spare)  # the hottest at the top; few bars grow no thicker
    axes.set_xlim(0, 1.28 * max(heights))
    axes.grid(visible=False, axis="y")
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.tick_params(axis="x", labelsize=8)
