"""Drawn ids follow the table's accesses."""

from __future__ import annotations

import numpy as np
import pytest

from repo_builder.access.hotness import CountedHotness, Hotness
from repo_builder.access.powerlaw import PowerLawHotness
from repo_builder.access.queries import IdSampler, draw_ids
from tests.access.helpers import table

COUNTS = np.array([0, 50, 3, 0, 20, 7, 0, 100, 20, 0])
CASES: list[tuple[Hotness, int]] = [
    (PowerLawHotness(0.9, 1), 50),
    (PowerLawHotness(0.9, 1), 40_000),
    (PowerLawHotness(0.1, 1), 300),
    (CountedHotness(lambda _: COUNTS), 10),
]


@pytest.mark.parametrize(("hotness", "rows"), CASES)
def test_draws_pass_a_chi_square_test(hotness: Hotness, rows: int) -> None:
    """Observed against expected counts in 10 or so slices of the hotness order, of at least 1% of the accesses each."""
    drawn = draw_ids(hotness, table(rows=rows), 400_000, np.random.default_rng(5))
    cdf, order = hotness.cdf(table(rows=rows)), hotness.order(table(rows=rows))
    observed = np.bincount(drawn, minlength=rows)[order]
    cuts = np.unique(np.searchsorted(cdf, np.linspace(0, 1, 11)))
    expected = 400_000 * np.diff(cdf[cuts])
    got = np.diff(np.concatenate([[0], np.cumsum(observed)])[cuts])
    chi_square = ((got - expected) ** 2 / expected).sum()
    freedom = len(expected) - 1
    assert chi_square < freedom + 4 * np.sqrt(2 * freedom) + 4


def test_successive_draws_are_independent() -> None:
    """The ids are looked up in sorted order; nothing of that order may be left in the answer."""
    drawn = draw_ids(PowerLawHotness(0.1, 0), table(rows=1000), 100_000, np.random.default_rng(2))
    assert abs(np.corrcoef(drawn[:-1], drawn[1:])[0, 1]) < 0.015
    assert abs(np.corrcoef(drawn, np.arange(len(drawn)))[0, 1]) < 0.015


def test_rows_without_accesses_are_never_drawn() -> None:
    drawn = draw_ids(CountedHotness(lambda _: COUNTS), table(rows=10), 100_000, np.random.default_rng(0))
    assert set(drawn.tolist()) == set(np.flatnonzero(COUNTS).tolist())


@pytest.mark.parametrize("shape", [7, (3, 4), (2, 0), (), (1, 2, 3)])
def test_shape_and_dtype(shape: int | tuple[int, ...]) -> None:
    drawn = draw_ids(PowerLawHotness(0.9, 0), table(), shape, np.random.default_rng(0))
    assert drawn.shape == np.empty(shape).shape and drawn.dtype == np.int64


def test_sampler_draws_the_same_from_the_same_generator() -> None:
    sampler = IdSampler(PowerLawHotness(0.9, 0), table(rows=500))
    first, again = (sampler.draw((8, 4), np.random.default_rng(3)) for _ in range(2))
    assert np.array_equal(first, again)


def test_table_of_one_row() -> None:
    assert draw_ids(PowerLawHotness(0.9, 0), table(rows=1), 3, np.random.default_rng(0)).tolist() == [0, 0, 0]
