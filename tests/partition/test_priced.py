"""Services priced by their rows' bytes and where these lie: the optimum against the recurrence over plain rows."""

import random
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from repo_builder.partition import dp
from repo_builder.partition.cost import CostModel, RowCache, ServiceTime
from repo_builder.partition.order import Order
from repo_builder.partition.priced import PricedOrder
from tests.partition.helpers import PlainRows, quadratic, zipf_cdf


def _gathers(rng: random.Random, rows: int) -> list[float]:
    alpha, scale = rng.uniform(0.2, 2.0), rng.uniform(0.2, 20.0)
    return rng.choice(
        [
            [float(rng.randrange(20)) for _ in range(rows - 1)] + [5.0],
            [scale * (i + 1) ** -alpha for i in range(rows)],
            [scale] * rows,
            [rng.choice([1.0, 2.0, 3.0, 7.0, 50.0]) for _ in range(rows)],
        ]
    )


def _model(rng: random.Random, gathers: list[float], most_bytes: int) -> CostModel:
    """Some tenths of a replica to hundreds in all; rows that cost by the row, by the byte, or both."""
    memory = ServiceTime(rng.choice([1e-4, 0.01, 0.1, 1.0]), *rng.choice([(1.0, 0.0), (0.0, 0.1), (1.0, 0.1)]))
    levels = rng.choice([0, 1, 1, 2, 3, 4])  # the last of them the caches', for all services
    held = sorted(rng.choice([0, 1, 10, 100, rng.randint(1, most_bytes)]) for _ in range(levels))
    hits = sorted(rng.choice([0.0, 0.1, 0.2, 0.5, 1.0]) for _ in range(levels))
    by_byte = rng.choice([0.0, 1.0])  # as much cheaper by the byte as by the row, or nothing by the byte at all
    caches = tuple(
        RowCache(size, hit * memory.per_row_s, by_byte * hit * memory.per_byte_s)
        for size, hit in zip(held, hits, strict=True)
    )
    priced = (caches[-1], caches[:-1]) if caches else (None, ())
    qps = 10 ** rng.uniform(-1, 2.5) / memory.rows_s(sum(gathers), sum(gathers) * 8)
    return CostModel(qps, memory, rng.choice([0, 1, 3, 10, 40, 300]), 0, *priced)


def _order(gathers: list[float], sizes: list[tuple[int, int]], time: ServiceTime, hot: bool) -> Order:
    """Rows of (bytes, bytes in the first service) by the time that a byte of them takes from memory."""
    rows = sorted(zip(gathers, sizes, strict=True), key=lambda row: -row[0] * time.rows_s(1, row[1][0]) / row[1][0])
    sums = [
        np.cumsum([0.0, *(g * size for g, size in each)]) for each in (((g, s[i]) for g, s in rows) for i in (0, 1))
    ]
    held = [np.cumsum([0, *(s[i] for _, s in rows)]) for i in (0, 1)]
    total = np.cumsum([0.0, *(g for g, _ in rows)])
    if len(set(sizes)) == 1:
        return Order(total, sizes[0][0], sizes[0][1] if hot else None)
    return Order(total, held[0], held[1] if hot else None, sums[0], sums[1] if hot else None)


SIZES = [(1, 1), (1, 4), (2, 7), (40, 128), (7, 1), (3, 2)]
"""Of a row in all services but the first, and in that."""


