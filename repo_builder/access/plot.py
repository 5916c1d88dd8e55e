"""A picture of where the accesses fall: the share of the accesses against the share of the rows, hottest first."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MultipleLocator, NullLocator
from numpy.typing import NDArray

from repo_builder.access.hotness import Hotness
from repo_builder.access.powerlaw import hottest_rows
from repo_builder.errors import AccessError
from repo_builder.spec import Spec, Table

_POINTS = 400  # of a curve, evenly spread over the logarithm of the rows
_NAMED_CURVES = 12  # more than these are drawn in grey under one name
_NAMED_TABLES = 3  # names, or runs of names, that a curve's legend spells out
_NAME_CHARS = 24  # of a table's name; longer ones lose their middle
_COLOURS = (*mpl.color_sequences["tab10"][:7], *mpl.color_sequences["tab10"][8:], "#1b3a6b", "#7a1f3d", "#0f5c4a")
_GREY, _INK = "#b5b5b5", "#444444"


@dataclass(frozen=True, slots=True)
class _Curve:
    """One line of the picture and the tables that it stands for; shares are in percent."""

    names: tuple[str, ...]
    rows_share: NDArray[np.float64]
    access_share: NDArray[np.float64]
    hottest: tuple[float, float]  # the point of the hottest 10% of the rows, rounded up to whole rows


def plot_hotness(spec: Spec, hotness: Hotness, path: Path) -> None:
    """Draw the CDF of every table of the spec into the PNG `path`, equal ones as one line.

    Holds one table's CDF at a time beyond what `hotness` holds. The file appears whole or not at all: AccessError
    where it cannot be written.
    """
    figure = Figure(figsize=(9.5, 5), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)  # draws without a display and without pyplot's global state
    axes = figure.add_subplot()
    curves = _curves(spec, hotness)
    _draw(axes, curves)
    _dress(axes, spec.name)
    _legend(figure, axes, last_first=len(curves) > _NAMED_CURVES)
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    _write(path, picture.getvalue())


def _curves(spec: Spec, hotness: Hotness) -> list[_Curve]:
    """The distinct curves, the most skewed first; tables whose curves agree to 1e-7 percent share one."""
    distinct: dict[tuple[bytes, bytes], _Curve] = {}
    for table in spec.tables:
        curve = _curve(table, hotness.cdf(table))
        key = (curve.rows_share.tobytes(), curve.access_share.round(7).tobytes())
        same = distinct.get(key, curve)
        distinct[key] = same if same is curve else replace(same, names=same.names + curve.names)
    return sorted(distinct.values(), key=lambda curve: -curve.hottest[1])


def _curve(table: Table, cdf: NDArray[np.float64]) -> _Curve:
    rows, hot = table.rows, hottest_rows(table.rows)
    places = np.unique(np.geomspace(1, rows, _POINTS).round().astype(np.int64))
    return _Curve((table.name,), 100 * places / rows, 100 * cdf[places], (100 * hot / rows, 100 * float(cdf[hot])))


def _draw(axes: Axes, curves: Sequence[_Curve]) -> None:
    named, others = curves[:_NAMED_CURVES], curves[_NAMED_CURVES:]
    for i, curve in enumerate(others):
        count = sum(len(other.names) for other in others)
        label = (f"{count} other tables" if count > 1 else "1 other table") if i == 0 else None
        axes.plot(curve.rows_share, curve.access_share, color=_GREY, linewidth=1, label=label)
    for curve, colour in zip(named, _COLOURS, strict=False):
        label = f"{curve.hottest[1]:.1f}%  {table_label(curve.names)}"
        axes.plot(curve.rows_share, curve.access_share, color=colour, linewidth=1.8, label=label)
        axes.plot(*curve.hottest, "o", color=colour, markersize=5)
    axes.axvline(10, color=_INK, linewidth=0.9, linestyle=(0, (4, 3)))


def _dress(axes: Axes, title: str) -> None:
    axes.set_xscale("log")
    axes.set_xlim(right=100)
    axes.set_ylim(0, 102)
    axes.set_xlabel("Hottest rows, share of the table")
    axes.set_ylabel("Share of the accesses")
    axes.set_title(f"{title}: accesses by hotness", loc="left", fontsize=12, color=_INK)
    axes.xaxis.set_major_locator(LogLocator(numticks=12))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{share:.10f}".rstrip("0").rstrip(".") + "%"))
    axes.yaxis.set_major_locator(MultipleLocator(20))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{share:.0f}%"))
    axes.grid(color="#e4e4e4", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


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


def table_label(names: Sequence[str]) -> str:
    """Tables in few words: runs of a `count` as "C2_0 ... C2_8", and no more than a few of them."""
    runs = [[_short(name) for name, _ in run] for _, run in groupby(_numbered(names), key=lambda pair: pair[1])]
    spelled = [run[0] if len(run) == 1 else f"{run[0]} ... {run[-1]}" for run in runs[:_NAMED_TABLES]]
    rest = sum(len(run) for run in runs[_NAMED_TABLES:])
    return ", ".join(spelled) + (f" and {rest} more" if rest else "")


def _short(name: str) -> str:
    return name if len(name) <= _NAME_CHARS else f"{name[: _NAME_CHARS - 9]}…{name[-8:]}"


def _numbered(names: Sequence[str]) -> list[tuple[str, tuple[str, int]]]:
    """Each name with what it has in common with the rest of its run: its stem, and its number less its place."""
    pairs = []
    for place, name in enumerate(names):
        stem, _, number = name.rpartition("_")
        pairs.append((name, (stem, int(number) - place) if stem and number.isdecimal() else (name, place)))
    return pairs


def _write(path: Path, content: bytes) -> None:
    """Write beside `path` and move it there, so that no half of a file is ever seen under that name."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        try:
            part.write_bytes(content)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as exc:
        raise AccessError(f"{path}: expected a place to write the plot to, but: {exc.strerror}") from exc
