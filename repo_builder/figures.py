"""Figures drawn without a display and written whole or not at all."""

from __future__ import annotations

import io
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from repo_builder.whole_file import write_whole

INK, GRID = "#444444", "#e4e4e4"


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


def save_png(figure: Figure, path: Path) -> None:
    """Write beside `path` and move it there, so that no half of a file is ever seen under that name.

    Raises InputError where it cannot be written.
    """
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    write_whole(path, picture.getvalue())
