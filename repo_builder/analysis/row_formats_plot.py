"""A picture of row formats: what fewer bytes do to scores, and to a fleet's memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from repo_builder.analysis.row_formats import FormatComparison, FormatScores
from repo_builder.figures import INK, LINE_WIDTH, dress

_COLOURS = ("#1f77b4", "#f28e2b", "#59a14f", "#b07aa1", "#9a9a9a", "#e15759")
_MARKERS: Mapping[str, str] = {"fp32": "s", "fp16": "^", "int8": "D"}
_SHARES = (0.1, 0.14, 0.2, 0.3, 0.4, 0.5, 0.7, 1)


def plot_row_formats(found: Sequence[FormatComparison], axes: Sequence[Axes]) -> None:
    """Draw into three axes: the largest and the mean score error by bytes of the tables, and the fleets' memory.

    A colour for each spec; the first two are empty of specs whose scores were not looked at.
    """
    largest, mean, memory = axes
    _errors(largest, found, "Largest score error", lambda scores: scores.max_error)
    _errors(mean, found, "Mean score error", lambda scores: scores.mean_error)
    _memory(memory, found)


def _errors(axes: Axes, found: Sequence[FormatComparison], title: str, error: Callable[[FormatScores], float]) -> None:
    """A point for each rule, its marker by the hot rows; those that no other beats in bytes and error are joined."""
    dress(axes, f"{title} by row format", "Bytes of the tables, share of FP32's", "")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.xaxis.set_major_locator(FixedLocator(_SHARES))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{share:.0%}"))
    axes.margins(0.12)
    drawn = False
    for i, each in enumerate(found):
        whole, colour = each.results[0].tables_bytes, _COLOURS[i % len(_COLOURS)]
        points = [
            (result.tables_bytes / whole, error(result.scores), result.rule)
            for result in each.results
            if result.scores and error(result.scores) > 0
        ]
        axes.plot(*_front([(x, y) for x, y, _ in points]), color=colour, linewidth=LINE_WIDTH, alpha=0.6)
        for x, y, rule in points:
            alone = rule.hot == rule.cold
            axes.plot(x, y, "o" if alone else _MARKERS[rule.hot], color=colour, markersize=6)
            if alone and not drawn:
                axes.annotate(rule.hot, (x, y), (6, 4), textcoords="offset points", fontsize=8, color=INK)
        drawn = drawn or bool(points)
    if not drawn:
        axes.text(0.5, 0.5, "no trained weights to see it on", ha="center", va="center", color=INK, fontsize=9,
                  transform=axes.transAxes)  # fmt: skip
        return
    for text, marker in (("hot and cold alike", "o"), *((f"hot {hot}", each) for hot, each in _MARKERS.items())):
        axes.plot([], [], marker, color=INK, markersize=5, label=text)
    axes.legend(frameon=False, fontsize=7, loc="lower left")


def _front(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    """The points of which none has fewer bytes and a smaller error, by bytes."""
    xs, ys = list[float](), list[float]()
    for x, y in sorted(points):
        if not ys or y < ys[-1]:
            xs.append(x)
            ys.append(y)
    return xs, ys


def _memory(axes: Axes, found: Sequence[FormatComparison]) -> None:
    """How many times less memory each rule's fleet takes than that of FP32 rows: a group of bars for each rule."""
    dress(axes, "Fleet memory: gain over FP32 rows", "", "")
    width = 0.8 / len(found)
    for i, each in enumerate(found):
        whole = each.results[0].memory_bytes
        positions = np.arange(len(each.results)) + (i - (len(found) - 1) / 2) * width
        gains = [whole / result.memory_bytes for result in each.results]
        axes.bar(positions, gains, width * 0.92, color=_COLOURS[i % len(_COLOURS)], label=each.spec)
    rules = [result.rule for result in found[0].results]
    names = [rule.hot if rule.hot == rule.cold else f"{rule.hot}\n+ {rule.cold}" for rule in rules]
    axes.set_xticks(range(len(names)), names, fontsize=7)
    axes.tick_params(axis="x", length=0)
    axes.grid(visible=False, axis="x")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda gain, _: f"{gain:g}x"))
    if len(found) > 1:
        axes.margins(y=0.2)
        axes.legend(frameon=False, fontsize=7, loc="upper left", ncols=2)
