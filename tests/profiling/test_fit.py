"""The fits against known coefficients, and against SciPy's plain non-negative least squares."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import nnls

from repo_builder.profiling.fit import (
    CallPoint,
    FitError,
    FitQuality,
    cached_rows,
    dense_points,
    fit_calls,
    fit_dense,
    fit_front,
    fit_measured,
    fit_row,
    fitted_points,
    fixed_time,
)
from repo_builder.profiling.points import CALLS, FrontPoint
from tests.profiling import samples

GRID = [(g, n) for g in (32, 1024, 8192, 65536) for n in (1.5, 3.0, 6.0)]


def points(call_s: float, query_s: float, per_gather_s: float, errors: np.ndarray | float = 0.0) -> list[CallPoint]:
    """The grid's points by the model, each off by its relative error."""
    off = np.broadcast_to(errors, len(GRID))
    return [
        CallPoint(g, n, (call_s + n * (query_s + per_gather_s * g)) * (1 + float(error)))
        for (g, n), error in zip(GRID, off, strict=True)
    ]


@given(st.floats(1e-5, 1e-2), st.floats(1e-6, 1e-3), st.floats(1e-9, 1e-6))
def test_exact_points_give_the_coefficients_back(call_s: float, query_s: float, per_gather_s: float) -> None:
    fit = fit_calls(points(call_s, query_s, per_gather_s))
    assert fit.quality.relative_max < 1e-5
    for g, n in GRID:
        assert fit.seconds(n, g) == pytest.approx(call_s + n * (query_s + per_gather_s * g), rel=1e-5)


def test_coefficients_of_common_sizes_are_found() -> None:
    fit = fit_calls(points(3e-4, 6e-5, 2e-8))
    assert (fit.call_s, fit.query_s, fit.per_gather_s) == pytest.approx((3e-4, 6e-5, 2e-8), rel=1e-6)


@given(st.integers(0, 2**32 - 1))
def test_small_errors_are_fitted_as_plain_least_squares_would(seed: int) -> None:
    """Far below 10% the loss is quadratic: SciPy's nnls on the relative errors is the oracle."""
    sample = points(3e-4, 6e-5, 2e-8, 0.005 * np.random.default_rng(seed).standard_normal(len(GRID)))
    fit = fit_calls(sample)
    design = np.array([(1, p.queries, p.queries * p.gathers) for p in sample])
    expected, _ = nnls(design / np.array([[p.call_s] for p in sample]), np.ones(len(sample)))
    assert (fit.call_s, fit.query_s, fit.per_gather_s) == pytest.approx(expected, rel=2e-3)


@given(st.integers(0, len(GRID) - 1), st.floats(2, 20))
def test_one_disturbed_point_hardly_moves_the_fit(place: int, factor: float) -> None:
    errors = np.zeros(len(GRID))
    errors[place] = factor - 1
    fit = fit_calls(points(3e-4, 6e-5, 2e-8, errors))
    others = [error for i, error in enumerate(fit.quality.residuals) if i != place]
    assert max(map(abs, others)) < 0.1
    assert fit.quality.residuals[place] == pytest.approx(1 / factor - 1, abs=0.1)


@given(st.floats(1e-3, 1e3))
def test_the_unit_of_time_does_not_matter(unit: float) -> None:
    sample = points(3e-4, 6e-5, 2e-8, 0.05 * np.random.default_rng(1).standard_normal(len(GRID)))
    fit = fit_calls(sample)
    scaled = fit_calls([CallPoint(p.gathers, p.queries, p.call_s * unit) for p in sample])
    assert scaled.quality.residuals == pytest.approx(fit.quality.residuals, abs=1e-5)
    assert scaled.call_s == pytest.approx(fit.call_s * unit, rel=1e-4)


def test_coefficients_are_never_negative() -> None:
    """Queries that get cheaper with their gathers: the slope is exactly 0."""
    fit = fit_calls([CallPoint(g, n, 1e-3 + n * 1e-4 - n * 1e-9 * g) for g, n in GRID])
    assert fit.per_gather_s == 0.0
    assert fit.call_s > 0 and fit.query_s > 0


def test_quality_counts_relative_errors() -> None:
    quality = FitQuality((0.3, -0.4))
    assert quality.relative_rms == pytest.approx(math.sqrt(0.125))
    assert quality.relative_max == 0.4


@pytest.mark.parametrize(
    "sample",
    [
        [],
        [CallPoint(32, 1.5, 1e-3), CallPoint(1024, 3, 2e-3)],
        [CallPoint(32, n, n * 1e-3) for n in (1, 2, 4, 8)],
        [CallPoint(g, 2, 1e-3 + 1e-8 * g) for g in (32, 1024, 8192)],
        [CallPoint(32, 2, 1e-3)] * 9,
    ],
)
def test_points_that_do_not_tell_the_coefficients_apart_are_an_error(sample: list[CallPoint]) -> None:
    with pytest.raises(FitError, match=rf"at least 3 points with different gathers .* got {len(sample)} that"):
        fit_calls(sample)


