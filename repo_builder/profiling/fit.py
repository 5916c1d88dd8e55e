"""Fitting the cost model's times to what was measured: pure, no server needed.

Both models are linear in what is looked for, so one solver serves both: non-negative coefficients x that make the
relative errors (A x) / t - 1 small, where t are measured seconds. Errors count squared while they are small and
linearly beyond some 10% (soft L1), so that a point disturbed by another program does not bend the fit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares, nnls

from repo_builder.errors import ElasticRecError
from repo_builder.partition.accesses import ModelAccesses
from repo_builder.partition.cost import Batching, DenseTime, FrontTime, LightLoad, RowCache, ServiceTime
from repo_builder.profiling.points import DensePoint, EmbeddingPoint, FrontPoint, LoadFigures, Measured, is_busy
from repo_builder.profiling.row_prices import RowPrice, row_cache, row_levels

_ROBUST_FROM = 0.1  # relative error from which a point pulls linearly
_SEPARABLE = 1e-4  # least singular value, beside the largest, at which coefficients can be told apart


class FitError(ElasticRecError):
    """What was measured does not determine the model."""


@dataclass(frozen=True, slots=True)
class CallPoint:
    """A saturated instance: `queries` joined in an execute call in the mean, of `gathers` rows each, and what it takes.

    `call_s` is the server's CPU time from one call to the next, all that lies between them included.
    """

    gathers: float
    queries: float
    call_s: float


@dataclass(frozen=True, slots=True)
class FitQuality:
    """Relative errors, model / measured - 1, a point each in the order of the points; their RMS and largest size."""

    residuals: tuple[float, ...]

    @property
    def relative_rms(self) -> float:
        """Root of the mean square."""
        return math.sqrt(sum(error * error for error in self.residuals) / len(self.residuals))

    @property
    def relative_max(self) -> float:
        """The largest size."""
        return max(abs(error) for error in self.residuals)


@dataclass(frozen=True, slots=True)
class CallFit:
    """Seconds of an execute call with n queries of g gathers: `call_s + n * (query_s + per_gather_s * g)`."""

    call_s: float
    query_s: float
    per_gather_s: float
    quality: FitQuality

    def seconds(self, queries: float, gathers: float) -> float:
        """A core's time from such a call to the next under full load."""
        return self.call_s + queries * (self.query_s + self.per_gather_s * gathers)


def fit_calls(points: Sequence[CallPoint]) -> CallFit:
    """The call model nearest to the points.

    Raises FitError where they do not determine it: too few, or all alike in gathers or in queries a call.
    """
    queries, gathers, seconds = np.array([(p.queries, p.gathers, p.call_s) for p in points]).reshape(-1, 3).T
    design = np.column_stack([np.ones_like(queries), queries, queries * gathers])
    (call_s, query_s, per_gather_s), quality = _fit(design, seconds, "different gathers and queries a call")
    return CallFit(call_s, query_s, per_gather_s, quality)


def fit_dense(flops: Sequence[float], query_s: Sequence[float]) -> tuple[DenseTime, FitQuality]:
    """`fixed_s + per_flop_s * flops` nearest to the measured seconds a query; raises FitError as `fit_calls`."""
    design = np.column_stack([np.ones(len(flops)), np.array(flops, float)])
    (fixed_s, per_flop_s), quality = _fit(design, np.array(query_s, float), "different floating-point operations")
    return DenseTime(_above_0(fixed_s, "dense query"), per_flop_s), quality


def fit_front(points: Sequence[FrontPoint]) -> tuple[FrontTime, FitQuality]:
    """What the front end's seconds a query grow by with its ids and with the services that it calls.

    What it takes besides is fitted too and left out: a dense service, which is measured as a whole server, has it in
    its own fixed time. Raises FitError as `fit_calls`.
    """
    ids, services, seconds = np.array([(p.ids, p.services, p.figures.cpu_s) for p in points], float).reshape(-1, 3).T
    design = np.column_stack([np.ones_like(ids), ids, services])
    (_, per_id_s, per_call_s), quality = _fit(design, seconds, "different ids and services")
    return FrontTime(per_id_s, per_call_s), quality


