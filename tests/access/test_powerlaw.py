"""Power laws: the locality asked for, shares against direct sums, and orders that never change."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from repo_builder.access.load import load_hotness
from repo_builder.access.powerlaw import (
    PowerLawHotness,
    generalized_harmonic,
    hottest_rows,
    powerlaw_cdf,
    solve_alpha,
)
from repo_builder.spec import Access
from tests.access.helpers import spec, table


def direct_share(rows: int, top: int, alpha: float) -> float:
    weights = [i**-alpha for i in range(1, rows + 1)]
    return math.fsum(weights[:top]) / math.fsum(weights)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.999999999, 1.0, 1.000000001, 1.2, 2.5, 7.0, 64.0])
@pytest.mark.parametrize("n", [1, 2, 99, 100, 101, 5_000, 300_000])
def test_harmonic_number_equals_the_direct_sum(n: int, alpha: float) -> None:
    direct = math.fsum(i**-alpha for i in range(1, n + 1))
    assert generalized_harmonic(n, alpha) == pytest.approx(direct, rel=1e-13)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 3000), st.floats(0.1, 1, exclude_max=True))
def test_hottest_tenth_takes_the_locality(rows: int, locality: float) -> None:
    hot = hottest_rows(rows)
    share = direct_share(rows, hot, solve_alpha(rows, locality))
    assert share == pytest.approx(max(locality, hot / rows), abs=1e-9)


@pytest.mark.parametrize("rows", [10, 1_001, 100_000, 2_000_000])
@pytest.mark.parametrize("locality", [0.1, 0.5, 0.9, 0.99, 0.999999])
def test_cdf_reaches_the_locality_at_ten_percent(rows: int, locality: float) -> None:
    cdf = PowerLawHotness(locality, 0).cdf(table(rows=rows))
    assert cdf[-(-rows // 10)] == pytest.approx(max(locality, -(-rows // 10) / rows), abs=1e-9)


@pytest.mark.parametrize("rows", [1, 2, 9, 10, 65_536, 65_537, 200_000])
@pytest.mark.parametrize("alpha", [0.0, 0.8, 1.0, 3.0, 64.0])
def test_cdf_keeps_the_promises_of_the_protocol(rows: int, alpha: float) -> None:
    cdf = powerlaw_cdf(rows, alpha)
    assert cdf.shape == (rows + 1,) and cdf.dtype == np.float64
    assert cdf[0] == 0.0 and cdf[-1] == 1.0
    steps = np.diff(cdf)
    assert (steps >= 0).all() and (np.diff(steps) <= 1e-15).all()


def test_cdf_equals_direct_sums_across_blocks() -> None:
    cdf = powerlaw_cdf(200_000, 1.07)
    for top in (1, 2, 65_536, 65_537, 131_072, 199_999):
        assert cdf[top] == pytest.approx(direct_share(200_000, top, 1.07), rel=1e-12)


def test_locality_of_a_tenth_is_uniform_and_keeps_the_ids() -> None:
    hotness = PowerLawHotness(0.1, 5)
    assert hotness.cdf(table(rows=40)) == pytest.approx(np.arange(41) / 40)
    assert hotness.order(table(rows=40)).tolist() == list(range(40))  # ties go to the smaller id


def test_tables_too_small_for_the_locality_are_uniform() -> None:
    assert PowerLawHotness(0.3, 0).cdf(table(rows=3)).tolist() == pytest.approx([0, 1 / 3, 2 / 3, 1])
    assert PowerLawHotness(0.9, 0).cdf(table(rows=1)).tolist() == [0, 1]


def test_tables_of_equal_rows_share_one_read_only_cdf() -> None:
    hotness = PowerLawHotness(0.9, 0)
    shared = hotness.cdf(table("a", 500))
    assert hotness.cdf(table("b", 500)) is shared
    assert not shared.flags.writeable


def test_order_is_a_scattered_permutation() -> None:
    order = PowerLawHotness(0.9, 0).order(table(rows=10_000))
    assert order.dtype == np.uint32
    assert np.array_equal(np.sort(order), np.arange(10_000))
    assert 4_000 < order[:1000].mean() < 6_000


def test_order_depends_on_seed_and_name_alone() -> None:
    def order(seed: int, name: str) -> list[int]:
        return PowerLawHotness(0.9, seed).order(table(name, 50)).tolist()

    assert order(0, "a") == order(0, "a")
    assert order(0, "a") != order(1, "a") and order(0, "a") != order(0, "b")
    assert order(2**70, "a") != order(0, "a")


def test_order_is_the_same_on_every_platform_and_release() -> None:
    assert PowerLawHotness(0.9, 7).order(table("C1", 12)).tolist() == [5, 0, 3, 1, 4, 8, 7, 11, 6, 9, 2, 10]


def test_load_hotness_takes_locality_and_seed_from_the_spec() -> None:
    wanted = spec([table("a", 100)], Access("powerlaw", locality=0.8, seed=3))
    hotness = load_hotness(wanted)
    assert hotness.cdf(wanted.model.tables[0])[10] == pytest.approx(0.8)
    assert np.array_equal(hotness.order(wanted.model.tables[0]), PowerLawHotness(0.8, 3).order(table("a", 100)))
