"""Whole plans: every row once, all gathers, the recurrence's cost, refusals."""

import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest

from repo_builder.errors import PlanError
from repo_builder.model.row_rule import RowRule
from repo_builder.partition.cost import CostModel, FrontTime, Profile, RowCache, ServiceTime
from repo_builder.partition.order import Order
from repo_builder.partition.plan import Grouping, Plan, load_plan, plan_to_json
from repo_builder.partition.planner import make_plan, model_wise_plan
from repo_builder.spec import Spec
from tests.partition.helpers import DENSE_TIME, GivenHotness, PlainRows, quadratic, small_spec, zipf_cdf

PROFILE = Profile("fast", ServiceTime(2e-5, 5e-8), 5000, DENSE_TIME)
TABLES = [{"name": "A", "rows": 90, "pooling": 128}, {"name": "B", "rows": 60, "pooling": 512, "count": 2}]
HOTNESS = GivenHotness({"A": zipf_cdf(90), "": zipf_cdf(60, 0.7)})
GROUPINGS: tuple[Grouping, ...] = ("tiered", "per_table")


@pytest.mark.parametrize("grouping", GROUPINGS)
def test_every_row_once_and_every_gather(grouping: Grouping) -> None:
    spec = small_spec(TABLES)
    plan = make_plan(spec, HOTNESS, PROFILE, grouping, 4)
    for table in spec.dlrm.tables:
        shards = [shard for service in plan.services for shard in service.shards if shard.table == table.name]
        assert shards[0].begin == 0 and shards[-1].end == table.rows
        assert all(hot.end == cold.begin for hot, cold in pairwise(shards))
    assert sum(service.gathers for service in plan.services) == pytest.approx(32 * spec.dlrm.index_columns, rel=1e-12)
    for service in plan.embedding_services:
        assert service.memory_bytes == 5000 + 16 * sum(shard.rows for shard in service.shards)
        assert service.replicas * service.qps >= 3000 * (1 - 1e-8)
    assert plan.services[0].kind == "dense" and plan.memory_bytes > plan.embedding_memory_bytes


def test_tiers_cost_what_the_recurrence_over_all_rows_costs() -> None:
    spec = small_spec(TABLES)
    plan = make_plan(spec, HOTNESS, PROFILE, "tiered", 3)
    rows = np.concatenate([np.diff(HOTNESS.cdf(table)) * table.pooling * 32 for table in spec.dlrm.tables])
    prefix = np.concatenate([[0.0], np.cumsum(np.sort(rows)[::-1])])
    model = CostModel(3000.0, PROFILE.service_time, 5000)
    assert (plan.embedding_memory_bytes, len(plan.embedding_services)) == quadratic(Order(prefix, 16), model, 3)
    assert [service.name for service in plan.embedding_services] == ["tier0", "tier1", "tier2"]


def test_per_table_costs_what_each_tables_recurrence_costs() -> None:
    spec = small_spec(TABLES)
    plan = make_plan(spec, HOTNESS, PROFILE, "per_table", 3)
    model = CostModel(3000.0, PROFILE.service_time, 5000)
    expected = sum(
        quadratic(Order(HOTNESS.cdf(table) * table.pooling * 32, 16), model, 3)[0] for table in spec.dlrm.tables
    )
    assert plan.embedding_memory_bytes == expected
    assert plan.services[1].name == "A_s0"


TWO_FORMATS = RowRule(hot="fp32", cold="int8")
ROW_BYTES = {"fp32": 16, "int8": 12}  # of dim 4


@pytest.mark.parametrize("grouping", GROUPINGS)
def test_the_hottest_service_stores_rows_hot_and_all_others_cold(grouping: Grouping) -> None:
    """Each with the memory of its own rows; tiers and tables cost what the recurrence costs with both sizes."""
    spec = replace(small_spec(TABLES), rows=TWO_FORMATS)
    plan = make_plan(spec, HOTNESS, PROFILE, grouping, 3)
    for service in plan.embedding_services:
        hottest = service.name == "tier0" or service.name.endswith("_s0")
        assert service.row_dtype == ("fp32" if hottest else "int8")
        rows = sum(shard.rows for shard in service.shards)
        assert service.memory_bytes == 5000 + ROW_BYTES[service.row_dtype] * rows
    model, expected = CostModel(3000.0, PROFILE.service_time, 5000), 0.0
    rows_of = [np.diff(HOTNESS.cdf(table)) * table.pooling * 32 for table in spec.dlrm.tables]
    for rows in [np.concatenate(rows_of)] if grouping == "tiered" else rows_of:
        prefix = np.concatenate([[0.0], np.cumsum(np.sort(rows)[::-1])])
        expected += quadratic(Order(prefix, 12, 16), model, 3)[0]
    assert plan.embedding_memory_bytes == expected
    assert "int8" in {service.row_dtype for service in plan.embedding_services}
    assert load_plan_text(plan) == plan


