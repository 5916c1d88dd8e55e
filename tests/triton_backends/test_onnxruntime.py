"""The stand-in for the ONNX Runtime backend on a small graph."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from triton_backends.onnxruntime.session import OnnxModel


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> OnnxModel:
    """`y` = `a` + `b`, `z` = -`a`, rows by 2."""
    tensors = {name: helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", 2]) for name in "abyz"}
    nodes = [helper.make_node("Add", ["a", "b"], ["y"]), helper.make_node("Neg", ["a"], ["z"])]
    graph = helper.make_graph(nodes, "small", [tensors["a"], tensors["b"]], [tensors["y"], tensors["z"]])
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return OnnxModel(path, {"intra_op_thread_count": "1"})


def rows(count: int, value: float) -> np.ndarray:
    return np.full((count, 2), value, np.float32)


def test_requests_of_a_batch_get_their_own_rows(model: OnnxModel) -> None:
    requests = [{"a": rows(n, n), "b": rows(n, 10 * n)} for n in (1, 3, 2)]
    for n, result in zip((1, 3, 2), model.run(requests), strict=True):
        np.testing.assert_array_equal(result["y"], rows(n, 11 * n))
        np.testing.assert_array_equal(result["z"], rows(n, -n))


def test_inputs_must_have_as_many_rows(model: OnnxModel) -> None:
    with pytest.raises(ValueError, match=r"expected the same number of rows in each, got \{'a': 2, 'b': 3}"):
        model.run([{"a": rows(2, 0), "b": rows(3, 0)}])
