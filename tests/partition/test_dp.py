"""The optimum against brute force, at every size of grid; its invariants at scale."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from repo_builder.errors import PlanError
from repo_builder.partition import dp
from repo_builder.partition.cost import CostModel, ServiceTime
from tests.partition.helpers import brute_force, quadratic, zipf_cdf


def _prefix(row_gathers: list[float]) -> NDArray[np.float64]:
    return np.concatenate([[0.0], np.cumsum(sorted(row_gathers, reverse=True))])


def _check(prefix: NDArray[np.float64], model: CostModel, s_max: int, expected: tuple[float, int]) -> dp.Partition:
    found = dp.partition(prefix, model, s_max)
    if model.ceiling:
        assert (found.cost_bytes, len(found.replicas)) == expected
    else:
        assert found.cost_bytes == pytest.approx(expected[0], rel=1e-11)
    assert found.cuts[0] == 0 and found.cuts[-1] == len(prefix) - 1
    assert all(begin < end for begin, end in zip(found.cuts, found.cuts[1:], strict=False))
    return found


models = st.builds(
    CostModel,
    target_qps=st.sampled_from([1.0, 2.0, 5.0, 10.0, 7.3]),
    service_time=st.builds(ServiceTime, st.sampled_from([1e-4, 0.1, 1.0]), st.sampled_from([0.0, 0.003, 0.02, 0.1])),
    row_bytes=st.sampled_from([1, 2, 7]),
    min_memory_bytes=st.sampled_from([0, 1, 3, 10, 40]),
    ceiling=st.booleans(),
)
counts = st.lists(st.sampled_from([0, 0, 1, 1, 2, 3, 5, 8, 40]), min_size=1, max_size=8).filter(any)


@settings(max_examples=300, deadline=None)
@given(counts, models, st.integers(1, 9))
def test_equals_brute_force_over_all_cut_sets(hits: list[int], model: CostModel, s_max: int) -> None:
    prefix = _prefix([float(hit) for hit in hits])
    _check(prefix, model, s_max, brute_force(prefix, model, s_max))


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
@pytest.mark.parametrize("ceiling", [True, False])
def test_equals_the_recurrence_on_random_rows(
    monkeypatch: pytest.MonkeyPatch, blocks: int | None, ceiling: bool
) -> None:
    """With no grid, and with grids so coarse that their bounds cut into every case."""
    monkeypatch.setattr(dp, "SMALL_ROWS", 10**9 if blocks is None else 0)
    monkeypatch.setattr(dp, "GRID_BLOCKS", blocks)
    rng, rising = random.Random(7), 0
    for _ in range(250):
        prefix = _prefix(_random_rows(rng, rng.randint(1, 30)))
        per_gather = rng.choice([0.003, 0.01, 0.1, 1.0])
        qps = min(rng.choice([1.0, 2.0, 10.0, rng.uniform(0.5, 20)]), 60 / (per_gather * float(prefix[-1])))
        time = ServiceTime(rng.choice([1e-4, 0.01, 0.1, 1.0]), per_gather)
        model = CostModel(qps, time, rng.choice([1, 2, 7]), rng.choice([0, 1, 3, 10, 40]), ceiling)
        s_max = rng.randint(1, 6)
        found = _check(prefix, model, s_max, quadratic(prefix, model, s_max))
        rising += any(left < right for left, right in zip(found.replicas, found.replicas[1:], strict=False))
    assert rising > 0 or not ceiling  # the cases in which a hotter service has fewer replicas are among them


def test_cost_never_rises_with_s_max_and_is_reproducible() -> None:
    prefix = zipf_cdf(100_000) * 4096
    model = CostModel(20_000.0, ServiceTime(2e-5, 5e-8), 128, 10**5)
    found = [dp.partition(prefix, model, s_max) for s_max in range(1, 17)]
    costs = [partition.cost_bytes for partition in found]
    assert costs == sorted(costs, reverse=True) and costs[-1] < costs[0]
    assert found[-1] == dp.partition(prefix.copy(), model, 16)


@pytest.mark.parametrize("ceiling", [True, False])
def test_grid_changes_nothing_at_scale(monkeypatch: pytest.MonkeyPatch, ceiling: bool) -> None:
    prefix = zipf_cdf(20_000, 0.9) * 4096
    model = CostModel(20_000.0, ServiceTime(2e-5, 5e-8), 128, 10**5, ceiling)
    costs = []
    for small_rows, blocks in ((10**9, 0), (0, 64), (0, 1024)):
        monkeypatch.setattr(dp, "SMALL_ROWS", small_rows)
        monkeypatch.setattr(dp, "GRID_BLOCKS", blocks)
        costs.append(dp.partition(prefix, model, 5).cost_bytes)
    assert costs == pytest.approx([costs[0]] * 3, rel=0 if ceiling else 1e-12)


def test_cost_without_ceiling_is_a_lower_bound() -> None:
    prefix = zipf_cdf(50_000) * 4096
    whole = dp.partition(prefix, CostModel(20_000.0, ServiceTime(2e-5, 5e-8), 128, 10**5), 8)
    real = dp.partition(prefix, CostModel(20_000.0, ServiceTime(2e-5, 5e-8), 128, 10**5, ceiling=False), 8)
    assert real.cost_bytes < whole.cost_bytes


def test_a_rising_pair_can_be_optimal() -> None:
    """Rounding to whole rows: 1 then 2 replicas hold 3 + 6 gathers exactly, 2 then 1 do not."""
    prefix = _prefix([3.0, 2.0, 2.0, 2.0])
    model = CostModel(1.0, ServiceTime(1e-9, 1 / 3), 1, 0)
    found = _check(prefix, model, 2, brute_force(prefix, model, 2))
    assert found.cuts == (0, 1, 4) and found.replicas == (1, 2)


@pytest.mark.parametrize("s_max", [0, 17, -1])
def test_s_max_out_of_range_is_an_error(s_max: int) -> None:
    with pytest.raises(PlanError, match="s_max: expected 1 to 16"):
        dp.partition(_prefix([1.0]), CostModel(1.0, ServiceTime(1.0, 1.0), 1, 1), s_max)


def test_costs_beyond_64_bits_are_an_error() -> None:
    with pytest.raises(PlanError, match="lower the traffic"):
        dp.partition(_prefix([1.0, 1.0]), CostModel(1e18, ServiceTime(1.0, 1.0), 128, 1), 4)
