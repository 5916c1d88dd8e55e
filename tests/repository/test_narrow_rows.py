"""Rows of a few numbers, as of a factorization machine's linear terms: no format makes them larger than they came."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest

from elasticrec.building import build
from repo_builder.access.load import load_hotness
from repo_builder.model.types import RowDtype, RowFormat
from repo_builder.partition.planner import make_plan, model_wise_plan
from repo_builder.repository.built_fleet import load_fleet
from repo_builder.repository.manifest import Layout
from repo_builder.spec import Spec, parse_spec
from tests.integration.models import CHEAP


def narrow(dim: int, rows: object) -> Spec:
    document: dict[str, Any] = {
        "name": "narrow",
        "dense_features": 3,
        "bottom_mlp": [8, dim],
        "top_mlp": [8, 1],
        "tables": [
            {"name": "items", "rows": 500, "dim": dim, "pooling": 3},
            {"name": "one", "rows": 1, "dim": dim, "pooling": 2, "mode": "mean"},
        ],
        "weights": {"source": "random", "seed": 1},
        "access": {"source": "powerlaw", "locality": 0.8},
        "serving": {"target_qps": 400, "batch": 8},
        "rows": rows,
    }
    return parse_spec(document, Path("narrow.yaml"))


@pytest.mark.parametrize("dtype", get_args(RowDtype))
def test_no_format_takes_more_bytes_than_rows_that_come(dtype: RowDtype) -> None:
    for dim in range(1, 40):
        came = RowFormat(dim)
        asked, stored = RowFormat(dim, dtype), came.stored_as(dtype)
        assert stored.row_bytes == min(came.row_bytes, asked.row_bytes)
        assert stored == (asked if asked.row_bytes < came.row_bytes else came)


@pytest.mark.parametrize("layout", ["single", "fleet", "model-wise"])
@pytest.mark.parametrize(
    ("dim", "rows", "row_bytes"), [(1, "int8", 4), (2, "int8", 8), (2, "int4", 5), (3, "int8", 11)]
)
def test_what_is_built_has_the_bytes_that_are_planned(
    dim: int, rows: str, row_bytes: int, layout: Layout, tmp_path: Path
) -> None:
    spec = narrow(dim, rows)
    hotness = load_hotness(spec)
    if layout == "model-wise":
        plan = model_wise_plan(spec, hotness, CHEAP)
    else:
        plan = make_plan(spec, hotness, CHEAP, "tiered", 3)
        assert len(plan.embedding_services) > 1
    assert sum(service.memory_bytes for service in plan.embedding_services) == (
        501 * row_bytes + len(plan.embedding_services) * CHEAP.min_memory_bytes
    )
    built = build(spec, tmp_path / "out", plan, layout=layout, shard_backend="native")
    weights = [entry.size_bytes for entry in built.manifest.files if entry.path.endswith("weights.bin")]
    assert sum(weights) == 501 * row_bytes
    assert built.manifest.proof is not None
    assert (built.manifest.proof.score_error is None) == (row_bytes == 4 * dim)


def test_wide_and_narrow_tables_go_together(tmp_path: Path) -> None:
    """In one service, each in what is smaller for it."""
    spec = narrow(2, {"hot": "fp32", "cold": "int8"})
    plan = make_plan(spec, load_hotness(spec), CHEAP, "tiered", 3)
    cold = replace(plan, services=tuple(replace(each, row_dtype="int8") for each in plan.services))
    build(spec, tmp_path / "out", cold, layout="fleet")
    for service in load_fleet(tmp_path / "out").shards:
        held = 8 * sum(shard.rows for shard in service.planned.shards)
        assert service.planned.memory_bytes == held + CHEAP.min_memory_bytes
