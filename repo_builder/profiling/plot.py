"""A picture of the fit: seconds a query, measured and by the fitted models, over what a query asks for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import mean

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from repo_builder.figures import INK, dress, new_figure, save_png
from repo_builder.profiling.fit import FitQuality, Fits, dense_points, fit_row, fitted_points
from repo_builder.profiling.points import EmbeddingPoint, Measured
from repo_builder.words import count

_COLOURS = ("#1f77b4", "#ff7f0e", "#2ca02c", "#9467bd", "#8c564b")
_MEMORY = "#17becf"
_CACHES = ("#8c1a1b", "#d62728", "#ff9896", "#f7d4d4")


def plot_fit(measured: Measured, fits: Fits, title: str, path: Path) -> None:
    """Draw the embedding service's times, its rows' and the dense service's into the PNG `path`; raises InputError
    where it cannot be written.
    """
    figure = new_figure(17, 5)
    embedding, rows, dense = figure.subplots(1, 3)
    dress(
        embedding, f"Embedding service\n{_told(fits.calls.quality)}", "Rows gathered by a query", "Milliseconds a query"
    )
    dress(dense, f"Dense service\n{_told(fits.dense_quality)}", "Floating-point operations of a query", "")
    dress(
        rows, f"A row by its bytes, the kernel alone\n{_told(fits.rows_quality)}", "Bytes of a row", "Nanoseconds a row"
    )
    _draw_embedding(embedding, measured, fits)
    _draw_rows(rows, measured)
    _draw_dense(dense, measured, fits)
    for axes in (embedding, rows, dense):
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
    for joined, colour in zip(sorted({point.load.joined for point in points}), _COLOURS, strict=False):
        own = [point for point in points if point.load.joined == joined]
        queries = mean(point.figures.queries for point in own)
        _draw(axes, own, f"{queries:.1f} in a call", "o", colour)
        gathers = np.geomspace(min(p.load.gathers for p in own), max(p.load.gathers for p in own), 100)
        axes.plot(gathers, [1000 * fits.calls.seconds(queries, g) / queries for g in gathers.tolist()], color=colour)
    for accesses, colour in (("cached", _CACHES[1]), ("cold", _MEMORY)):
        own = [point for point in measured.embedding if point.load.accesses == accesses]
        _draw(axes, own, f"{accesses} rows only", "^", colour)


def _draw_rows(axes: Axes, measured: Measured) -> None:
    """The kernel's rows, and the lines that were fitted to them."""
    sizes = [point.format.row_bytes for point in measured.rows]
    along = np.geomspace(min(sizes), max(sizes), 100)
    drawn = [
        (f"within {size_bytes // 1024:,} KiB", colour, [point.hit_s[i] for point in measured.rows])
        for i, (size_bytes, colour) in enumerate(zip(measured.caches, _CACHES, strict=False))
    ]
    for label, colour, seconds in (*drawn, ("from memory", _MEMORY, [point.miss_s for point in measured.rows])):
        price, _ = fit_row(sizes, seconds)
        axes.plot(sizes, [1e9 * each for each in seconds], "o", color=colour, markersize=5, label=label)
        axes.plot(along, [1e9 * price.seconds(each) for each in along.tolist()], color=colour)


def _draw(axes: Axes, points: Sequence[EmbeddingPoint], label: str, marker: str, colour: str) -> None:
    gathers = [point.load.gathers for point in points]
    times_ms = [1000 * point.figures.cpu_s for point in points]
    axes.plot(gathers, times_ms, marker, color=colour, markersize=5, label=label)


def _draw_dense(axes: Axes, measured: Measured, fits: Fits) -> None:
    points = dense_points(measured)
    flops = [point.flops for point in points]
    label = _in_flight(points[0].in_flight)
    axes.plot(
        flops, [1000 * point.figures.cpu_s for point in points], "o", color=_COLOURS[0], markersize=5, label=label
    )
    along = np.geomspace(min(flops), max(flops), 100)
    axes.plot(along, [1000 * fits.dense.seconds(each) for each in along.tolist()], color=_COLOURS[0])
