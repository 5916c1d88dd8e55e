"""A picture of where the accesses fall: the share of the accesses against the share of the rows, hottest first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MultipleLocator, NullLocator
from numpy.typing import NDArray

from repo_builder.access.hotness import AccessedTable, Hotness
from repo_builder.access.labels import table_label
from repo_builder.access.powerlaw import hottest_rows
from repo_builder.figures import INK, dress, new_figure, save_png
from repo_builder.spec import Spec
from repo_builder.words import count

_POINTS = 400  # of a curve, evenly spread over the logarithm of the rows
_NAMED_CURVES = 12  # more than these are drawn in grey under one name
_COLOURS = (*mpl.color_sequences["tab10"][:7], *mpl.color_sequences["tab10"][8:], "#1b3a6b", "#7a1f3d", "#0f5c4a")
_GREY = "#b5b5b5"


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
    _draw(axes, curves)
    _dress(axes, spec.name)
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
    places = np.unique(np.geomspace(1, rows, _POINTS).round().astype(np.int64))
    return _Curve((table.name,), 100 * places / rows, 100 * cdf[places], (100 * hot / rows, 100 * float(cdf[hot])))


def _draw(axes: Axes, curves: Sequence[_Curve]) -> None:
    named, others = curves[:_NAMED_CURVES], curves[_NAMED_CURVES:]
    for i, curve in enumerate(others):
        label = count(sum(len(other.names) for other in others), "other table") if i == 0 else None
        axes.plot(curve.rows_share, curve.access_share, color=_GREY, linewidth=1, label=label)
    for curve, colour in zip(named, _COLOURS, strict=False):
        label = f"{curve.hottest[1]:.1f}%  {table_label(curve.names)}"
        axes.plot(curve.rows_share, curve.access_share, color=colour, linewidth=1.8, label=label)
        axes.plot(*curve.hottest, "o", color=colour, markersize=5)
    axes.axvline(10, color=INK, linewidth=0.9, linestyle=(0, (4, 3)))


def _dress(axes: Axes, title: str) -> None:
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