@pytest.mark.parametrize("bad", [0.0, -1e-3, math.nan, math.inf])
def test_times_that_are_none_are_an_error(bad: float) -> None:
    with pytest.raises(FitError, match="expected points of finite numbers, and times above 0"):
        fit_calls([*points(3e-4, 6e-5, 2e-8), CallPoint(5, 2, bad)])


@given(st.floats(1e-5, 1e-2), st.floats(1e-12, 1e-9))
def test_dense_time_is_affine_in_flops(fixed_s: float, per_flop_s: float) -> None:
    flops = [1e5, 1e6, 1e7, 1e8]
    time, quality = fit_dense(flops, [fixed_s + per_flop_s * each for each in flops])
    assert quality.relative_max < 1e-5
    assert [time.seconds(each) for each in flops] == pytest.approx(
        [fixed_s + per_flop_s * each for each in flops], 1e-5
    )


def test_dense_points_alike_or_without_fixed_time_are_an_error() -> None:
    with pytest.raises(FitError, match="2 points with different floating-point operations, got 3"):
        fit_dense([1e6] * 3, [1e-3] * 3)
    with pytest.raises(FitError, match="fixed time above 0"):
        fit_dense([1e5, 1e6, 1e7], [1e-6, 1e-4, 1e-2])


def front_points(loads: list[tuple[int, int]], seconds: list[float]) -> list[FrontPoint]:
    """Of so many (services, ids)."""
    figures = [samples.figures(each, 1.0, 16) for each in seconds]
    return [FrontPoint(services, ids, 32, 16, each) for (services, ids), each in zip(loads, figures, strict=True)]


FRONT_LOADS = [(2, 2048), (2, 20480), (8, 2048), (8, 20480)]


@given(st.floats(1e-5, 1e-2), st.floats(1e-9, 1e-6), st.floats(1e-6, 1e-3))
def test_a_front_ends_ids_and_calls_are_told_from_all_else(rest_s: float, per_id_s: float, per_call_s: float) -> None:
    """What it takes whatever is asked is no part of them."""
    front, quality = fit_front(
        front_points(FRONT_LOADS, [rest_s + per_id_s * ids + per_call_s * calls for calls, ids in FRONT_LOADS])
    )
    assert quality.relative_max < 1e-5
    ids_s, calls_s = per_id_s * 18432, per_call_s * 6
    off_s = 1e-4 * (rest_s + ids_s + calls_s)
    assert front.seconds(18432, 0) == pytest.approx(ids_s, abs=off_s)
    assert front.seconds(0, 6) == pytest.approx(calls_s, abs=off_s)


def test_front_ends_are_fitted_as_plain_least_squares_would() -> None:
    """NumPy's on the relative errors is the oracle, where these are small."""
    seconds = [4.02e-4, 7.67e-4, 5.82e-4, 9.57e-4]
    design = np.array([(1, ids, calls) for calls, ids in FRONT_LOADS]) / np.array(seconds)[:, np.newaxis]
    (_, per_id_s, per_call_s), *_ = np.linalg.lstsq(design, np.ones(4), rcond=None)
    front, quality = fit_front(front_points(FRONT_LOADS, seconds))
    assert (front.per_id_s, front.per_call_s) == pytest.approx((per_id_s, per_call_s), rel=1e-3)
    assert 0 < quality.relative_rms < 0.01


def test_calls_that_seem_to_spare_time_cost_nothing() -> None:
    front, _ = fit_front(front_points(FRONT_LOADS, [5e-4, 9e-4, 4e-4, 8e-4]))
    assert front.per_call_s == 0.0 and front.per_id_s > 0


def test_front_ends_alike_are_an_error() -> None:
    with pytest.raises(FitError, match="3 points with different ids and services, got 4"):
        fit_front(front_points([(2, 2048), (2, 20480)] * 2, [1e-3, 2e-3] * 2))


@given(st.floats(0, 1e-7), st.floats(1e-12, 1e-9))
def test_a_rows_time_is_affine_in_its_bytes(per_row_s: float, per_byte_s: float) -> None:
    sizes = [40, 64, 128, 512, 1024]
    price, quality = fit_row(sizes, [per_row_s + per_byte_s * each for each in sizes])
    assert quality.relative_max < 1e-5
    assert [price.seconds(each) for each in sizes] == pytest.approx(
        [per_row_s + per_byte_s * each for each in sizes], 1e-5
    )
    with pytest.raises(FitError, match="different bytes of a row"):
        fit_row([128] * 3, [1e-8] * 3)


