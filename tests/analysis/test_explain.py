"""Explanations: the figures of the recurrence, and no move that would be cheaper."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.image import imread

from elasticrec.tables_plan import explanation
from repo_builder.analysis.explain import explain
from repo_builder.analysis.plan_plots import plot_explanation
from repo_builder.model.row_rule import RowRule
from repo_builder.partition.accesses import ModelAccesses
from repo_builder.partition.cost import CostModel, replicas_for
from repo_builder.partition.plan import Grouping
from repo_builder.partition.planner import plan_accesses
from repo_builder.partition.table_accesses import Floats, TableAccesses
from tests.analysis.helpers import PROFILE, SPEC, accesses
from tests.partition.helpers import plain_cost, small_spec

ACCESSES = accesses()
GROUPINGS: tuple[Grouping, ...] = ("tiered", "per_table")


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(GROUPINGS),
    st.floats(500, 50_000),
    st.integers(0, 200_000),
    st.sampled_from([1.0, 0.8]),
    st.integers(2, 8),
    st.sampled_from([RowRule(), RowRule(hot="fp32", cold="int8")]),
)
def test_figures_are_those_of_the_recurrence_and_no_move_is_cheaper(
    grouping: Grouping, target_qps: float, min_memory: int, utilisation: float, s_max: int, rule: RowRule
) -> None:
    """With a format for all rows, and with smaller rows but in the first service."""
    spec = replace(SPEC, serving=replace(SPEC.serving, target_qps=target_qps), rows=rule)
    held = ModelAccesses(tuple(replace(table, rule=rule) for table in ACCESSES.tables))
    profile = replace(PROFILE, min_memory_bytes=min_memory)
    plan = plan_accesses(spec, held, profile, grouping, s_max, utilisation)
    model = CostModel(target_qps / utilisation, profile.service_time, min_memory)
    chains = explain(spec, held, profile, plan, utilisation)
    sizes = [16, 16 if rule.cold == "fp32" else 12]  # of the first service and of the others, of dim 4
    assert sorted(name for chain in chains for name in chain.tables) == ["A", "B_0", "B_1"]
    for chain in chains:
        assert len(chain.cuts) == len(chain.services) - 1
        cut_tables = ACCESSES.tables if grouping == "tiered" else [_table(chain.tables[0])]
        prefix = ACCESSES.order(cut_tables, PROFILE.service_time).gathers
        positions = [0, *(cut.position for cut in chain.cuts), len(prefix) - 1]
        for i, cut in enumerate(chain.cuts):
            begin, position, end = positions[i : i + 3]
            now = _cost(model, sizes, prefix, begin, position, end)
            assert cut.left.cost_bytes + cut.right.cost_bytes == now
            for move in cut.moves:
                assert move.cost_bytes == _cost(model, sizes, prefix, begin, position + move.rows, end) - now >= 0
            assert cut.joined_bytes == _cost(model, sizes, prefix, begin, end) - now >= 0


def _cost(model: CostModel, sizes: list[int], prefix: Floats, *positions: int) -> float:
    return sum(
        plain_cost(model, sizes[begin > 0] * (end - begin), 5e-8 * float(prefix[end] - prefix[begin]))
        for begin, end in pairwise(positions)
    )


def _table(name: str) -> TableAccesses:
    return next(table for table in ACCESSES.tables if table.table == name)


@pytest.mark.parametrize("grouping", GROUPINGS)
def test_words_and_picture(grouping: Grouping, tmp_path: Path) -> None:
    busy = replace(SPEC, serving=replace(SPEC.serving, target_qps=30_000.0))
    plan = plan_accesses(busy, ACCESSES, PROFILE, grouping, 4)
    chains = explain(busy, ACCESSES, PROFILE, plan, 1.0)
    told = explanation(chains)
    for chain in chains:
        for cut in chain.cuts:
            assert f"{cut.left.name} | {cut.right.name}: cut after {cut.position:,} row" in told
    assert told.count("without this cut") == sum(len(chain.cuts) for chain in chains) > 0
    plot_explanation("t", ACCESSES, chains, tmp_path / "explain.png")
    assert imread(tmp_path / "explain.png").shape[1] > 1000


def test_a_move_between_formats_says_both() -> None:
    rule = RowRule(hot="fp32", cold="int8")
    busy = replace(SPEC, serving=replace(SPEC.serving, target_qps=30_000.0), rows=rule)
    held = ModelAccesses(tuple(replace(table, rule=rule) for table in ACCESSES.tables))
    plan = plan_accesses(busy, held, PROFILE, "tiered", 4)
    told = explanation(explain(busy, held, PROFILE, plan, 1.0))
    hot, cold = plan.embedding_services[:2]
    assert f"these rows as fp32 in {hot.replicas} replicas instead of int8 in {cold.replicas}" in told


def test_merged_cuts_are_told_with_what_they_would_save() -> None:
    """The figures of the recurrence: how much less its cuts take, and what a service had to save."""
    busy = replace(SPEC, serving=replace(SPEC.serving, target_qps=30_000.0))
    cheap = replace(PROFILE, min_memory_bytes=100)
    plan, least = (plan_accesses(busy, ACCESSES, cheap, "tiered", 8, 1.0, share) for share in (0.1, 0.0))
    (chain,) = explain(busy, ACCESSES, cheap, plan, 1.0, 0.1)
    assert len(chain.services) == len(plan.embedding_services) < len(least.embedding_services)
    assert chain.weighed.merged == len(least.embedding_services) - len(plan.embedding_services)
    assert chain.weighed.more_bytes == plan.embedding_memory_bytes - least.embedding_memory_bytes
    assert chain.weighed.more_bytes < chain.weighed.merged * chain.weighed.service_bytes
    told = explanation([chain])
    assert f"merged: the least memory has {len(least.embedding_services)} services, cut after " in told
    assert "a service must save" in told and "10.00% of the least memory" in told
    assert "merged" not in explanation(explain(busy, ACCESSES, cheap, least, 1.0))


def test_no_cut_is_told() -> None:
    plan = plan_accesses(SPEC, ACCESSES, PROFILE, "tiered", 1)
    assert "no cut pays" in explanation(explain(SPEC, ACCESSES, PROFILE, plan, 1.0))


def test_where_the_profile_may_be_off_figures_are_means_and_no_move_is_cheaper() -> None:
    """Every row is a position there: moves are compared with the optimum, and the words say what it was made for."""
    busy = small_spec([{"name": "A", "rows": 200, "pooling": 128, "count": 2}], target_qps=30_000.0)
    few, cheap = accesses(busy), replace(PROFILE, min_memory_bytes=100)
    plan = plan_accesses(busy, few, cheap, "tiered", 4, 1.0, 0.001, 0.2)
    (chain,) = explain(busy, few, cheap, plan, 1.0, 0.001, 0.2)
    robust = chain.weighed.robust
    assert robust is not None and robust.gap == 0 and len(chain.cuts) == len(plan.embedding_services) - 1 > 0
    worth = chain.weighed.service_bytes
    for cut in chain.cuts:
        for segment in (cut.left, cut.right):
            counts = [replicas_for(segment.load * (1 + 0.2 * e / 5000)) for e in range(-4999, 5000, 2)]
            assert segment.mean_replicas == pytest.approx(sum(counts) / len(counts), rel=1e-3)
        assert all(move.cost_bytes >= -1 for move in cut.moves) and cut.joined_bytes >= worth - 1
    told = explanation([chain])
    assert "where the profile is off by up to 20% either way; these cuts are at most 0.00% above the least" in told
    assert "by the profile to the letter (--profile-error 0) the least memory has" in told
