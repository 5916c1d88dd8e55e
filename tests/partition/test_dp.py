"""The optimum against brute force, at every size of grid; its invariants at scale."""

import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from repo_builder.errors import PlanError
from repo_builder.partition import chain, dp
from repo_builder.partition.cost import CostModel, RowCache, ServiceTime
from repo_builder.partition.order import Order
from repo_builder.partition.priced import PricedOrder
from tests.partition.helpers import brute_force, quadratic, zipf_cdf

FREE = ServiceTime(1e-4, 0.02)  # of a row, whatever its bytes


def _order(
    row_gathers: list[float],
    row_bytes: int | list[int] = 1,
    hot_row_bytes: int | list[int] | None = None,
    time: ServiceTime = FREE,
) -> Order:
    """The rows by time and byte; `row_bytes` of all, or of each as given, and those in the first service."""
    if isinstance(row_bytes, int):
        assert not isinstance(hot_row_bytes, list)
        return Order(np.concatenate([[0.0], np.cumsum(sorted(row_gathers, reverse=True))]), row_bytes, hot_row_bytes)
    hot = hot_row_bytes if isinstance(hot_row_bytes, list) else row_bytes
    price = time if time.rows_s(1, 1) else FREE
    rows = sorted(
        zip(row_gathers, row_bytes, hot, strict=True), key=lambda row: -row[0] * price.rows_s(1, row[1]) / row[1]
    )
    gathers, sizes, hot_sizes = np.cumsum([(0.0, 0, 0), *rows], axis=0).T
    gathered, hot_gathered = (np.cumsum([0.0, *(row[0] * row[i] for row in rows)]) for i in (1, 2))
    if not hot_row_bytes:
        return Order(gathers, sizes.astype(np.int64), None, gathered)
    return Order(gathers, sizes.astype(np.int64), hot_sizes.astype(np.int64), gathered, hot_gathered)


def _check(order: Order, model: CostModel, s_max: int, expected: tuple[float, int]) -> dp.Partition:
    found = dp.partition(order, model, s_max)
    assert (found.cost_bytes, len(found.replicas)) == expected
    assert found.cuts[0] == 0 and found.cuts[-1] == order.rows
    assert all(begin < end for begin, end in zip(found.cuts, found.cuts[1:], strict=False))
    return found


models = st.builds(
    CostModel,
    target_qps=st.sampled_from([1.0, 2.0, 5.0, 10.0, 7.3]),
    service_time=st.builds(ServiceTime, st.sampled_from([1e-4, 0.1, 1.0]), st.sampled_from([0.0, 0.003, 0.02, 0.1])),
    min_memory_bytes=st.sampled_from([0, 1, 3, 10, 40]),
)
sizes = st.one_of(st.sampled_from([1, 2, 7]), st.lists(st.sampled_from([1, 2, 3, 8]), min_size=8, max_size=8))
counts = st.lists(st.sampled_from([0, 0, 1, 1, 2, 3, 5, 8, 40]), min_size=1, max_size=8).filter(any)


@settings(max_examples=300, deadline=None)
@given(counts, sizes, models, st.integers(1, 9))
def test_equals_brute_force_over_all_cut_sets(
    hits: list[int], row_bytes: int | list[int], model: CostModel, s_max: int
) -> None:
    """With rows of one size and of several."""
    order = _order([float(hit) for hit in hits], row_bytes if isinstance(row_bytes, int) else row_bytes[: len(hits)])
    _check(order, model, s_max, brute_force(order, model, s_max))


two_formats = st.one_of(
    st.tuples(st.sampled_from([1, 2, 7]), st.sampled_from([1, 2, 3, 8, 30])),
    st.tuples(*2 * [st.lists(st.sampled_from([1, 2, 3, 8]), min_size=8, max_size=8)]),
)