def fit_light(gathers: Sequence[float], query_s: Sequence[float]) -> float:
    """The fixed time of the measured seconds a query, affine in the gathers; raises FitError as `fit_calls`."""
    design = np.column_stack([np.ones(len(gathers)), np.array(gathers, float)])
    (fixed_s, _), _ = _fit(design, np.array(query_s, float), "different gathers")
    return _above_0(fixed_s, "lone query")


def fit_row(row_bytes: Sequence[int], row_s: Sequence[float]) -> tuple[RowPrice, FitQuality]:
    """The price nearest to the measured seconds a row; raises FitError as `fit_calls`."""
    design = np.column_stack([np.ones(len(row_bytes)), np.array(row_bytes, float)])
    (per_row_s, per_byte_s), quality = _fit(design, np.array(row_s, float), "different bytes of a row")
    return RowPrice(per_row_s, per_byte_s), quality


def fixed_time(fit: CallFit, full_load: Sequence[float]) -> tuple[float, Batching]:
    """A query's time beside its rows where `full_load` queries were joined in a call, a number a capacity.

    Their median is taken, not below 1: a query of so many rows that none can be joined to it takes what these take.
    Raises FitError where the fixed time comes out as nothing.
    """
    queries = max(1.0, median(full_load))
    fixed_s = _above_0(fit.call_s / queries + fit.query_s, "query")
    return fixed_s, Batching(fit.call_s, fit.query_s, queries)


def _above_0(fixed_s: float, whose: str) -> float:
    if fixed_s <= 0:
        raise FitError(f"fit: expected a {whose}'s fixed time above 0, got 0; measure for longer, on a quiet machine")
    return fixed_s


def _fit(
    design: NDArray[np.float64], seconds: NDArray[np.float64], needed: str
) -> tuple[tuple[float, ...], FitQuality]:
    """Coefficients >= 0 of the columns of `design` (points, coefficients) for the measured `seconds` (points,)."""
    count, unknowns = design.shape
    if not (np.isfinite(design).all() and np.isfinite(seconds).all() and (seconds > 0).all()):
        raise FitError("fit: expected points of finite numbers, and times above 0")
    relative = design / seconds[:, np.newaxis]  # times the coefficients: model / measured
    scale = np.abs(relative).max(axis=0, initial=0.0)
    scaled = relative / np.where(scale > 0, scale, 1.0)
    spread = np.linalg.svd(scaled, compute_uv=False) if count >= unknowns else np.zeros(1)
    if spread[-1] <= _SEPARABLE * spread[0]:
        raise FitError(
            f"fit: expected at least {unknowns} points with {needed}, got {count} that do not tell them apart"
        )
    start, _ = nnls(scaled, np.ones(count))
    solved = least_squares(
        lambda x: scaled @ x - 1,
        start + 1e-9,  # inside the bounds
        jac=lambda _: scaled,
        bounds=(0, np.inf),
        loss="soft_l1",
        f_scale=_ROBUST_FROM,
        xtol=1e-12,
        ftol=1e-12,
        gtol=1e-12,
    )
    x = np.where(solved.x > 1e-9 * solved.x.max(), solved.x, 0.0)  # the solver stays a little above its bounds
    coefficients = tuple(float(value) for value in x / np.where(scale > 0, scale, 1.0))
    return coefficients, FitQuality(tuple(float(error) for error in scaled @ x - 1))


@dataclass(frozen=True, slots=True)
class Fits:
    """The models fitted to what was measured.

    `time`, with what a row takes from memory, and `dense` are of capacities, `light` of queries that come one at a
    time, and `front` of a loaded front end; `hits` is what the kernel alone takes for a row of each level of the
    caches, and `hits_s` what a service with such rows alone took.
    """

    calls: CallFit
    time: ServiceTime
    batching: Batching
    hits: tuple[RowPrice, ...]
    hits_s: tuple[float, ...]
    rows_quality: FitQuality
    dense: DenseTime
    dense_quality: FitQuality
    light: LightLoad
    front: FrontTime
    front_quality: FitQuality


