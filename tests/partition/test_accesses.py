"""Accesses that keep what they merged give the plans of those that do not."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from repo_builder.access.powerlaw import PowerLawHotness
from repo_builder.errors import PlanError
from repo_builder.model.row_rule import RowRule
from repo_builder.partition.accesses import model_accesses
from repo_builder.partition.cost import Profile, ServiceTime
from repo_builder.partition.merging import merged_order
from repo_builder.partition.plan import Grouping
from repo_builder.partition.planner import make_plan, plan_accesses
from repo_builder.spec import Spec
from tests.partition.helpers import DENSE_TIME, GivenHotness, small_spec, zipf_cdf

SPEC = small_spec([{"name": "A", "rows": 90, "pooling": 128}, {"name": "B", "rows": 60, "pooling": 512, "count": 2}])
HOTNESS = GivenHotness({"A": zipf_cdf(90), "": zipf_cdf(60, 0.7)})

TIME = ServiceTime(2e-5, 5e-8, 1e-9)
PROFILE = Profile("fast", TIME, 5000, DENSE_TIME)
GROUPINGS: tuple[Grouping, ...] = ("tiered", "per_table")


def test_prefixes_are_the_merged_ones_and_kept_only_when_asked() -> None:
    for keep in (True, False):
        accesses = model_accesses(SPEC, HOTNESS, keep)
        first = accesses.order(accesses.tables, TIME)
        assert np.array_equal(first.gathers, merged_order(accesses.tables, TIME).gathers)
        assert (accesses.order(accesses.tables, TIME).gathers is first.gathers) == keep
        b, like_b = (accesses.order(accesses.tables[i : i + 1], TIME) for i in (1, 2))
        assert (b.gathers is like_b.gathers) == keep


@pytest.mark.parametrize("dims", [(8, 8, 8), (8, 16, 8)])
def test_what_is_kept_serves_rows_stored_by_any_rule(dims: Sequence[int]) -> None:
    tables = [replace(table, dim=dim) for table, dim in zip(SPEC.dlrm.tables, dims, strict=True)]
    form = replace(SPEC.dlrm, tables=tuple(tables))
    kept = model_accesses(Spec.of_dlrm(SPEC.name, form, SPEC.access, SPEC.serving, SPEC.fleet), HOTNESS, keep=True)
    for rule in (RowRule("fp32", "fp32"), RowRule("fp32", "int8"), RowRule("int4", "int4"), RowRule("fp32", "fp32")):
        stored = kept.stored_by(rule)
        found, expected = stored.order(stored.tables, TIME), merged_order(stored.tables, TIME)
        assert np.array_equal(found.gathers, expected.gathers)
        assert np.array_equal(found.row_bytes, expected.row_bytes)
        assert np.array_equal(found.hot_row_bytes, expected.hot_row_bytes)


@pytest.mark.parametrize("grouping", GROUPINGS)
def test_plans_do_not_depend_on_what_was_planned_before(grouping: Grouping) -> None:
    kept = model_accesses(SPEC, HOTNESS, keep=True)
    for s_max in (4, 1, 3, 4):
        planned = plan_accesses(SPEC, kept, PROFILE, grouping, s_max)
        assert planned == make_plan(SPEC, HOTNESS, PROFILE, grouping, s_max)


def test_a_bad_cdf_is_an_error() -> None:
    with pytest.raises(PlanError, match="table A: cdf: expected 91 values"):
        model_accesses(SPEC, GivenHotness({"": zipf_cdf(60)}))


def test_rows_within_a_size_are_the_first_of_the_order() -> None:
    """By the order itself, and by division where all rows are alike."""
    spec = small_spec([{"name": "A", "rows": 30, "pooling": 2}, {"name": "B", "rows": 20, "pooling": 9}])
    for dims in ((4, 4), (4, 16)):
        tables = tuple(replace(table, dim=dim) for table, dim in zip(spec.dlrm.tables, dims, strict=True))
        accesses = model_accesses(
            Spec.of_dlrm(spec.name, replace(spec.form, tables=tables), spec.access, spec.serving, spec.fleet),
            PowerLawHotness(0.9, 0),
        )
        before = accesses.order(accesses.tables, TIME).bytes_between(np.array(0), np.arange(51))
        for size in range(0, int(before[-1]) + 20, 7):
            assert accesses.rows_within(size, TIME) == int((before <= size).sum()) - 1
