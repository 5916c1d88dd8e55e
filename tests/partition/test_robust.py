"""Cuts where the profile may be off: the price against an integral, the cuts against all others, the bound."""

import math
import random
from dataclasses import replace
from itertools import combinations, pairwise

import numpy as np
import pytest

from repo_builder.errors import PlanError
from repo_builder.partition import robust
from repo_builder.partition.cost import CostModel, ServiceTime, replicas_for
from repo_builder.partition.dp import partition
from repo_builder.partition.order import Order
from repo_builder.partition.planner import make_plan
from repo_builder.partition.priced import PricedOrder
from repo_builder.partition.robust import mean_cost, mean_replicas, robust_cuts
from repo_builder.partition.worth import Worth, cut
from tests.partition.helpers import small_spec, zipf_cdf
from tests.partition.test_planner import HOTNESS, PROFILE, TABLES

ERRORS = np.linspace(-1, 1, 20_001)[1::2]  # the middles of 10,000 steps


@pytest.mark.parametrize("error", [0.01, 0.2, 0.5])
@pytest.mark.parametrize("load", [0.0, 0.3, 0.83, 0.99, 1.0, 1.7, 12.34, 1234.5])
def test_mean_replicas_are_those_of_many_errors(load: float, error: float) -> None:
    counts = [replicas_for(load * (1 + error * e)) for e in ERRORS]
    assert float(mean_replicas(np.array(load), error)) == pytest.approx(np.mean(counts), rel=2e-4)


def _random_order(rng: random.Random, rows: int) -> Order:
    steps = sorted(((i + 1) ** -rng.uniform(0.3, 2.0) * 10 for i in range(rows)), reverse=True)
    return Order(np.concatenate([[0.0], np.cumsum(steps)]), rng.choice([1, 4]), rng.choice([None, 8]))


def _random_model(rng: random.Random) -> CostModel:
    time = ServiceTime(rng.choice([1e-4, 0.1, 0.5]), rng.choice([0.01, 0.1, 1.0]))
    return CostModel(rng.uniform(0.5, 5), time, rng.choice([0, 1, 10]), rng.choice([0, 5]))


def _rows_s(order: Order, model: CostModel, begin: int, end: int) -> float:
    return model.service_time.per_row_s * float(order.gathers[end] - order.gathers[begin])


def _mean_by_hand(order: Order, model: CostModel, cuts: tuple[int, ...], error: float) -> float:
    total = 0.0
    for begin, end in pairwise(cuts):
        load = model.load(_rows_s(order, model, begin, end))
        held = int(order.bytes_between(np.array(begin), np.array(end)))
        total += float(mean_replicas(np.array(load), error)) * (held + model.min_memory_bytes) + model.service_bytes
    return total


def test_no_other_cuts_take_less_on_average() -> None:
    """Small orders, whose rows are all positions: against every way to cut them."""
    rng, differ = random.Random(3), 0
    for _ in range(200):
        order, model = _random_order(rng, rng.randint(1, 9)), _random_model(rng)
        s_max, error = rng.randint(1, 4), rng.choice([0.05, 0.2, 0.4])
        letter = partition(order, model, s_max)
        found = robust_cuts(PricedOrder(order, model), s_max, error, [letter.cuts])
        least = min(
            _mean_by_hand(order, model, (0, *inner, order.rows), error)
            for services in range(1, min(s_max, order.rows) + 1)
            for inner in combinations(range(1, order.rows), services - 1)
        )
        assert found.mean_bytes == pytest.approx(least) and found.gap == 0
        assert found.mean_bytes == pytest.approx(_mean_by_hand(order, model, found.cuts, error))
        differ += found.cuts != letter.cuts
    assert differ > 10


def test_on_a_grid_the_least_lies_between_the_bound_and_what_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the same with every row a position; with so few blocks that they matter."""
    rng, loose = random.Random(9), 0
    for _ in range(25):
        order, model = _random_order(rng, 300), _random_model(rng)
        known = [partition(order, model, 4).cuts]
        exact = robust_cuts(PricedOrder(order, model), 4, 0.2, known)
        for name, value in {"SMALL_ROWS": 10, "BLOCKS": 12, "MOST_BLOCKS": 40, "NEAR_ROWS": 1}.items():
            monkeypatch.setattr(robust, name, value)
        found = robust_cuts(PricedOrder(order, model), 4, 0.2, known)
        monkeypatch.undo()
        assert found.bound_bytes <= exact.mean_bytes * (1 + 1e-9) and exact.mean_bytes <= found.mean_bytes * (1 + 1e-9)
        assert found.mean_bytes <= mean_cost(PricedOrder(order, model), known[0], 0.2) * (1 + 1e-12)
        loose += found.gap > 1e-6
    assert loose > 0


def test_many_rows_come_close_to_the_bound() -> None:
    order = Order(zipf_cdf(300_000) * 4096, 128)
    model = CostModel(20_000.0, ServiceTime(3e-5, 2e-8), 10**6, 10**5)
    found = robust_cuts(PricedOrder(order, model), 8, 0.2, [partition(order, model, 8).cuts])
    assert found.gap < 0.01


def test_a_service_that_holds_much_is_not_loaded_to_the_brim() -> None:
    """By the letter the coldest service's one replica is full; off by a sixth it takes a copy more of most rows."""
    order = Order(zipf_cdf(200_000) * 20_000, 128)
    model = CostModel(10_000.0, ServiceTime(3e-5, 1.4e-8), 4 * 10**5)
    by_letter, safe = cut(order, model, 8, Worth(0.01)), cut(order, model, 8, Worth(0.01, profile_error=0.2))
    loads = [model.load(_rows_s(order, model, *found.taken.cuts[-2:])) for found in (by_letter, safe)]
    assert loads[0] / math.ceil(loads[0]) > 0.99 and loads[1] <= 1 / 1.2 + 0.01
    slower = replace(model, target_qps=model.target_qps * 1.15)
    costs = [sum(_costs(slower, order, found.taken.cuts)) for found in (by_letter, safe)]
    assert costs[1] < 0.75 * costs[0]
    assert safe.robust is not None and safe.robust.mean_bytes < safe.least_mean_bytes
    assert by_letter.robust is None


def _costs(model: CostModel, order: Order, cuts: tuple[int, ...]) -> list[int]:
    return [model.cost(128 * (end - begin), _rows_s(order, model, begin, end)) for begin, end in pairwise(cuts)]


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_an_error_out_of_range_is_refused(share: float) -> None:
    with pytest.raises(PlanError, match="profile_error: expected a share of at least 0"):
        make_plan(small_spec(TABLES), HOTNESS, PROFILE, "tiered", 2, profile_error=share)


def test_the_papers_recurrence_takes_the_profile_to_the_letter() -> None:
    spec, letter = small_spec(TABLES), make_plan(small_spec(TABLES), HOTNESS, PROFILE, "tiered", 4)
    assert make_plan(spec, HOTNESS, PROFILE, "tiered", 4, profile_error=0.2) == letter
