"""The measured models: each alone in its repository, with the rows that were asked for."""

import json
from pathlib import Path

import numpy as np
import pytest

from repo_builder.profiling.effort import STANDARD
from repo_builder.profiling.models import LEAST_POOLING, Model, build_models
from repo_builder.repository.descriptions import MAX_BATCH_ROWS
from repo_builder.spec import Spec, parse_spec
from tests.integration.models import document

BOUNDS = {"columns": 4 * LEAST_POOLING, "max_batch_rows": MAX_BATCH_ROWS}


@pytest.fixture(scope="module")
def spec() -> Spec:
    """Tables of 3,000, 517, 517 rows and one; its weights need not exist: they are not used."""
    return parse_spec(document(), Path("small.yaml"))


def shard(model: Model) -> dict:
    folder = model.repository / model.name / "1"
    described = json.loads((folder / "shard.json").read_text())
    weights = np.fromfile(folder / "weights.bin", np.float32)
    assert weights.size == described["rows"] * described["dim"] and weights.any()
    return described


def test_a_service_of_all_tables_with_the_same_share_of_each(spec: Spec, tmp_path: Path) -> None:
    models = build_models(spec, "tiered", 403, "python", tmp_path)
    assert models.tables == spec.tables
    assert models.held_rows == (299, 51, 51, 1)  # a tenth
    assert shard(models.rows) == {"rows": 402, "dim": 8, "tables": 4, **BOUNDS}
    assert shard(models.empty) == {"rows": 4, "dim": 8, "tables": 4, **BOUNDS}
    for model in (models.rows, models.empty, models.dense):
        assert [path.name for path in model.repository.iterdir()] == [model.name]
        assert (model.repository / model.name / "config.pbtxt").is_file()
    assert (models.dense.repository / "small_dense" / "1" / "model.onnx").is_file()


def test_the_largest_table_alone_and_whole_where_rows_suffice(spec: Spec, tmp_path: Path) -> None:
    models = build_models(spec, "per_table", 10_000, "python", tmp_path)
    assert [table.name for table in models.tables] == ["users"]
    assert models.held_rows == (3000,)
    assert shard(models.rows) == {"rows": 3000, "dim": 8, "tables": 1, **BOUNDS, "columns": LEAST_POOLING}
    assert shard(models.empty)["tables"] == 4


def test_a_shard_takes_queries_of_every_size_that_is_measured() -> None:
    assert max(*STANDARD.gathers, STANDARD.end_gathers) <= MAX_BATCH_ROWS * LEAST_POOLING
