"""A picture of the fit: seconds a query, measured and by the fitted models, over what a query asks for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import mean

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from repo_builder.figures import INK, dress, new_figure, save_png
from repo_builder.profiling.fit import FitQuality, Fits, dense_points, fitted_points
from repo_builder.profiling.points import EmbeddingPoint, Measured
from repo_builder.words import count

_COLOURS = ("#1f77b4", "#ff7f0e", "#2ca02c", "#9467bd", "#8c564b")
_ENDS = (("hot", "v", "#d62728"), ("cold", "^", "#17becf"))


def plot_fit(measured: Measured, fits: Fits, title: str, path: Path) -> None:
    """Draw the embedding and the dense service's times into the PNG `path`; raises InputError where it cannot be
    written.
    """
    figure = new_figure(12, 5)
    embedding, dense = figure.subplots(1, 2)
    dress(
        embedding, f"Embedding service\n{_told(fits.calls.quality)}", "Rows gathered by a query", "Milliseconds a query"
    )
    dress(dense, f"Dense service\n{_told(fits.dense_quality)}", "Floating-point operations of a query", "")
    _draw_embedding(embedding, measured, fits)
    _draw_dense(dense, measured, fits)
    for axes in (embedding, dense):
        axes.set_xscale("log")
        axes.set_yscale("log")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(
                FuncFormatter(lambda value, _: f"{value:,g}" if value < 1e6 else f"{value / 1e6:g} M")
            )
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.legend(frameon=False, fontsize=9)
    figure.suptitle(title, x=0.01, ha="left", fontsize=10, color=INK)
    save_png(figure, path)


def _told(quality: FitQuality) -> str:
    return f"points measured, lines fitted: {quality.relative_rms:.0%} RMS error, {quality.relative_max:.0%} at most"


def _in_flight(queries: int) -> str:
    return f"{count(queries, 'query')} in flight"


def _draw_embedding(axes: Axes, measured: Measured, fits: Fits) -> None:
    points = fitted_points(measured)
    for in_flight, colour in zip(sorted({point.in_flight for point in points}), _COLOURS, strict=False):
        own = [point for point in points if point.in_flight == in_flight]
        queries = mean(point.figures.queries for point in own)
        _draw(axes, own, f"{_in_flight(in_flight)}, {queries:.1f} in a call", "o", colour)
        gathers = np.geomspace(min(p.gathers for p in own), max(p.gathers for p in own), 100)
        axes.plot(gathers, [1000 * fits.calls.seconds(queries, g) / queries for g in gathers.tolist()], color=colour)
    for accesses, marker, colour in _ENDS:
        _draw(axes, [p for p in measured.embedding if p.accesses == accesses], f"{accesses} rows only", marker, colour)


def _draw(axes: Axes, points: Sequence[EmbeddingPoint], label: str, marker: str, colour: str) -> None:
    gathers, times_ms = [point.gathers for point in points], [1000 / point.figures.qps for point in points]
    axes.plot(gathers, times_ms, marker, color=colour, markersize=5, label=label)


def _draw_dense(axes: Axes, measured: Measured, fits: Fits) -> None:
    points = dense_points(measured)
    flops = [point.flops for point in points]
    label = _in_flight(points[0].in_flight)
    axes.plot(flops, [1000 / point.figures.qps for point in points], "o", color=_COLOURS[0], markersize=5, label=label)
    along = np.geomspace(min(flops), max(flops), 100)
    axes.plot(along, [1000 * fits.dense.seconds(each) for each in along.tolist()], color=_COLOURS[0])