@settings(max_examples=300, deadline=None)
@given(counts, two_formats, models, st.integers(1, 9))
def test_two_formats_equal_brute_force_over_all_cut_sets(
    hits: list[int], sizes: tuple[int | list[int], int | list[int]], model: CostModel, s_max: int
) -> None:
    """The first service's rows smaller or larger than the others', alike or each as it comes."""
    cold, hot = (size if isinstance(size, int) else size[: len(hits)] for size in sizes)
    order = _order([float(hit) for hit in hits], cold, hot)
    _check(order, model, s_max, brute_force(order, model, s_max))


def _random_rows(rng: random.Random, rows: int) -> list[float]:
    alpha, scale = rng.uniform(0.2, 2.0), rng.uniform(0.2, 20.0)
    return rng.choice(
        [
            [float(rng.randrange(20)) for _ in range(rows - 1)] + [5.0],
            [scale * (i + 1) ** -alpha for i in range(rows)],  # Zipf
            [scale] * rows,  # uniform
            [scale] + [0.0] * (rows - 1),  # one row takes everything
            [scale * (i % 2) for i in range(rows - 1)] + [scale],  # half the rows are never read
            [rng.choice([1.0, 2.0, 3.0, 7.0, 50.0]) for _ in range(rows)],
        ]
    )


@pytest.mark.parametrize("blocks", [None, 4, 10])
def test_equals_the_recurrence_on_random_rows(monkeypatch: pytest.MonkeyPatch, blocks: int | None) -> None:
    """With no grid, and with grids so coarse that their bounds cut into every case."""
    monkeypatch.setattr(dp, "SMALL_ROWS", 10**9 if blocks is None else 0)
    monkeypatch.setattr(dp, "GRID_BLOCKS", blocks)
    rng, rising = random.Random(7), 0
    for _ in range(250):
        order = _order(_random_rows(rng, rng.randint(1, 30)), rng.choice([1, 2, 7]))
        model, s_max = _random_model(rng, order), rng.randint(1, 6)
        found = _check(order, model, s_max, quadratic(order, model, s_max))
        rising += any(left < right for left, right in zip(found.replicas, found.replicas[1:], strict=False))
    assert rising > 0  # the cases in which a hotter service has fewer replicas are among them


@pytest.mark.parametrize("blocks", [None, 4, 10])
def test_two_formats_equal_the_recurrence_on_random_rows(monkeypatch: pytest.MonkeyPatch, blocks: int | None) -> None:
    """With few replicas and with many; with no grid, and with grids that cut into every case."""
    monkeypatch.setattr(dp, "SMALL_ROWS", 10**9 if blocks is None else 0)
    monkeypatch.setattr(dp, "GRID_BLOCKS", blocks)
    rng, full, least = random.Random(19), 0, 0
    for i in range(600):
        order = _order(_random_rows(rng, rng.randint(1, 25)), *rng.choice(_TWO_SIZES))
        model, s_max = (_many_replicas if i % 3 == 0 else _random_model)(rng, order), rng.randint(1, 6)
        found = _check(order, model, s_max, quadratic(order, model, s_max))
        full += len(found.cuts) > 2 and found.replicas[0] < found.replicas[1]
        least += len(found.cuts) > 2 and found.cuts[1] == 1
    assert full > 0 and least > 0  # first services that end where their own replicas are full, and after a row


_TWO_SIZES = [(1, 1), (1, 4), (1, 2), (1, 20), (2, 7), (40, 128), (7, 1), (3, 2)]
"""Of a row in all services but the first, and in that."""


def test_a_format_for_the_first_service_moves_its_cut_to_fewer_rows() -> None:
    """Rows of 128 bytes there and 40 elsewhere: dearer than 40 everywhere, and cheaper than 128 everywhere."""
    gathers, model = zipf_cdf(100_000) * 4096, CostModel(20_000.0, ServiceTime(2e-5, 5e-8), 10**5)
    orders = Order(gathers, 40), Order(gathers, 40, 128), Order(gathers, 128)
    small, mixed, large = (dp.partition(order, model, 8) for order in orders)
    assert small.cost_bytes < mixed.cost_bytes < large.cost_bytes
    assert mixed.cuts[1] < min(small.cuts[1], large.cuts[1])
    assert mixed == dp.partition(Order(gathers, 40, 128), model, 8)
    assert dp.partition(Order(gathers, 40, 40), model, 8) == small


