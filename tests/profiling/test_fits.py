"""Which points the models rest on, and what comes of them."""

import pytest

from repo_builder.profiling.fits import dense_points, fit_measured, fitted_points
from tests.profiling import samples


def test_known_times_are_found() -> None:
    """Points that are not saturated, and those of hot and cold rows, would spoil them."""
    fits = fit_measured(samples.exact())
    assert fits.calls.quality.relative_max < 1e-6
    assert fits.calls.call_s == pytest.approx(samples.CALL_S, rel=1e-5)
    assert fits.service_time.per_gather_s == pytest.approx(samples.PER_GATHER_S["spec"], rel=1e-5)
    assert fits.batching.queries == pytest.approx(samples.joined(16))
    assert fits.service_time.fixed_s == pytest.approx(samples.CALL_S / samples.joined(16) + samples.QUERY_S, rel=1e-5)
    assert (fits.dense.fixed_s, fits.dense.per_flop_s) == pytest.approx((samples.DENSE_S, samples.PER_FLOP_S), rel=1e-5)


def test_hot_and_cold_rows_are_priced_beside_the_fit() -> None:
    fits = fit_measured(samples.exact())
    assert fits.hot_per_gather_s == pytest.approx(samples.PER_GATHER_S["hot"], rel=1e-4)
    assert fits.cold_per_gather_s == pytest.approx(samples.PER_GATHER_S["cold"], rel=1e-4)


def test_points_of_the_fits() -> None:
    measured = samples.exact()
    assert {(point.accesses, point.in_flight) for point in fitted_points(measured)} == {("spec", 4), ("spec", 16)}
    assert [(point.rows, point.in_flight) for point in dense_points(measured)] == [
        (rows, 16) for rows in (1, 8, 32, 128, 512)
    ]
