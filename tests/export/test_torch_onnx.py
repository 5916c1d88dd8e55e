"""Outputs of an ONNX graph get the names that clients know, whatever its values are called."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

from repo_builder.export.torch_onnx import name_outputs


def test_names_that_other_values_have_and_a_value_that_is_two_outputs() -> None:
    nodes = [
        helper.make_node("Add", ["x", "x"], ["add"]),
        helper.make_node("Mul", ["add", "x"], ["add_1"]),
        helper.make_node("Neg", ["add_1"], ["neg"]),
    ]
    tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in ("x", "add", "neg", "neg")]
    graph = helper.make_graph(nodes, "graph", tensors[:1], tensors[1:])
    name_outputs(graph, ["add_1", "add", "z"])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    twice, *minus = session.run(["add_1", "add", "z"], {"x": np.array([1, 2], np.float32)})
    assert twice.tolist() == [2, 4]
    assert [each.tolist() for each in minus] == [[-2, -8], [-2, -8]]
