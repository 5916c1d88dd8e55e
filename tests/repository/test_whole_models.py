"""A model whose owner has it in ONNX, whole: its own file, or our kernels where its rows are to be smaller."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import elasticrec
from repo_builder.spec import Spec

ROWS, DIM = 20_000, 16


@pytest.fixture
def spec_path(tmp_path: Path) -> Path:
    rows = np.random.default_rng(0).standard_normal((ROWS, DIM)).astype(np.float32)
    inputs = [helper.make_tensor_value_info("ids", TensorProto.INT64, ["n", 3])]
    outputs = [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["n", DIM])]
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["rows"], "look"),
        helper.make_node("ReduceMean", ["rows"], ["bag"], axes=[1], keepdims=0),
        helper.make_node("Sigmoid", ["bag"], ["score"]),
    ]
    graph = helper.make_graph(nodes, "g", inputs, outputs, [numpy_helper.from_array(rows, "table")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "m.onnx")
    return tmp_path / "m.yaml"


def of(path: Path, more: str) -> Spec:
    path.write_text(
        "{name: m, model: {source: onnx, path: m.onnx}, access: {source: powerlaw, locality: 0.9},"
        f" serving: {{target_qps: 50}}{more}}}\n"
    )
    return elasticrec.load_spec(path)


@pytest.mark.parametrize("rows", ["int8", "{hot: int8, cold: int4}"])
def test_a_whole_model_has_the_rows_that_its_plan_counts(rows: str, spec_path: Path, tmp_path: Path) -> None:
    built = elasticrec.build(of(spec_path, f", rows: {rows}"), tmp_path / "out", layout="model-wise")
    (service,) = built.plan.embedding_services
    assert service.row_dtype == "int8"
    weights = [entry.size_bytes for entry in built.manifest.files if entry.path.endswith("weights.bin")]
    assert weights == [ROWS * (DIM + 8)]
    assert sum(entry.size_bytes for entry in built.manifest.files) < ROWS * DIM * 4
    assert built.manifest.proof and built.manifest.proof.score_error
    assert 0 < built.manifest.proof.score_error.max < 1e-2


def test_without_a_word_of_rows_it_is_the_owners_file(spec_path: Path, tmp_path: Path) -> None:
    built = elasticrec.build(of(spec_path, ""), tmp_path / "out", layout="model-wise")
    assert (tmp_path / "out/m/1/model.onnx").read_bytes() == (spec_path.parent / "m.onnx").read_bytes()
    assert built.manifest.proof and built.manifest.proof.score_error is None