def _random_model(rng: random.Random, order: Order) -> CostModel:
    per_gather = rng.choice([0.003, 0.01, 0.1, 1.0])
    qps = min(rng.choice([1.0, 2.0, 10.0, rng.uniform(0.5, 20)]), 60 / (per_gather * float(order.gathers[-1])))
    time = ServiceTime(rng.choice([1e-4, 0.01, 0.1, 1.0]), per_gather)
    return CostModel(qps, time, rng.choice([0, 1, 3, 10, 40]))


def test_rows_of_several_sizes_equal_the_recurrence() -> None:
    """Up to SMALL_ROWS rows, whatever their sizes."""
    rng = random.Random(11)
    for _ in range(150):
        gathers = _random_rows(rng, rng.randint(1, 30))
        order = _order(gathers, [rng.choice([1, 4, 16, 64]) for _ in gathers])
        model, s_max = _random_model(rng, order), rng.randint(1, 6)
        _check(order, model, s_max, quadratic(order, model, s_max))


@pytest.mark.parametrize("blocks", [16, 128])
def test_many_rows_of_several_sizes_miss_the_optimum_by_a_few_rows(
    monkeypatch: pytest.MonkeyPatch, blocks: int
) -> None:
    """Beyond SMALL_ROWS the optimum is missed by no more than a row's bytes in each replica, and rarely by that."""
    monkeypatch.setattr(dp, "SMALL_ROWS", 0)
    monkeypatch.setattr(dp, "GRID_BLOCKS", blocks)
    monkeypatch.setattr(dp, "NEAR_ROWS", 2)
    rng, missed = random.Random(13), 0
    for i in range(40):
        gathers = _random_rows(rng, rng.randint(100, 200))
        order = _order(gathers, [rng.choice([1, 4, 16, 64]) for _ in gathers])
        model, s_max = _random_model(rng, order), rng.randint(1, 5)
        if i % 2:  # hot rows in caches
            model = replace(model, row_cache=RowCache(1000, 2e-3), row_levels=(RowCache(300, 1e-3),))
        found, best = dp.partition(order, model, s_max), quadratic(order, model, s_max)[0]
        assert best <= found.cost_bytes <= best + 64 * sum(found.replicas)
        missed += found.cost_bytes > best
    assert missed <= 4


def test_cost_never_rises_with_s_max_and_is_reproducible() -> None:
    order = Order(zipf_cdf(100_000) * 4096, 128)
    model = CostModel(20_000.0, ServiceTime(2e-5, 5e-8), 10**5)
    found = [dp.partition(order, model, s_max) for s_max in range(1, 17)]
    costs = [partition.cost_bytes for partition in found]
    assert costs == sorted(costs, reverse=True) and costs[-1] < costs[0]
    assert found[-1] == dp.partition(Order(order.gathers.copy(), 128), model, 16)


def test_grid_changes_nothing_at_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    order = Order(zipf_cdf(20_000, 0.9) * 4096, 128)
    model = CostModel(20_000.0, ServiceTime(2e-5, 5e-8), 10**5)
    costs = []
    for small_rows, blocks in ((10**9, 0), (0, 64), (0, 1024)):
        monkeypatch.setattr(dp, "SMALL_ROWS", small_rows)
        monkeypatch.setattr(dp, "GRID_BLOCKS", blocks)
        costs.append(dp.partition(order, model, 5).cost_bytes)
    assert costs == [costs[0]] * 3


def test_a_rising_pair_can_be_optimal() -> None:
    """Rounding to whole rows: 1 then 2 replicas hold 3 + 6 gathers exactly, 2 then 1 do not."""
    order = _order([3.0, 2.0, 2.0, 2.0])
    model = CostModel(1.0, ServiceTime(1e-9, 1 / 3), 0)
    found = _check(order, model, 2, brute_force(order, model, 2))
    assert found.cuts == (0, 1, 4) and found.replicas == (1, 2)