@pytest.mark.parametrize(("alike", "blocks"), [(True, None), (True, 4), (True, 10), (False, None)])
def test_the_least_cost_is_that_of_the_recurrence(
    monkeypatch: pytest.MonkeyPatch, alike: bool, blocks: int | None
) -> None:
    """Of rows of one size with no grid, and with grids that cut into every case; of several sizes with none, as beyond
    SMALL_ROWS rows these are cut to within a row.
    """
    monkeypatch.setattr(dp, "SMALL_ROWS", 10**9 if blocks is None else 0)
    monkeypatch.setattr(dp, "GRID_BLOCKS", blocks)
    rng, cached, shared = random.Random(23), 0, 0
    for _ in range(400):
        gathers = _gathers(rng, rng.randint(1, 25))
        sizes = [rng.choice(SIZES)] * len(gathers) if alike else [rng.choice(SIZES) for _ in gathers]
        hot = rng.random() < 0.5
        model, s_max = _model(rng, gathers, sum(size for _, size in sizes)), rng.randint(1, 6)
        order = _order(gathers, sizes, model.service_time, hot)
        found = dp.partition(order, model, s_max)
        assert (found.cost_bytes, len(found.replicas)) == quadratic(order, model, s_max)
        if model.row_levels:
            end = PricedOrder(order, model).times.cached
            cached += 0 < end < order.rows and any(begin > 0 and after <= end for begin, after in pairwise(found.cuts))
            shared += len(found.cuts) > 2 and any(begin < end < after for begin, after in pairwise(found.cuts))
    assert cached > 0 and shared > 0  # of cached rows alone, and not the first; with others behind them


def test_a_services_time_is_that_of_its_rows_one_by_one() -> None:
    rng = random.Random(3)
    for i in range(200):
        gathers = _gathers(rng, 12)
        sizes = [rng.choice(SIZES)] * 12 if i % 2 else [rng.choice(SIZES) for _ in gathers]
        model = _model(rng, gathers, sum(size for _, size in sizes))
        order = _order(gathers, sizes, model.service_time, rng.random() < 0.5)
        priced, plain = PricedOrder(order, model), PlainRows(order, model)
        for begin in range(12):
            for end in range(begin + 1, 13):
                found = priced.rows_s(np.array(begin), np.array(end))
                assert found == pytest.approx(plain.seconds(begin, end), abs=1e-12 * plain.seconds(0, 12))
                costs = priced.costs(np.array([begin]), np.array([end]))
                assert costs[0] == plain.cost(begin, end)


def test_large_rows_need_replicas_by_their_bytes() -> None:
    """512 bytes a row for 128: four times the bytes' time, as if a row had four times the price."""
    order, time = Order(zipf_cdf(50_000) * 4096, 512), ServiceTime(2e-5, 1e-8, 4e-10)
    by_byte, by_row = (
        CostModel(20_000.0, time, 10**5),
        CostModel(20_000.0, ServiceTime(2e-5, 1e-8 + 512 * 4e-10), 10**5),
    )
    found = dp.partition(order, by_byte, 6)
    assert found == dp.partition(order, by_row, 6)
    assert (
        found.cost_bytes
        > dp.partition(order, replace(by_byte, service_time=replace(time, per_byte_s=1e-10)), 6).cost_bytes
    )


def test_caches_spare_replicas_and_no_tier_is_over_the_brim() -> None:
    """What the optimum counts is what its services take, so that none needs a copy more than was planned."""
    gathers = zipf_cdf(50_000) * 4096
    plain = CostModel(20_000.0, ServiceTime(2e-5, 5e-8), 10**5)
    levels = RowCache(128 * 200, 5e-9), RowCache(128 * 2_000, 1e-8)
    cached = replace(plain, row_cache=RowCache(128 * 2_000, 3e-8), row_levels=levels)
    order = Order(gathers, 128)
    without, found = dp.partition(order, plain, 6), dp.partition(order, cached, 6)
    assert found.cost_bytes < without.cost_bytes and sum(found.replicas) < sum(without.replicas)
    hits, more = gathers[200], gathers[2_000]
    tiers = dp.cut_at(PricedOrder(order, cached), [2_000])
    assert tiers.rows_s[0] == pytest.approx(5e-9 * hits + 1e-8 * (more - hits))
    whole = dp.cut_at(PricedOrder(order, cached), [])
    assert whole.rows_s[0] == pytest.approx(3e-8 * more + 5e-8 * (gathers[-1] - more))
    assert all(
        replicas >= 20_000.0 * (2e-5 + seconds) * (1 - 1e-9)
        for replicas, seconds in zip(found.replicas, found.rows_s, strict=True)
    )
