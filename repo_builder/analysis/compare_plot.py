"""A picture of a comparison: gains over model-wise for each spec and, as the traffic grows, on average; row formats."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from repo_builder.analysis.compare import PAPER, ComparisonReport, average_gains
from repo_builder.analysis.fleets import GPU_CACHE, MODEL_WISE, PER_TABLE, TIERED
from repo_builder.analysis.row_formats_plot import plot_row_formats
from repo_builder.figures import INK, dress, nested_width, new_figure, save_png
from repo_builder.words import count

COLOURS = {GPU_CACHE: "#9a9a9a", PER_TABLE: "#f28e2b", TIERED: "#1f77b4"}
_PANELS = (
    ("memory", "Memory gain"),
    ("utility", "Share of a replica's rows in use: gain"),
    ("price", "Price gain"),
)
_SWEPT = {"price": "price in parts"}  # the sweep is not packed onto nodes
_SWEPT_TITLES = {"memory": "Memory gain", "utility": "Rows in use, gain", "price": "Price gain in parts"}
_MARKERS = "sov"
_TICKS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100)


def plot_comparison(report: ComparisonReport, path: Path) -> None:
    """Draw the report into the PNG `path`, whole or not at all; raises InputError where it cannot be written."""
    rows = 3 if report.row_formats else 2
    figure = new_figure(13, 3.8 * rows)
    figure.suptitle(
        f"ElasticRec against replicating the whole model, cluster {report.cluster.name}, "
        f"profile {report.profile.name}\n"
        f"gain: how many times better than model-wise at equal traffic; 1x is equal, below it is worse",
        fontsize=12,
        color=INK,
    )
    axes = figure.subplots(rows, len(_PANELS))
    for column, (metric, title) in enumerate(_PANELS):
        _bars(axes[0, column], report, metric, title)
        _lines(axes[1, column], report, metric)
    if report.row_formats:
        plot_row_formats(report.row_formats, axes[2])
    handles, labels = axes[1, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    save_png(figure, path)


def _bars(axes: Axes, report: ComparisonReport, metric: str, title: str) -> None:
    """A group of bars per spec; a strategy that the cluster cannot hold has none."""
    dress(axes, title, "", "")
    strategies = [strategy for strategy in report.strategies if strategy != MODEL_WISE]
    width = 0.8 / len(strategies)
    for i, strategy in enumerate(strategies):
        gains = [comparison.gains(strategy)[metric] for comparison in report.comparisons]
        positions = np.arange(len(gains)) + (i - (len(strategies) - 1) / 2) * width
        heights = [gain or np.nan for gain in gains]
        axes.bar(positions, np.array(heights) - 1, width * 0.92, bottom=1, color=COLOURS[strategy])
        for position, gain in zip(positions, gains, strict=True):
            _label(axes, position, gain)
    axes.set_xticks(range(len(report.comparisons)), [found.spec.replace("_", "\n", 1) for found in report.comparisons])
    axes.tick_params(axis="x", length=0)
    axes.grid(visible=False, axis="x")
    _log_gains(axes, report, metric)


def _label(axes: Axes, position: float, gain: float | None) -> None:
    """The figure at the end of its bar, which points down below 1x; where there is none, why."""
    if gain is None:
        axes.annotate("does not fit", (position, 1), (0, 3), textcoords="offset points", ha="center", va="bottom",
                      rotation=90, fontsize=7.5, color=INK)  # fmt: skip
        return
    side, offset = ("bottom", 2) if gain > 0.995 else ("top", -2)
    axes.annotate(
        f"{gain:.3g}x",
        (position, gain),
        (0, offset),
        textcoords="offset points",
        ha="center",
        va=side,
        fontsize=7.5,
        bbox={"facecolor": "white", "alpha": 0.8, "linewidth": 0, "pad": 0.5},
    )


def _lines(axes: Axes, report: ComparisonReport, metric: str) -> None:
    """The mean over the specs at every point of the sweep."""
    swept = _SWEPT.get(metric, metric)
    of = report.comparisons[0].spec if len(report.sweeps) == 1 else f"mean of {count(len(report.sweeps), 'spec')}"
    dress(axes, f"{_SWEPT_TITLES[metric]}: {of}", "Traffic, in model-wise replicas", "")
    replicas = [comparison.model_wise_replicas for comparison in report.sweeps[0]]
    drawn = [strategy for strategy in report.strategies if strategy != MODEL_WISE]
    for i, strategy in enumerate(drawn):
        gains = [average_gains(report.sweep_at(point), strategy)[swept] for point in range(len(replicas))]
        width = nested_width(i, len(drawn))
        axes.plot(
            replicas,
            [gain or np.nan for gain in gains],
            f"{_MARKERS[i]}-",
            color=COLOURS[strategy],
            linewidth=width,
            markersize=width + 3,
            label=strategy,
        )
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator([1, 3, 10, 30, 100]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda count, _: f"{count:.0f}"))
    _log_gains(axes, report, metric)


def _log_gains(axes: Axes, report: ComparisonReport, metric: str) -> None:
    """Times on a logarithmic axis with room above; 1x is model-wise, the dashed line the paper's average."""
    axes.set_yscale("log")
    axes.margins(y=0.16)
    axes.yaxis.set_major_locator(FixedLocator(_TICKS))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda gain, _: f"{gain:g}x"))
    axes.axhline(1, color=INK, linewidth=1.2, zorder=1)
    axes.axhline(PAPER[metric], color=INK, linewidth=0.9, linestyle=(0, (4, 3)), label="ElasticRec as published")
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, 0.85), max(high, 2.4))  # 1x never lies on the edge, and there are two ticks