@pytest.mark.parametrize("s_max", [0, 17, -1])
def test_s_max_out_of_range_is_an_error(s_max: int) -> None:
    with pytest.raises(PlanError, match="s_max: expected 1 to 16"):
        dp.partition(_order([1.0]), CostModel(1.0, ServiceTime(1.0, 1.0), 1), s_max)


def test_costs_beyond_64_bits_are_an_error() -> None:
    with pytest.raises(PlanError, match="lower the traffic"):
        dp.partition(_order([1.0, 1.0], 128), CostModel(1e18, ServiceTime(1.0, 1.0), 1), 4)


def _many_replicas(rng: random.Random, order: Order) -> CostModel:
    """Some 10 to a million replicas in all, so that rows are worth from a small part of one to thousands."""
    per_gather = 10 ** rng.uniform(1, 6) / float(order.gathers[-1])
    return CostModel(1.0, ServiceTime(rng.choice([1e-4, 0.1, 1.0]), per_gather), rng.choice([0, 1, 10, 300]))


@pytest.mark.parametrize("blocks", [None, 8])
def test_with_many_replicas_it_equals_the_recurrence(monkeypatch: pytest.MonkeyPatch, blocks: int | None) -> None:
    monkeypatch.setattr(dp, "SMALL_ROWS", 10**9 if blocks is None else 0)
    monkeypatch.setattr(dp, "GRID_BLOCKS", blocks)
    rng, cold = random.Random(17), 0
    for _ in range(150):
        rows = rng.randint(1, 40)
        order = _order([(i + 1) ** -rng.choice([0.0, 0.5, 1.0, 3.0]) for i in range(rows)])
        model, s_max = _many_replicas(rng, order), rng.randint(1, 5)
        found = _check(order, model, s_max, quadratic(order, model, s_max))
        cold += any(left < right for left, right in zip(found.replicas, found.replicas[1:], strict=False))
    assert cold > 0


class _Counted(CostModel):
    """Counts the services whose load is asked for, and has enough after so many."""

    asked = 0

    def loads(self, gathers: np.ndarray) -> np.ndarray:
        _Counted.asked += gathers.size
        assert _Counted.asked < 10**8, "too much work"
        return super().loads(gathers)


@pytest.mark.parametrize("replicas", [2_000, 20_000, 10**9])
def test_the_work_ends_however_many_replicas_there_are(monkeypatch: pytest.MonkeyPatch, replicas: int) -> None:
    """For few rows it is bounded by them; for many the number of replicas does not matter for long."""
    monkeypatch.setattr(chain, "MOST_STEPS", 10**6, raising=False)
    for rows in (60, 2_000):
        order = Order(zipf_cdf(rows, 0.6) * 640, 128)
        model = _Counted(1.0, ServiceTime(1e-9, replicas / 640), 10**5)
        monkeypatch.setattr(_Counted, "asked", 0)
        found = dp.partition(order, model, 16)
        assert sum(found.replicas) >= replicas
        if rows == 60:
            assert found.cost_bytes == quadratic(order, CostModel(1.0, model.service_time, 10**5), 16)[0]


def test_lots_of_replicas_cost_less_than_a_lot_more_of_each_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dp, "SMALL_ROWS", 0)
    order = Order(zipf_cdf(3_000, 0.6) * 640, 128)
    model = CostModel(1.0, ServiceTime(1e-9, 200 / 640), 10**4)
    best = dp.partition(order, model, 6)
    tried: list[float] = []

    def at_first_too_much(priced: PricedOrder, s_max: int, bounds: object) -> tuple[int, list[int]]:
        tried.append(model.target_qps / priced.model.target_qps)
        if tried[-1] < 4:
            raise chain.TooManySteps
        return chain.best_chain(priced, s_max, None)

    monkeypatch.setattr(dp, "best_chain", at_first_too_much)
    found = dp.partition(order, model, 6)
    assert tried == [1, 4]
    held = order.rows * 128 + len(best.replicas) * 10**4
    assert best.cost_bytes < found.cost_bytes <= best.cost_bytes + 3 * held
