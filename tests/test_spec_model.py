"""A spec that names a model file: what it may say, and what is told of mistakes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from repo_builder.errors import InputError
from repo_builder.export.dlrm.source import open_source
from repo_builder.model.row_rule import RowRule
from repo_builder.model.source import KEEP_UNDER_BYTES, ModelFile
from repo_builder.spec import Access, Serving, load_spec, parse_spec

TRAFFIC = {"access": {"source": "powerlaw", "locality": 0.9}, "serving": {"target_qps": 5}}


def document(**more: Any) -> dict[str, Any]:
    return {"name": "m", "model": {"source": "onnx", "path": "m.onnx"}, **TRAFFIC, **more}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds m.onnx: two look-ups, `big` of 300,000 rows and `small` of 9, both of one float."""
    path = tmp_path_factory.mktemp("spec")
    ids = [helper.make_tensor_value_info(name, TensorProto.INT64, ["n"]) for name in ("a", "b")]
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, ["n", 1])
    tables = [
        numpy_helper.from_array(np.ones((rows, 1), np.float32), n) for n, rows in (("big", 300_000), ("small", 9))
    ]
    nodes = [
        helper.make_node("Gather", ["big", "a"], ["x"], "first"),
        helper.make_node("Gather", ["small", "b"], ["y"], "second"),
        helper.make_node("Add", ["x", "y"], ["out"]),
    ]
    graph = helper.make_graph(nodes, "g", ids, [out], tables)
    opset = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), path / "m.onnx")
    return path


def problems_of(content: object, folder: Path) -> list[str]:
    with pytest.raises(InputError) as caught:
        parse_spec(content, folder / "m.yaml")
    return [problem.removeprefix(f"{folder / 'm.yaml'}: ") for problem in caught.value.problems]


def test_a_model_file_is_opened_beside_its_spec(folder: Path) -> None:
    (folder / "m.yaml").write_text("{name: m, model: {source: onnx, path: m.onnx}, serving: {target_qps: 5},\n")
    with (folder / "m.yaml").open("a") as file:
        file.write(" access: {source: powerlaw, locality: 0.9}}\n")
    spec = load_spec(folder / "m.yaml")
    assert spec.form == ModelFile("onnx", folder / "m.onnx", None, KEEP_UNDER_BYTES, {})
    assert [(table.name, table.rows, table.format.dim) for table in spec.model.tables] == [("big", 300_000, 1)]
    assert [kept.name for kept in spec.model.kept] == ["small"]
    assert open_source(spec).model is spec.model
    assert (spec.access, spec.serving) == (Access("powerlaw", None, 0.9), Serving(5.0))
    assert spec.gathers == 32


def test_how_its_rows_are_stored(folder: Path) -> None:
    spec = parse_spec(document(rows={"hot": "fp16", "cold": "int8"}), folder / "m.yaml")
    assert spec.rows == RowRule("fp16", "int8")
    assert problems_of(document(rows="fp8"), folder) == [
        'rows: expected one of fp32, fp16, bf16, int8, int8_half, int4, got "fp8"'
    ]


@pytest.mark.parametrize(
    ("more", "tables"),
    [
        ({"keep_under_bytes": 0}, ["big", "small"]),
        ({"tables": [{"name": "small", "keep": "shard"}]}, ["big", "small"]),
        ({"keep_under_bytes": 0, "tables": [{"name": "small", "keep": "dense"}]}, ["big"]),
    ],
)
def test_what_stays_dense_is_the_specs_to_say(more: dict[str, Any], tables: list[str], folder: Path) -> None:
    spec = parse_spec(document(**more), folder / "m.yaml")
    assert sorted(table.name for table in spec.model.tables) == tables


def test_a_table_may_have_accesses_of_its_own(folder: Path) -> None:
    own = {"source": "counts", "path": "c.npz"}
    spec = parse_spec(document(tables=[{"name": "big", "access": own}]), folder / "m.yaml")
    assert spec.table_access == {"big": Access("counts", folder / "c.npz")}


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        ({"model": {"source": "onnx"}}, "model.path: expected this field, got none"),
        ({"model": {"source": "keras", "path": "m"}}, 'model.source: expected one of exported, onnx, got "keras"'),
        ({"dense_features": 3}, "dense_features: unknown field; expected one of "),
        ({"sampels": "a.npz"}, "sampels: unknown field; did you mean samples?"),
        ({"keep_under_bytes": -1}, "keep_under_bytes: expected at least 0, got -1"),
        ({"tables": [{"name": "big", "keep": "cold"}]}, 'tables[0].keep: expected one of dense, shard, got "cold"'),
        ({"tables": [{"name": "big"}, {"name": "big"}]}, "tables[1].name: expected each table once, got 'big' again"),
        ({"tables": [{"name": "bug"}]}, "tables[0].name: expected a table that "),
        ({"access": {"source": "samples"}}, "samples: expected an .npz of requests, whose ids access counts, got none"),
        ({"access": {"source": "samples", "path": "x"}, "samples": "s.npz"}, "access.path: unknown field; "),
        ({"access": {"source": "log"}}, "access.source: expected one of powerlaw, counts, trace, samples, got "),
        ({"serving": {}}, "serving.target_qps: expected this field, got none"),
        ({"model": {"source": "onnx", "path": "\0"}}, "model.path: expected a file's path, got '\\x00'"),
    ],
)
def test_mistakes_are_told_by_field(more: dict[str, Any], problem: str, folder: Path) -> None:
    (got,) = problems_of(document(**more), folder)
    assert got.startswith(problem)


def test_a_model_that_is_not_there_is_told(folder: Path) -> None:
    (got,) = problems_of(document(model={"source": "exported", "path": "none.pt2"}), folder)
    assert "none.pt2" in got


def test_samples_are_no_accesses_of_a_dlrm(folder: Path) -> None:
    problems = problems_of({"name": "m", "access": {"source": "samples"}}, folder)
    assert 'access.source: expected one of powerlaw, counts, trace, got "samples"' in problems
