"""Sums of rows' times over levels of the caches: against each row by itself, and what the search needs of them."""

import random
from itertools import pairwise

import numpy as np
import pytest

from repo_builder.partition.cost import CostModel, RowCache, ServiceTime
from repo_builder.partition.order import Order
from repo_builder.partition.row_times import BLOCK_ROWS, RowTimes, row_times, segment_times
from tests.partition.helpers import row_seconds, zipf_cdf

MEMORY = ServiceTime(1e-4, 2e-8, 1e-10)
CACHES = RowCache(128 * 50, 3e-9, 1e-11), RowCache(128 * 400, 1e-8, 5e-11)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.95, 1.5])
@pytest.mark.parametrize("rows", [1, 30, 50, 51, 300, 400, 401, 3000])
def test_the_sums_are_those_of_the_rows_one_by_one(alpha: float, rows: int) -> None:
    """Within a level, at its end, over several, and beyond all."""
    order = Order(zipf_cdf(rows, alpha) * 4096, 128)
    times = row_times(order, MEMORY, CACHES)
    _, each = row_seconds(order, 128, MEMORY, CACHES)
    assert times.before(np.arange(rows + 1)) == pytest.approx(np.cumsum([0.0, *each]))
    assert times.total_s == pytest.approx(sum(each))
    steps = np.diff(times.before(np.arange(rows + 1)))
    assert (np.diff(steps) <= 1e-9 * steps[:-1]).all()  # concave


def test_around_a_levels_end_rows_share_their_time_and_others_take_their_levels() -> None:
    order = Order(zipf_cdf(3000, 0.95) * 4096, 128)
    gathers, steps = np.diff(order.gathers), np.diff(row_times(order, MEMORY, CACHES).before(np.arange(3001)))
    prices = [price.rows_s(1.0, 128.0) for price in (*CACHES, MEMORY)]
    assert steps[:10] == pytest.approx(prices[0] * gathers[:10])
    assert steps[150:200] == pytest.approx(prices[1] * gathers[150:200])
    assert steps[2000:] == pytest.approx(prices[2] * gathers[2000:])
    assert steps[45:55] == pytest.approx(np.full(10, steps[49]))
    assert prices[0] * gathers[49] < steps[49] < prices[1] * gathers[50]


def test_rows_all_alike_take_the_mean_of_the_levels() -> None:
    order = Order(np.linspace(0, 1600, 1601), 128)
    steps = np.diff(row_times(order, MEMORY, CACHES).before(np.arange(1601)))
    mean = sum(rows * price.rows_s(1.0, 128.0) for rows, price in zip((50, 350, 1200), (*CACHES, MEMORY), strict=True))
    assert steps == pytest.approx(np.full(1600, mean / 1600))


def test_rows_take_less_of_a_service_that_the_caches_hold_whole() -> None:
    """And a service never takes less for more rows, also where it becomes one that they do not."""
    order, cache = Order(zipf_cdf(3000, 0.95) * 4096, 128), RowCache(128 * 400, 1.5e-8, 5e-11)
    times = segment_times(order, CostModel(1.0, MEMORY, 0, 0, cache, CACHES))
    small, large = row_times(order.first_rows(400), cache, CACHES), row_times(order, MEMORY, (cache,))
    assert times.cached == 400 and times.two_prices
    begins, ends = np.arange(0, 3000, 7)[:, None], np.arange(3001)[None, :]
    found = times.between(begins, ends)
    assert (found[:, :401] == small.before(ends[:, :401]) - small.before(np.minimum(begins, 400))).all()
    assert (found[:, 401:] == large.before(ends[:, 401:]) - large.before(begins)).all()
    assert found[0, 401] > 1.5 * found[0, 400]
    assert (np.diff(np.maximum(found, 0.0)) >= 0).all() and (np.diff(found, axis=0) <= 0).all()


def test_nothing_as_long_as_the_order_is_made() -> None:
    order = Order(zipf_cdf(100_000, 0.95) * 4096, 128)
    times = row_times(order, MEMORY, CACHES)
    assert len(times.head) < 1000 and times.gathers is order.gathers
    assert len(row_times(order, MEMORY, ()).head) == 1


@pytest.mark.parametrize("hot", [False, True])
def test_positions_are_found_by_their_seconds(hot: bool) -> None:
    """In a level, in a pool, beyond; in runs of rows that are never read; of rows of several sizes."""
    rng = random.Random(5)
    for i in range(60):
        rows = rng.randint(1, 40)
        gathers = sorted((rng.choice([0.0, 0.0, 1.0, 2.0, 50.0, rng.random()]) for _ in range(rows)), reverse=True)
        sums = np.cumsum([0.0, *gathers])
        held = np.cumsum([0, *(rng.choice([40, 128]) for _ in range(rows))])
        gathered = np.cumsum([0.0, *(np.array(gathers) * np.diff(held))])
        mixed = Order(sums, held, held, gathered, gathered)
        levels = rng.randint(0, 2)
        sizes, prices = (sorted(rng.randint(0, most) for _ in range(levels)) for most in (5000, 20))
        caches = [RowCache(size, 1e-9 * price) for size, price in zip(sizes, prices, strict=True)]
        times = row_times(mixed if i % 2 else Order(sums, 128, 64), MEMORY, caches, hot)
        all_s = times.before(np.arange(rows + 1))
        assert all_s[0] == 0.0 and (np.diff(all_s) >= 0).all()
        positions = np.arange(rows + 1)
        begins, ends = times.run_begin(positions), times.run_end(positions)
        assert (all_s[begins] == all_s).all() and (begins <= positions).all() and (ends > positions).all()
        for position, end in zip(positions.tolist(), ends.tolist(), strict=True):
            assert len(set(all_s[position:end].tolist())) == 1
        if times.total_s:
            middles = (all_s[1:] + all_s[:-1])[np.diff(all_s) > 0] / 2
            expected = positions[1:][np.diff(all_s) > 0]
            assert times.reaching(middles).tolist() == expected.tolist()


@pytest.mark.parametrize("seed", range(20))
def test_steps_are_counted_block_by_block_as_one_by_one(seed: int) -> None:
    """Of sums that rise anywhere, over several blocks and a part of one; some steps equal the least to the bit."""
    rng = np.random.default_rng(seed)
    steps = rng.choice([0.0, 1e-9, 0.25, 0.3, 7.0], int(rng.integers(0, 3 * BLOCK_ROWS)), p=[0.5, 0.3, 0.1, 0.05, 0.05])
    sums = np.concatenate([[0.0], np.cumsum(np.sort(steps)[::-1] if seed % 2 else steps)])
    for unit_s in (1e-3, 0.7, 1.0, 1e9):
        scaled = unit_s * sums
        expected = sum(after - before > 0.25 for before, after in pairwise(scaled.tolist()))
        for times in (RowTimes(np.zeros(1), sums, unit_s), RowTimes(scaled, sums)):
            assert times.steps_above(0.25) == expected
