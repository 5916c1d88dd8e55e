"""The baseline of a model in ONNX: its own file, served by Triton as its owner would, beside the same model cut."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from elasticrec.cli import main
from repo_builder.serving.client import infer
from tests.servers import serving

pytestmark = [pytest.mark.server]

ROWS = 20_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds m.onnx, with its table beside it in m.data, and its spec: ids [n, 3] and numbers [n, 4] in, scores out."""
    path = tmp_path_factory.mktemp("whole")
    rng = np.random.default_rng(0)
    initializers = [
        numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name)
        for name, shape in (("table", (ROWS, 16)), ("w", (20, 1)))
    ]
    inputs = [
        helper.make_tensor_value_info("ids", TensorProto.INT64, ["n", 3]),
        helper.make_tensor_value_info("numbers", TensorProto.FLOAT, ["n", 4]),
    ]
    out = helper.make_tensor_value_info("score", TensorProto.FLOAT, ["n", 1])
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["rows"], "look"),
        helper.make_node("ReduceMean", ["rows"], ["bag"], axes=[1], keepdims=0),
        helper.make_node("Concat", ["bag", "numbers"], ["all"], axis=1),
        helper.make_node("MatMul", ["all", "w"], ["logit"]),
        helper.make_node("Sigmoid", ["logit"], ["score"]),
    ]
    graph = helper.make_graph(nodes, "g", inputs, [out], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=1024)
    (path / "m.yaml").write_text(
        "{name: m, model: {source: onnx, path: m.onnx}, access: {source: powerlaw, locality: 0.9},"
        " serving: {target_qps: 50}}\n"
    )
    return path


def test_the_file_itself_is_served_and_answers_as_the_cut_model(folder: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    query = {"ids": rng.integers(0, ROWS, (33, 3)), "numbers": rng.standard_normal((33, 4), np.float32)}
    (expected,) = ReferenceEvaluator(str(folder / "m.onnx")).run(None, query)
    for layout in ("model-wise", "single"):
        repository = tmp_path / layout
        assert main(["build", str(folder / "m.yaml"), "--layout", layout, "-o", str(repository)]) == 0
        assert main(["verify", str(repository)]) == 0
        with serving(repository, tmp_path / f"{layout}.log") as server:
            for protocol, address in (("grpc", server.grpc), ("http", server.http)):
                answer = infer(protocol, address, "m", query)["score"]
                np.testing.assert_allclose(answer, expected, atol=1e-5)
    whole = tmp_path / "model-wise"
    assert {path.name for path in (whole / "m/1").iterdir()} == {"model.onnx", "m.data"}
    assert (whole / "m/1/model.onnx").read_bytes() == (folder / "m.onnx").read_bytes()
    assert {path.name for path in whole.iterdir()} == {"m", "manifest.json", "plan.json", "queries.npz"}


def test_what_has_no_dimensions_is_of_one_in_triton(tmp_path: Path) -> None:
    """A scalar in and one out, cut and whole: Triton takes none of a model that does not batch."""
    rows = np.random.default_rng(0).standard_normal((ROWS, 16)).astype(np.float32)
    inputs = [
        helper.make_tensor_value_info("ids", TensorProto.INT64, ["n"]),
        helper.make_tensor_value_info("scale", TensorProto.FLOAT, []),
    ]
    outputs = [
        helper.make_tensor_value_info("scaled", TensorProto.FLOAT, ["n", 16]),
        helper.make_tensor_value_info("most", TensorProto.FLOAT, []),
    ]
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["rows"], "look"),
        helper.make_node("Mul", ["rows", "scale"], ["scaled"]),
        helper.make_node("ReduceMax", ["scaled"], ["most"], keepdims=0),
    ]
    graph = helper.make_graph(nodes, "g", inputs, outputs, [numpy_helper.from_array(rows, "table")])
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), tmp_path / "m.onnx")
    (tmp_path / "m.yaml").write_text(
        "{name: m, model: {source: onnx, path: m.onnx}, access: {source: powerlaw, locality: 0.9},"
        " serving: {target_qps: 50}}\n"
    )
    query = {"ids": np.array([5, 7, 5, ROWS - 1]), "scale": np.array([2.5], np.float32)}
    for layout in ("single", "model-wise"):
        repository = tmp_path / layout
        assert main(["build", str(tmp_path / "m.yaml"), "--layout", layout, "-o", str(repository)]) == 0
        with serving(repository, tmp_path / f"{layout}.log") as server:
            answers = infer("grpc", server.grpc, "m", query)
        np.testing.assert_allclose(answers["scaled"], 2.5 * rows[query["ids"]], rtol=1e-6)
        np.testing.assert_allclose(answers["most"], [2.5 * rows[query["ids"]].max()], rtol=1e-6)
    for path in (tmp_path / "single/m_dense/1/model.onnx", tmp_path / "model-wise/m/1/model.onnx"):
        served = onnx.load(path).graph
        for entry in (*served.input, *served.output):
            assert entry.type.tensor_type.shape.dim, entry.name
