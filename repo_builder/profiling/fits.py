"""The models of a profile, fitted to what was measured."""

from __future__ import annotations

from dataclasses import dataclass

from repo_builder.partition.cost import Batching, DenseTime, ServiceTime
from repo_builder.profiling.fit import CallFit, CallPoint, FitQuality, fit_calls, fit_dense, service_time
from repo_builder.profiling.points import DensePoint, EmbeddingPoint, Found, Measured

SATURATED = 4
"""Queries in flight from which on an instance always finds the next one waiting."""


@dataclass(frozen=True, slots=True)
class Fits:
    """The models fitted to what was measured, and what a gathered row costs at both ends."""

    calls: CallFit
    service_time: ServiceTime
    batching: Batching
    dense: DenseTime
    dense_quality: FitQuality
    hot_per_gather_s: float
    cold_per_gather_s: float


def fit_measured(measured: Measured) -> Fits:
    """Fit the embedding service's calls to the saturated points with the spec's accesses, and the dense service's times
    to those under full load. Raises FitError where they do not determine a model.
    """
    fitted = fitted_points(measured)
    calls = fit_calls([CallPoint(point.gathers, point.found.queries, call_s(point.found)) for point in fitted])
    full_load = max(point.in_flight for point in fitted)
    time, batching = service_time(calls, [point.found.queries for point in fitted if point.in_flight == full_load])
    dense = dense_points(measured)
    dense_time, dense_quality = fit_dense([point.flops for point in dense], [1 / point.found.qps for point in dense])
    ends = {point.accesses: _per_gather_s(calls, point) for point in measured.embedding}
    return Fits(calls, time, batching, dense_time, dense_quality, ends["hot"], ends["cold"])


def fitted_points(measured: Measured) -> list[EmbeddingPoint]:
    """The points that the embedding fit rests on."""
    return [point for point in measured.embedding if point.accesses == "spec" and point.in_flight >= SATURATED]


def dense_points(measured: Measured) -> list[DensePoint]:
    """The points that the dense fit rests on: those under full load."""
    full_load = max(point.in_flight for point in measured.dense)
    return [point for point in measured.dense if point.in_flight == full_load]


def call_s(found: Found) -> float:
    """Seconds from one execute call to the next."""
    return found.queries / found.qps


def _per_gather_s(calls: CallFit, point: EmbeddingPoint) -> float:
    """What is left for the gathered rows when the fitted fixed times are taken off."""
    rest_s = call_s(point.found) - calls.seconds(point.found.queries, 0)
    return max(0.0, rest_s / (point.found.queries * point.gathers))