def fit_measured(measured: Measured) -> Fits:
    """Fit the embedding service's calls to the busy points with the spec's accesses, rows to the kernel's, the dense
    service's times to its capacities, and the front end's to all its points. Raises FitError where they do not
    determine a model, or no load was within the SLA.
    """
    fitted, dense = fitted_points(measured), dense_points(measured)
    joined = [point.figures.queries for point in fitted if point.capacity]
    if not joined or not dense:
        raise FitError("fit: expected loads within the spec's serving.sla_ms, got none; raise it")
    calls = fit_calls([CallPoint(point.load.gathers, point.figures.queries, call_s(point.figures)) for point in fitted])
    fixed_s, batching = fixed_time(calls, joined)
    memory, hits, rows_quality = _rows(measured, calls)
    time = ServiceTime(fixed_s, memory.per_row_s, memory.per_byte_s)
    dense_fit, front_fit = fit_dense(*_flops_and_seconds(dense)), fit_front(measured.front)
    hits_s = tuple(_per_gather_s(calls, point) for point in measured.embedding if point.load.accesses == "cached")
    return Fits(calls, time, batching, hits, hits_s, rows_quality, *dense_fit, _light(measured), *front_fit)


def cached_rows(measured: Measured, fits: Fits, accesses: ModelAccesses) -> tuple[RowCache, tuple[RowCache, ...]]:
    """What a row takes that the caches hold, of a service that holds others too, and of those that do not, level by
    level; `accesses` is what was measured.
    """
    cache = row_cache(measured.caches[-1], fits.hits[-1], fits.time, fits.calls.per_gather_s, accesses)
    return cache, row_levels(measured.caches, fits.hits, measured.row_bytes, fits.hits_s, cache)


def _rows(measured: Measured, calls: CallFit) -> tuple[RowPrice, tuple[RowPrice, ...], FitQuality]:
    """What a row takes of a service from memory, and of the kernel from each level of the caches; and how far the
    kernel's rows are from affine in their bytes, level by level, then from memory.
    """
    sizes = [point.format.row_bytes for point in measured.rows]
    (cold,) = (point for point in measured.embedding if point.load.accesses == "cold")
    by_level = zip(*((*point.hit_s, point.miss_s) for point in measured.rows), strict=True)
    prices, qualities = zip(*(fit_row(sizes, seconds) for seconds in by_level), strict=True)
    memory = prices[-1].through(measured.row_bytes, _per_gather_s(calls, cold))
    return memory, prices[:-1], FitQuality(tuple(error for quality in qualities for error in quality.residuals))


def _light(measured: Measured) -> LightLoad:
    """What a query takes of a core where queries come one at a time: waking threads is most of it."""
    lone = [point for point in measured.embedding if point.load.in_flight == 1]
    dense, _ = fit_dense(*_flops_and_seconds([point for point in measured.dense if point.in_flight == 1]))
    return LightLoad(fit_light([point.load.gathers for point in lone], [point.figures.cpu_s for point in lone]), dense)


def _flops_and_seconds(points: Sequence[DensePoint]) -> tuple[list[int], list[float]]:
    return [point.flops for point in points], [point.figures.cpu_s for point in points]


def fitted_points(measured: Measured) -> list[EmbeddingPoint]:
    """The points that the embedding fit rests on."""
    return [point for point in measured.embedding if is_busy(point)]


def dense_points(measured: Measured) -> list[DensePoint]:
    """The points that the dense fit rests on: the capacities."""
    return [point for point in measured.dense if point.capacity]


def call_s(figures: LoadFigures) -> float:
    """The server's CPU seconds from one execute call to the next."""
    return figures.queries * figures.cpu_s


def _per_gather_s(calls: CallFit, point: EmbeddingPoint) -> float:
    """What is left for the gathered rows when the fitted fixed times are taken off."""
    rest_s = call_s(point.figures) - calls.seconds(point.figures.queries, 0)
    return max(0.0, rest_s / (point.figures.queries * point.load.gathers))
