"""What a row costs by its bytes: lines through what was measured, and the kernel itself."""

import numpy as np
import pytest

from repo_builder.model.types import RowFormat
from repo_builder.partition.cost import CostModel, RowCache, ServiceTime
from repo_builder.partition.priced import PricedOrder
from repo_builder.profiling import row_prices
from repo_builder.profiling.row_prices import RowPrice, cache_levels, measure_row_points, row_cache, row_levels
from tests.profiling import samples

MEMORY = ServiceTime(1e-4, 2e-9, 2e-10)


def test_a_line_is_moved_to_go_through_a_point() -> None:
    price = RowPrice(5e-9, 1e-10)
    assert price.through(128, 3e-8) == RowPrice(pytest.approx(1.72e-8), 1e-10)
    steep = price.through(128, 6.4e-9)  # less than its bytes would take: nothing else is left
    assert steep == RowPrice(pytest.approx(0, abs=1e-20), pytest.approx(5e-11))
    bounded = price.through(128, 3e-8, RowPrice(1e-8, 5e-10))  # no more a row than 10 ns: the rest by the byte
    assert bounded == RowPrice(pytest.approx(1e-8), pytest.approx(2e-8 / 128))
    flat = price.through(128, 2e-8, RowPrice(2e-8, 1e-12))
    assert flat == RowPrice(pytest.approx(2e-8 - 128e-12), 1e-12)


def test_the_caches_price_makes_the_mean_that_was_measured() -> None:
    """Whatever the caches hold, a service with all rows takes that."""
    accesses, mean_s = samples.accesses(), 2e-8
    order = accesses.order(accesses.tables, MEMORY)
    for cache_bytes in (4 << 20, 32 << 20):
        cache = row_cache(cache_bytes, RowPrice(1e-9, 1e-11), MEMORY, mean_s, accesses)
        assert cache.size_bytes == cache_bytes
        model = CostModel(1.0, MEMORY, 0, row_cache=cache)
        rows_s = PricedOrder(order, model).rows_s(np.array(0), np.array(order.rows))
        assert rows_s == pytest.approx(mean_s * 4096)


@pytest.mark.parametrize(("mean_s", "expected_s"), [(1e-12, 1e-9 + 128e-11), (1.0, 2e-9 + 128 * 2e-10)])
def test_the_caches_price_lies_between_the_kernels_and_memorys(mean_s: float, expected_s: float) -> None:
    cache = row_cache(32 << 20, RowPrice(1e-9, 1e-11), MEMORY, mean_s, samples.accesses())
    assert cache.rows_s(1.0, 128.0) == pytest.approx(expected_s)
    assert cache.per_row_s <= MEMORY.per_row_s and cache.per_byte_s <= MEMORY.per_byte_s


CACHE = RowCache(4000, 2e-9, 1e-10)


def test_levels_cost_what_a_service_took_for_their_rows() -> None:
    """And grow with a row's bytes as the kernel's do."""
    hits = RowPrice(1e-10, 1e-12), RowPrice(1e-9, 1e-11)
    levels = row_levels((100, 3000), hits, 128.0, (4e-9, 9e-9), CACHE)
    assert [level.size_bytes for level in levels] == [100, 3000]
    assert [level.rows_s(1.0, 128.0) for level in levels] == pytest.approx([4e-9, 9e-9])
    assert levels[1] == RowCache(3000, pytest.approx(2e-9), pytest.approx(7e-9 / 128))  # no more a row than beyond
    assert levels[0] == RowCache(100, pytest.approx(2e-9), pytest.approx(2e-9 / 128))


@pytest.mark.parametrize(
    ("row_s", "expected_s"),
    [
        ((0.0, 0.0), (128e-12, 1e-9 + 128e-11)),  # the kernel's alone
        ((9e-9, 4e-9), (4e-9, 4e-9)),  # the next level's
        ((1.0, 1.0), (2e-9 + 128e-10, 2e-9 + 128e-10)),  # that of a service that holds others too
    ],
)
def test_a_level_lies_between_the_kernels_alone_and_the_next_one(
    row_s: tuple[float, float], expected_s: tuple[float, float]
) -> None:
    levels = row_levels((100, 3000), (RowPrice(0.0, 1e-12), RowPrice(1e-9, 1e-11)), 128.0, row_s, CACHE)
    assert [level.rows_s(1.0, 128.0) for level in levels] == pytest.approx(expected_s)
    prices = [(each.per_row_s, each.per_byte_s) for each in (*levels, CACHE)]
    for key in (0, 1):
        assert [price[key] for price in prices] == sorted(price[key] for price in prices)


@pytest.mark.parametrize(
    ("caches", "levels"),
    [
        ((), (1 << 20,)),
        ((32 << 10,), (32 << 10,)),
        ((32 << 10, 512 << 10, 32 << 20), (512 << 10, 4 << 20, 32 << 20)),
        ((48 << 10, 2 << 20, 16 << 20), (2 << 20, 16 << 20)),
    ],
)
def test_levels_are_the_caches_behind_the_first_and_halfway_to_a_far_larger_one(
    monkeypatch: pytest.MonkeyPatch, caches: tuple[int, ...], levels: tuple[int, ...]
) -> None:
    monkeypatch.setattr(row_prices, "cache_sizes", lambda: caches)
    assert cache_levels() == levels


def test_the_kernel_is_measured_on_rows_of_each_format() -> None:
    formats = RowFormat(8), RowFormat(16, "int8")
    points = measure_row_points((1 << 10, 1 << 16), formats, matrix_bytes=1 << 20)
    assert [point.format for point in points] == list(formats)
    assert all(len(point.hit_s) == 2 and min(*point.hit_s, point.miss_s) > 0 for point in points)
