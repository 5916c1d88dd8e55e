"""Cheapest paths over blocks, in bands from the diagonal on, against every path."""

from itertools import combinations, pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

from repo_builder.partition.bounds import BAND_ROWS, at_most, cheapest_path, exactly, path_costs, useful_steps


def _costs(blocks: int, seed: int, price: float) -> NDArray[np.float64]:
    """Random costs, `price` and more a step; a step from a block to itself has one too, but from the first none."""
    return path_costs(lambda begins, ends: _cost(begins, ends, seed, price), np.arange(blocks), np.arange(blocks))


def _cost(begins: NDArray[np.int64], ends: NDArray[np.int64], seed: int, price: float) -> NDArray[np.float64]:
    spread = np.abs(np.sin(12.9898 * begins + 78.233 * ends + seed))
    return price + np.maximum(ends - begins, 0) ** 1.5 * (1 + spread)


@pytest.mark.parametrize("blocks", [1, 2, BAND_ROWS, BAND_ROWS + 1, 3 * BAND_ROWS - 5])
def test_costs_are_made_from_the_diagonal_on(blocks: int) -> None:
    costs, all_blocks = _costs(blocks, 1, 2.0), np.arange(blocks)
    expected = _cost(all_blocks[:, None], all_blocks[None, :], 1, 2.0)
    assert np.array_equal(costs, np.where(all_blocks[:, None] > all_blocks[None, :], np.inf, expected))


@pytest.mark.parametrize("price", [0.0, 3.0, 40.0])
@pytest.mark.parametrize("seed", range(5))
def test_paths_are_the_cheapest_of_all(seed: int, price: float) -> None:
    blocks, s_max = 8, 5
    costs = _costs(blocks, seed, price)
    np.fill_diagonal(costs, np.inf)
    best = np.full((s_max + 1, blocks), np.inf)
    best[0, 0] = 0.0
    for end in range(1, blocks):
        for steps in range(1, min(s_max, end) + 1):
            paths = [(0, *inner, end) for inner in combinations(range(1, end), steps - 1)]
            best[steps, end] = min(sum(costs[a, b] for a, b in pairwise(path)) for path in paths)
    assert exactly(costs, s_max) == pytest.approx(best)
    assert at_most(costs, s_max) == pytest.approx(np.minimum.accumulate(best, axis=0))
    path = cheapest_path(costs, s_max)
    assert sum(costs[a, b] for a, b in pairwise(path)) == pytest.approx(best[:, -1].min())
    assert len(path) - 1 == best[:, -1].argmin()


@pytest.mark.parametrize("price", [0.0, 200.0, 5000.0])
def test_steps_that_bring_nothing_are_left_out_and_no_other(price: float) -> None:
    """Over several bands: the first that are left are equal to `exactly`, and what they leave out is never better."""
    costs, s_max = _costs(3 * BAND_ROWS - 5, 7, price), 12
    plain, useful = exactly(costs, s_max), useful_steps(costs, s_max)
    counted = int(np.isfinite(useful).any(axis=1).sum())
    assert np.array_equal(useful[:counted], plain[:counted])
    assert np.array_equal(np.minimum.accumulate(useful, axis=0), np.minimum.accumulate(plain, axis=0))
    assert counted == s_max + 1 if not price else counted < s_max


def test_of_equal_paths_the_shortest_and_first_is_taken() -> None:
    costs = np.full((4, 4), np.inf)
    costs[0, 1] = costs[0, 2] = costs[1, 3] = costs[2, 3] = 1.0
    assert cheapest_path(costs, 3).tolist() == [0, 1, 3]
    costs[0, 3] = 2.0
    assert cheapest_path(costs, 3).tolist() == [0, 3]
