"""The measured models: each alone in its repository, with the rows that were asked for."""

import json
from pathlib import Path

import numpy as np
import pytest

from repo_builder.access.powerlaw import PowerLawHotness
from repo_builder.profiling.models import LEAST_BAG, Models, Served, build_models
from repo_builder.profiling.points import STANDARD
from repo_builder.profiling.queries import dense_load, dense_query
from repo_builder.repository.configs import ShardBackend
from repo_builder.repository.descriptions import MAX_BATCH_ROWS
from repo_builder.spec import Spec, parse_spec
from tests.integration.models import document
from tests.toy_source import toy_spec


@pytest.fixture(scope="module")
def spec() -> Spec:
    """Tables of 3,000, 517, 517 rows and one; its weights need not exist: they are not used."""
    return parse_spec(document(), Path("small.yaml"))


def shard(served: Served) -> dict:
    """What it says of itself, and that its file holds as many numbers, from one aligned matrix to the next."""
    folder = served.repository / served.name / "1"
    described = json.loads((folder / "shard.json").read_text())
    weights = np.fromfile(folder / "weights.bin", np.float32)
    numbers = 0
    for matrix in described["matrices"]:
        numbers += -numbers % 16 + matrix["rows"] * matrix["dim"]
    assert weights.size == numbers and weights.any()
    return described


def unit(bags: int, columns: int, matrix: int = 0, weighted: int = 0) -> dict:
    return {"matrix": matrix, "bags": bags, "columns": columns, "weighted": weighted}


def test_a_service_of_all_tables_with_the_same_share_of_each(spec: Spec, tmp_path: Path) -> None:
    models = build_models(spec, "tiered", 403, "python", tmp_path)
    assert models.held_rows == {0: 299, 1: 51, 2: 51, 3: 1}  # a tenth
    groups = [{"group": 0, "max_rows": MAX_BATCH_ROWS, "units": [unit(4, 4 * LEAST_BAG)]}]
    assert shard(models.rows) == {"matrices": [{"rows": 402, "dim": 8, "dtype": "fp32"}], "groups": groups}
    assert shard(models.empty) == {"matrices": [{"rows": 4, "dim": 8, "dtype": "fp32"}], "groups": groups}
    for served in (models.rows, models.empty, models.dense):
        assert [path.name for path in served.repository.iterdir()] == [served.name]
        assert (served.repository / served.name / "config.pbtxt").is_file()
    assert (models.dense.repository / "small_dense" / "1" / "model.onnx").is_file()


def test_the_largest_table_alone_and_whole_where_rows_suffice(spec: Spec, tmp_path: Path) -> None:
    models = build_models(spec, "per_table", 10_000, "python", tmp_path)
    assert models.held_rows == {0: 3000}
    described = shard(models.rows)
    assert described["matrices"] == [{"rows": 3000, "dim": 8, "dtype": "fp32"}]
    assert described["groups"][0]["units"] == [unit(1, LEAST_BAG)]
    assert shard(models.empty)["groups"][0]["units"] == [unit(4, 4 * LEAST_BAG)]


@pytest.mark.parametrize(("backend", "batches"), [("native", False), ("python", True)])
def test_embedding_services_are_configured_as_a_fleets(
    backend: ShardBackend, batches: bool, spec: Spec, tmp_path: Path
) -> None:
    """Native ones take one call after another, which the fan-out router has joined; the dense one batches."""
    models = build_models(spec, "tiered", 40, backend, tmp_path)
    for served, batching in ((models.rows, batches), (models.empty, batches), (models.dense, True)):
        config = (served.repository / served.name / "config.pbtxt").read_text()
        assert ("dynamic_batching" in config) == batching, served.name


def test_a_shard_takes_queries_of_every_size_that_is_measured() -> None:
    assert max(*STANDARD.gathers, STANDARD.row_gathers) <= MAX_BATCH_ROWS * LEAST_BAG


def toy(kind: str, folder: Path) -> Models:
    spec, _ = toy_spec(kind)
    return build_models(spec, "tiered", 63, "python", folder)


def test_a_model_of_several_groups_and_dims_is_measured_as_it_is_served(tmp_path: Path) -> None:
    """A tenth of 630 rows: items 500, tags 40, users 90; the rows of one dim in a matrix of their own."""
    models = toy("toy", tmp_path)
    assert models.held_rows == {0: 50, 1: 4, 2: 9}
    described = shard(models.rows)
    assert [(each["rows"], each["dim"]) for each in described["matrices"]] == [(9, 16), (50, 8), (4, 4)]
    assert [group["group"] for group in described["groups"]] == [0, 1]
    assert (models.dense.repository / "toy_dense" / "1" / "model.onnx").is_file()


@pytest.mark.parametrize("kind", ["toy", "rows", "ids"])
def test_the_dense_layers_are_asked_as_router_and_services_would(kind: str, tmp_path: Path) -> None:
    """ONNX Runtime takes the query; it gives the outputs of so many rows."""
    from onnxruntime import InferenceSession

    models = toy(kind, tmp_path)
    query = dense_query(models.design, models.tensors(PowerLawHotness(0.9, 0), 6))
    file = models.dense.repository / "toy_dense" / "1" / "model.onnx"
    session = InferenceSession(file, providers=["CPUExecutionProvider"])
    ranks = {each.name: len(each.shape) for each in session.get_inputs()}
    assert ranks.keys() == query.keys()
    answer = session.run(None, {name: array.reshape(array.shape[: ranks[name]]) for name, array in query.items()})
    assert [len(output) for output in answer] == [6, 6]


def test_perf_analyzer_makes_floats_of_rows_itself(spec: Spec, tmp_path: Path) -> None:
    """And is told those of a model whose queries cannot be joined, whole."""
    hotness = PowerLawHotness(0.9, 0)
    for folder in ("a", "b", "small"):
        (tmp_path / folder).mkdir()
    small = build_models(spec, "tiered", 40, "python", tmp_path / "small")
    assert dense_load(small, hotness, tmp_path, 32, 4).input_data == "random"
    assert dense_load(toy("rows", tmp_path / "a"), hotness, tmp_path, 32, 4).rows == 32
    load = dense_load(toy("toy", tmp_path / "b"), hotness, tmp_path, 32, 4)
    assert load.rows == 1
    (written,) = json.loads(Path(load.input_data).read_text())["data"]
    assert written["price"]["shape"] == [32, 3]
