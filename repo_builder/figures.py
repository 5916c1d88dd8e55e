"""Figures drawn without a display and written whole or not at all."""

from __future__ import annotations

import io
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from repo_builder.writing import write_whole

INK, GRID = "#444444", "#e4e4e4"
LINE_WIDTH = 1.6


def new_figure(width_inches: float, height_inches: float) -> Figure:
    """An empty figure that needs no display and none of pyplot's global state."""
    figure = Figure(figsize=(width_inches, height_inches), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def dress(axes: Axes, title: str, x: str, y: str) -> None:
    """The looks that all our plots share: a title at the left, light grid lines, no box."""
    axes.set_title(title, loc="left", fontsize=12, color=INK)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def nested_width(index: int, lines: int) -> float:
    """The width of the index-th of several lines, drawn in this order: where they coincide, each shows."""
    return LINE_WIDTH + 1.6 * (lines - 1 - index)


def count_axis(axis: Axis) -> None:
    """Ticks at whole numbers only: of replicas there are no halves."""
    axis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
    axis.set_major_formatter(FuncFormatter(lambda number, _: f"{number:,.0f}"))


def save_png(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, as `write_whole` does; raises InputError where it cannot be written."""
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    write_whole(path, picture.getvalue())
