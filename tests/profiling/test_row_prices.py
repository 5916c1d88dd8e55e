"""What a row costs by its bytes: lines through what was measured, and the kernel itself."""

import numpy as np
import pytest

from repo_builder.model.types import RowFormat
from repo_builder.partition.cost import CostModel, ServiceTime
from repo_builder.partition.priced import PricedOrder
from repo_builder.profiling import row_prices
from repo_builder.profiling.row_prices import RowPrice, measure_row_points, row_cache
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


def test_the_caches_price_makes_the_mean_that_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the caches hold, a service with all rows takes that."""
    accesses, mean_s = samples.accesses(), 2e-8
    order = accesses.order(accesses.tables, MEMORY)
    for cache_bytes in (4 << 20, 32 << 20):
        monkeypatch.setattr(row_prices, "last_cache_bytes", lambda size=cache_bytes: size)
        cache = row_cache(RowPrice(1e-9, 1e-11), MEMORY, mean_s, accesses)
        assert cache.size_bytes == cache_bytes
        model = CostModel(1.0, MEMORY, 0, row_cache=cache)
        rows_s = PricedOrder(order, model).rows_s(np.array(0), np.array(order.rows))
        assert rows_s == pytest.approx(mean_s * 4096)


@pytest.mark.parametrize(("mean_s", "expected_s"), [(1e-12, 1e-9 + 128e-11), (1.0, 2e-9 + 128 * 2e-10)])
def test_the_caches_price_lies_between_the_kernels_and_memorys(mean_s: float, expected_s: float) -> None:
    cache = row_cache(RowPrice(1e-9, 1e-11), MEMORY, mean_s, samples.accesses())
    assert cache.rows_s(1.0, 128.0) == pytest.approx(expected_s)
    assert cache.per_row_s <= MEMORY.per_row_s and cache.per_byte_s <= MEMORY.per_byte_s


def test_the_kernel_is_measured_on_rows_of_each_format() -> None:
    formats = RowFormat(8), RowFormat(16, "int8")
    points = measure_row_points(formats, matrix_bytes=1 << 20)
    assert [point.format for point in points] == list(formats)
    assert all(point.hit_s > 0 and point.miss_s > 0 for point in points)