def load_plan_text(plan: Plan) -> Plan:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "plan.json"
        path.write_text(plan_to_json(plan))
        return load_plan(path)


def test_what_is_not_cut_is_stored_hot() -> None:
    """One service for all rows, of a plan as of the whole model."""
    spec = replace(small_spec(TABLES), rows=TWO_FORMATS)
    for plan in (make_plan(spec, HOTNESS, PROFILE, "tiered", 1), model_wise_plan(spec, HOTNESS, PROFILE)):
        (service,) = plan.embedding_services
        assert (service.row_dtype, service.memory_bytes) == ("fp32", 5000 + 16 * 210)


def test_a_services_time_is_that_of_its_stored_bytes() -> None:
    """Rows that fit into the processor's caches as int8, and in part in float32: the rest comes from memory."""
    time = ServiceTime(2e-5, 5e-8, 1e-9)
    profile = replace(PROFILE, service_time=time, row_cache=RowCache(12 * 210, 1e-8, 2e-10))
    plans = [make_plan(replace(small_spec(TABLES), rows=rule), HOTNESS, profile, "tiered", 1) for rule in ONE_FORMAT]
    fast, slow = (plan.embedding_services[0] for plan in plans)
    gathers = 32 * (128 + 2 * 512)
    hottest = [np.diff(HOTNESS.cdf(table)) * table.pooling * 32 for table in small_spec(TABLES).dlrm.tables]
    hits = float(np.sort(np.concatenate(hottest))[::-1][: 12 * 210 // 16].sum())
    assert 1 / fast.qps == pytest.approx(2e-5 + (1e-8 + 12 * 2e-10) * gathers)
    assert 1 / slow.qps == pytest.approx(2e-5 + (1e-8 + 16 * 2e-10) * hits + (5e-8 + 16 * 1e-9) * (gathers - hits))
    assert (fast.gathered_bytes, slow.gathered_bytes) == (pytest.approx(12 * gathers), pytest.approx(16 * gathers))
    for plan, rule in zip(plans, ONE_FORMAT, strict=True):
        whole = model_wise_plan(replace(small_spec(TABLES), rows=rule), HOTNESS, profile)
        assert whole.embedding_services[0].qps == pytest.approx(plan.embedding_services[0].qps)


ONE_FORMAT = RowRule("int8", "int8"), RowRule()


def test_tables_of_several_dims_are_cut_by_their_own_bytes() -> None:
    """Tiers cost what the recurrence costs over all rows by gathers and byte; a table alone what it costs alone."""
    spec = small_spec(TABLES)
    dims = [4, 32, 2]
    spec = Spec.of_dlrm(
        spec.name,
        replace(spec.form, tables=tuple(replace(t, dim=dim) for t, dim in zip(spec.form.tables, dims, strict=True))),
        spec.access,
        spec.serving,
        spec.fleet,
    )
    model = CostModel(3000.0, PROFILE.service_time, 5000)
    gathers = [np.diff(HOTNESS.cdf(table)) * table.pooling * 32 for table in spec.dlrm.tables]
    sizes = [np.full(table.rows, 4 * table.dim) for table in spec.dlrm.tables]
    order = np.argsort(-np.concatenate([g / s for g, s in zip(gathers, sizes, strict=True)]), kind="stable")
    held = [np.concatenate([[0], np.cumsum(np.concatenate(values)[order])]) for values in (gathers, sizes)]
    tiers = make_plan(spec, HOTNESS, PROFILE, "tiered", 3)
    gathered = np.cumsum([0.0, *(np.concatenate(gathers) * np.concatenate(sizes))[order]])
    best = quadratic(Order(held[0], held[1].astype(np.int64), None, gathered), model, 3)
    assert (tiers.embedding_memory_bytes, len(tiers.embedding_services)) == best
    alone = [
        quadratic(Order(np.concatenate([[0.0], np.cumsum(g)]), int(s[0])), model, 3)[0]
        for g, s in zip(gathers, sizes, strict=True)
    ]
    assert make_plan(spec, HOTNESS, PROFILE, "per_table", 3).embedding_memory_bytes == sum(alone)


def test_a_tier_leaves_out_tables_without_rows_in_it() -> None:
    spec = small_spec([{"name": "A", "rows": 50, "pooling": 4096}, {"name": "B", "rows": 5000, "pooling": 1}])
    hotness = GivenHotness({"A": np.linspace(0, 1, 51), "B": np.linspace(0, 1, 5001)})
    plan = make_plan(spec, hotness, PROFILE, "tiered", 4)
    assert {shard.table for shard in plan.services[1].shards} == {"A"}


def test_what_the_cuts_count_is_what_the_services_take() -> None:
    """The hottest rows are cached, all others not: no tier needs a replica more than it was cut for."""
    profile = replace(PROFILE, row_cache=RowCache(16 * 40, 1e-8), row_levels=(RowCache(16 * 20, 1e-9),))
    plan = make_plan(small_spec(TABLES), HOTNESS, profile, "tiered", 3)
    assert len(plan.embedding_services) == 3
    gathers = [np.diff(HOTNESS.cdf(table)) * table.pooling * 32 for table in small_spec(TABLES).dlrm.tables]
    order = np.concatenate([[0.0], np.cumsum(np.sort(np.concatenate(gathers))[::-1])])
    model = CostModel(3000.0, PROFILE.service_time, 5000, row_cache=profile.row_cache, row_levels=profile.row_levels)
    assert plan.embedding_memory_bytes == quadratic(Order(order, 16), model, 3)[0]
    rows, end = PlainRows(Order(order, 16), model), 0
    for service in plan.embedding_services:
        begin, end = end, end + sum(shard.rows for shard in service.shards)
        assert service.qps == pytest.approx(1 / (2e-5 + rows.seconds(begin, end)))
        assert service.replicas == max(1, math.ceil(3000 / service.qps))


def test_dense_service_by_hand() -> None:
    """3 -> 8 -> 4 below; 3 vectors make 3 pairs; 7 -> 5 -> 1 above."""
    spec = small_spec([{"name": "A", "rows": 9, "pooling": 1}, {"name": "B", "rows": 9, "pooling": 1}])
    assert spec.model.dense.parameter_bytes == 4 * ((24 + 8) + (32 + 4) + (35 + 5) + (5 + 1))
    assert spec.dense_flops == 2 * 32 * (24 + 32 + 35 + 5 + 3 * 4)


@pytest.mark.parametrize("grouping", GROUPINGS)
def test_a_front_end_takes_time_for_its_ids_and_calls(grouping: Grouping) -> None:
    spec, dense_s = small_spec(TABLES), DENSE_TIME.seconds(small_spec(TABLES).dense_flops)
    plan = make_plan(spec, HOTNESS, replace(PROFILE, front_time=FrontTime(1e-8, 3e-4)), grouping, 4)
    expected_s = dense_s + 1e-8 * 32 * spec.dlrm.index_columns + 3e-4 * len(plan.embedding_services)
    assert plan.services[0].qps == pytest.approx(1 / expected_s)
    assert plan.services[0].replicas >= math.ceil(3000 * expected_s) > math.ceil(3000 * dense_s)


@pytest.mark.parametrize("name", ["A_s0", "tier0", "dense", "router"])
def test_a_spec_may_have_the_name_of_a_service(name: str) -> None:
    """Its models are called NAME and NAME_service."""
    hotness = GivenHotness({"": zipf_cdf(9)})
    spec = small_spec([{"name": "A", "rows": 9, "pooling": 1}], name)
    assert make_plan(spec, hotness, PROFILE, "tiered", 2).spec == name


@pytest.mark.parametrize("s_max", [0, 17])
def test_s_max_out_of_range_is_an_error(s_max: int) -> None:
    with pytest.raises(PlanError, match="s_max: expected 1 to 16"):
        make_plan(small_spec(TABLES), HOTNESS, PROFILE, "tiered", s_max)


def test_a_bad_cdf_is_an_error() -> None:
    with pytest.raises(PlanError, match="table A: cdf: expected 91 values"):
        make_plan(small_spec(TABLES), GivenHotness({"": zipf_cdf(60)}), PROFILE, "tiered", 2)