def test_a_query_pays_its_share_of_a_call_of_the_median_size() -> None:
    """Calls of 3 queries mostly; one alone, whose rows take longer than any call, says nothing of the others."""
    fixed_s, batching = fixed_time(fit_calls(points(3e-4, 6e-5, 2e-8)), [3.0, 4.0, 1.0, 3.0])
    assert batching.queries == 3
    assert fixed_s == pytest.approx(1e-4 + 6e-5)
    assert fixed_s == batching.call_s / batching.queries + batching.query_s


def test_no_fixed_time_at_all_is_an_error() -> None:
    fit = fit_calls([CallPoint(g, n, n * 1e-8 * g) for g, n in GRID])
    with pytest.raises(FitError, match="fixed time above 0"):
        fixed_time(fit, [2.0])


def test_known_times_are_found() -> None:
    """Points of a query alone, and those of cold rows, would spoil them."""
    fits = fit_measured(samples.exact())
    assert fits.calls.quality.relative_max < 1e-6
    assert fits.calls.call_s == pytest.approx(samples.CALL_S, rel=1e-5)
    assert fits.calls.per_gather_s == pytest.approx(samples.GATHER_S["spec"], rel=1e-5)
    assert fits.batching.queries == pytest.approx(16)
    assert fits.time.fixed_s == pytest.approx(samples.CALL_S / 16 + samples.QUERY_S, rel=1e-5)
    assert (fits.dense.fixed_s, fits.dense.per_flop_s) == pytest.approx((samples.DENSE_S, samples.PER_FLOP_S), rel=1e-5)
    assert (fits.front.per_id_s, fits.front.per_call_s) == pytest.approx(
        (samples.PER_ID_S, samples.PER_CALL_S), rel=1e-5
    )


def test_a_row_from_memory_is_a_services_and_grows_as_the_kernels() -> None:
    """A service takes 30 ns for one of 128 bytes, a kernel 5 and 150 ps a byte: 512 bytes take 57.6 more."""
    fits = fit_measured(samples.exact())
    assert fits.time.per_byte_s == pytest.approx(samples.MISS[1], rel=1e-4)
    assert fits.time.rows_s(1.0, samples.ROW_BYTES) == pytest.approx(samples.GATHER_S["cold"], rel=1e-4)
    assert fits.time.rows_s(1.0, 512.0) == pytest.approx(3e-8 + 384 * 1.5e-10, rel=1e-4)
    assert len(fits.rows_quality.residuals) == 3 * len(samples.exact().rows)
    assert fits.rows_quality.relative_max < 1e-6


def test_rows_of_each_level_are_a_services_and_grow_as_the_kernels() -> None:
    """A service takes 6 and 10 ns for one of 128 bytes, a kernel 5 and 10 ps a byte of it."""
    measured = samples.exact()
    cache, levels = cached_rows(measured, fit_measured(measured), samples.accesses())
    assert cache.size_bytes == samples.CACHES[-1] and cache.rows_s(1.0, 128.0) > levels[-1].rows_s(1.0, 128.0)
    assert tuple(level.size_bytes for level in levels) == samples.CACHES
    for level, (_, per_byte_s), row_s in zip(levels, samples.HITS, (6e-9, 1e-8), strict=True):
        assert level.per_byte_s == pytest.approx(per_byte_s, rel=1e-4)
        assert level.rows_s(1.0, samples.ROW_BYTES) == pytest.approx(row_s, rel=1e-4)


def test_a_query_that_comes_alone_pays_for_waking() -> None:
    """Its call is its own, and what it takes more is none of the capacity."""
    light = fit_measured(samples.exact()).light
    lone_s = samples.CALL_S + samples.QUERY_S + samples.WAKING_S
    assert light.fixed_s == pytest.approx(lone_s, rel=1e-5)
    assert light.dense_service_time.fixed_s == pytest.approx(samples.DENSE_S + samples.WAKING_S, rel=1e-5)


def test_without_a_load_within_the_sla_there_is_no_fit() -> None:
    measured = samples.exact()
    missed = tuple(replace(point, capacity=False) for point in measured.embedding)
    with pytest.raises(FitError, match=r"serving\.sla_ms, got none; raise it"):
        fit_measured(replace(measured, embedding=missed))


def test_points_of_the_fits() -> None:
    measured = samples.exact()
    assert {(p.load.accesses, p.load.joined, p.load.in_flight) for p in fitted_points(measured)} == {
        ("spec", joined, CALLS) for joined in (1, 4, 16)
    }
    assert [(point.rows, point.in_flight) for point in dense_points(measured)] == [
        (rows, 16) for rows in (1, 8, 32, 128, 512)
    ]
