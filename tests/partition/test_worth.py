"""Cuts that are worth a container: exact under the price of a service, and none that could be joined for less."""

import random
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from repo_builder.errors import PlanError
from repo_builder.partition.cost import CostModel, FrontTime, Profile, ServiceTime
from repo_builder.partition.order import Order
from repo_builder.partition.planner import make_plan
from repo_builder.partition.worth import Worth, cut, worth_of
from tests.partition.helpers import plain_cost, quadratic, zipf_cdf
from tests.partition.test_planner import HOTNESS, PROFILE, TABLES, small_spec


def _random_case(rng: random.Random) -> tuple[Order, CostModel]:
    rows = rng.randint(1, 25)
    gathers = np.cumsum([0.0, *((i + 1) ** -rng.uniform(0.2, 2.0) * 10 for i in range(rows))])
    gathers = np.concatenate([[0.0], np.cumsum(np.sort(np.diff(gathers))[::-1])])
    order = Order(gathers, rng.choice([1, 4]), rng.choice([None, 8]))
    time = ServiceTime(rng.choice([1e-4, 0.1, 1.0]), rng.choice([0.01, 0.1, 1.0]))
    return order, CostModel(rng.uniform(0.5, 5), time, rng.choice([0, 1, 10]))


def test_the_cuts_are_the_optimum_under_the_price_of_a_service() -> None:
    """Against the recurrence with that price: a share of the recurrence's own least memory, and what calls take."""
    rng, merged = random.Random(23), 0
    for _ in range(300):
        (order, model), s_max = _random_case(rng), rng.randint(1, 6)
        worth = Worth(rng.choice([0.0, 0.01, 0.1, 0.5]), rng.choice([0, 3, 100]))
        found = cut(order, model, s_max, worth)
        least = quadratic(order, model, s_max)
        service_bytes = round(worth.share * least[0]) + worth.call_bytes
        assert (found.least.cost_bytes, len(found.least.replicas)) == least
        assert found.service_bytes == service_bytes
        priced = replace(model, service_bytes=service_bytes)
        assert (found.taken.cost_bytes, len(found.taken.replicas)) == quadratic(order, priced, s_max)
        assert 0 <= found.more_bytes <= found.merged * service_bytes
        merged += found.merged > 0
    assert merged > 50


def test_no_two_neighbours_could_be_joined_for_less_than_a_service_is_worth() -> None:
    order, model = Order(zipf_cdf(50_000) * 4096, 128), CostModel(100_000.0, ServiceTime(2e-5, 5e-8), 10**4)
    found = cut(order, model, 16, Worth(0.01, 1000))
    assert 1 < len(found.taken.replicas) < len(found.least.replicas)

    def cost(begin: int, end: int) -> float:
        return plain_cost(model, 128 * (end - begin), 5e-8 * float(order.gathers[end] - order.gathers[begin]))

    cuts = found.taken.cuts
    for begin, middle, end in zip(cuts, cuts[1:], cuts[2:], strict=False):
        assert cost(begin, end) - cost(begin, middle) - cost(middle, end) >= found.service_bytes
    plain = sum(cost(begin, end) for begin, end in pairwise(cuts))
    assert plain - found.least.cost_bytes == found.more_bytes < found.merged * found.service_bytes


def test_a_service_must_save_the_front_ends_that_its_calls_take() -> None:
    """By hand: 3,000 calls a second of 0.1 ms take 0.3 of a front end's time, and so much of its memory."""
    spec = small_spec(TABLES)
    profile = replace(PROFILE, front_time=FrontTime(per_call_s=1e-4))
    front_bytes = spec.model.dense.parameter_bytes + 5000
    assert worth_of(spec, profile, 3000.0, 0.02) == Worth(0.02, round(0.3 * front_bytes))
    assert worth_of(spec, profile, 3000.0, 0.0) == Worth()  # the paper's recurrence
    assert Worth(0.02, 7).service_bytes(1000) == 27


def test_dearer_services_are_fewer_and_nothing_merges_none() -> None:
    spec, cheap = small_spec(TABLES), Profile("p", ServiceTime(1e-5, 5e-8), 10, PROFILE.dense_service_time)
    plans = [make_plan(spec, HOTNESS, cheap, "tiered", 8, least_saving=share) for share in (0.0, 0.01, 0.2, 0.9)]
    counts = [len(plan.embedding_services) for plan in plans]
    memory = [plan.embedding_memory_bytes for plan in plans]
    assert counts == sorted(counts, reverse=True) and counts[0] > counts[2] > counts[3]
    assert memory == sorted(memory)
    assert plans[0] == make_plan(spec, HOTNESS, cheap, "tiered", 8)


@pytest.mark.parametrize("share", [-0.1, 1.0, 7.0])
def test_a_share_out_of_range_is_an_error(share: float) -> None:
    with pytest.raises(PlanError, match="least_saving: expected a share of at least 0"):
        make_plan(small_spec(TABLES), HOTNESS, PROFILE, "tiered", 2, least_saving=share)
