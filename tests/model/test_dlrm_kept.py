"""Which tables of a DLRM by its numbers stay in the dense graph, and what that makes of its model and its spec."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from repo_builder.access.powerlaw import PowerLawHotness
from repo_builder.errors import PlanError, SpecError
from repo_builder.model.dlrm import Dlrm, DlrmTable, Weights, dlrm_model
from repo_builder.model.types import BATCH, Columns
from repo_builder.partition.cost import DEFAULT_PROFILE
from repo_builder.partition.plan import check_plan
from repo_builder.partition.planner import make_plan
from repo_builder.spec import Spec, parse_spec

TABLES = (
    DlrmTable("small", 100, 8, 2, "mean"),
    DlrmTable("large", 100_000, 8, 3),
    DlrmTable("edge", 32_768, 8, 1),  # 1 MiB
    DlrmTable("quantized", 40_000, 8, 1, dtype="int8"),  # 0.6 MiB as it comes, 1.2 as float32
    DlrmTable("tiny", 3, 8, 1),
)
MODEL = Dlrm(4, (8,), (1,), TABLES, "int64", Weights("random"))


def test_tables_under_a_mebibyte_stay_by_default() -> None:
    assert {MODEL.tables[i].name: reason for i, reason in MODEL.kept.items()} == {
        "small": "its 3200 bytes are under 1048576 (keep_under_bytes)",
        "tiny": "its 96 bytes are under 1048576 (keep_under_bytes)",
    }
    assert MODEL.cut == (1, 2, 3)


def test_where_all_are_small_none_stays_by_default_but_a_bound_is_one() -> None:
    small = replace(MODEL, tables=TABLES[::4])
    assert small.cut == (0, 1)
    assert replace(small, keep_under_bytes=1000).cut == (0,)
    kept = replace(small, tables=(replace(TABLES[0], keep="dense"), TABLES[4]))
    assert kept.cut == (1,) and list(kept.kept.values()) == ["keep: small is dense in the spec"]


def test_a_table_may_say_so_itself() -> None:
    said = replace(MODEL, tables=(replace(TABLES[0], keep="shard"), replace(TABLES[1], keep="dense"), *TABLES[2:]))
    assert list(said.kept) == [1, 4]
    assert replace(said, keep_under_bytes=0).cut == (0, 2, 3, 4)


def test_the_model_is_cut_at_the_others_alone() -> None:
    """Ids of all tables are in `indices`, which the dense graph reads too."""
    model, whole = dlrm_model("m", MODEL), dlrm_model("m", replace(MODEL, keep_under_bytes=0))
    assert [table.name for table in model.tables] == ["large", "edge", "quantized"]
    assert [(lookup.table, lookup.ids.layout) for lookup in model.lookups] == [
        (0, Columns(2, 3, 8)),
        (1, Columns(5, 1, 8)),
        (2, Columns(6, 1, 8)),
    ]
    assert [(kept.name, kept.ids and kept.ids.layout) for kept in model.kept] == [
        ("small", Columns(0, 2, 8)),
        ("tiny", Columns(7, 1, 8)),
    ]
    assert [tensor.name for tensor in model.dense.inputs] == ["dense", "indices"] and model.dense.batched
    assert model.dense.parameter_bytes == whole.dense.parameter_bytes + 4 * 8 * 103
    assert model.dense.flops_per_row == whole.dense.flops_per_row + 3 * 3000  # three ids of tables that stay
    assert not model.has_means(0) and whole.has_means(0)


def document(**changes: Any) -> dict[str, Any]:
    return {
        "name": "m",
        "dense_features": 4,
        "bottom_mlp": [8],
        "top_mlp": [1],
        "tables": [
            {"name": "large", "rows": 100_000, "dim": 8, "pooling": 3},
            {"name": "small", "rows": 100, "dim": 8, "pooling": 2, "count": 2},
        ],
        "weights": {"source": "random"},
        "access": {"source": "powerlaw", "locality": 0.9},
        "serving": {"target_qps": 10},
        **changes,
    }


def parsed(**changes: Any) -> Spec:
    return parse_spec(document(**changes), Path("m.yaml"))


def test_a_spec_says_it_as_that_of_a_model_file_does() -> None:
    assert [kept.name for kept in parsed().model.kept] == ["small_0", "small_1"]
    assert parsed(keep_under_bytes=0).model.kept == ()
    large, small = document()["tables"]
    assert parsed(tables=[large, {**small, "keep": "shard"}]).model.kept == ()
    kept = parsed(keep_under_bytes=0, tables=[large, {**small, "keep": "dense"}]).model.kept
    assert [each.name for each in kept] == ["small_0", "small_1"]


def test_queries_and_accesses_are_of_all_tables() -> None:
    queried = parsed().queried
    assert [table.name for table in queried.tables] == ["large", "small_0", "small_1"]
    assert queried == parsed(keep_under_bytes=0).model
    assert queried.lookups[2].shape == (BATCH, 8)


def test_a_plan_of_before_says_to_plan_again() -> None:
    """It has a shard of a table that now stays dense."""
    spec, before = parsed(), parsed(keep_under_bytes=0)
    plan = make_plan(before, PowerLawHotness(0.9, 0), DEFAULT_PROFILE, "tiered", 1)
    with pytest.raises(PlanError, match=r"expected a table of the spec, got 'small_0', which stays dense: plan again"):
        check_plan(plan, spec)


ENTRY = {"name": "t", "rows": 100, "dim": 8, "pooling": 1}


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"keep_under_bytes": -1}, "keep_under_bytes: "),
        ({"keep_under_bytes": "all"}, "keep_under_bytes: "),
        ({"keep_under_bytes": None}, "keep_under_bytes: "),
        ({"tables": [{**ENTRY, "keep": "gpu"}]}, "tables[0].keep: "),
        (
            {"tables": [{**ENTRY, "keep": "dense"}]},
            "tables: expected a table that is cut into shards, got keep: dense in all; take it out of the largest",
        ),
        (
            {"keep_under_bytes": 10_000_000},
            "keep_under_bytes: expected a table of at least as many bytes, which is cut, got 10000000, and all stay in "
            "the dense graph; the largest has 3200000",
        ),
        (
            {"keep_under_bytes": 4000, "tables": [{**ENTRY, "rows": 1000, "keep": "dense"}, {**ENTRY, "name": "u"}]},
            "keep_under_bytes: expected a table of at least as many bytes",
        ),
    ],
)
def test_what_leaves_nothing_to_cut_is_refused(changes: Mapping[str, Any], problem: str) -> None:
    with pytest.raises(SpecError) as caught:
        parsed(**changes)
    assert len(caught.value.problems) == 1
    assert caught.value.problems[0].startswith(f"m.yaml: {problem}")
