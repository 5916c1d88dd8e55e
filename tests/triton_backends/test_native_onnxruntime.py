"""The stand-in for Triton's ONNX Runtime backend, called as Triton calls it, on small graphs."""

import ctypes
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from repo_builder.serving.install import onnxruntime_library
from tests.triton_backends.fake_triton import Asked, Backend, BackendError, Given, Model


@pytest.fixture(scope="module")
def backend(fake: ctypes.CDLL) -> Backend:
    ctypes.CDLL(str(onnxruntime_library()))  # a library that is loaded already is found by its own name
    loaded = Backend(fake, "onnxruntime")
    loaded.initialize()
    return loaded


def write(folder: Path, kind: int = TensorProto.FLOAT, dims: tuple[str | int, ...] = ("rows", 2)) -> Path:
    """`y` = `a` + `b`, `z` = -`a`."""
    tensors = {name: helper.make_tensor_value_info(name, kind, dims) for name in "abyz"}
    nodes = [helper.make_node("Add", ["a", "b"], ["y"]), helper.make_node("Neg", ["a"], ["z"])]
    graph = helper.make_graph(nodes, "small", [tensors["a"], tensors["b"]], [tensors["y"], tensors["z"]])
    (folder / "1").mkdir()
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, folder / "1/model.onnx")
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path)


def rows(count: int, value: float) -> np.ndarray:
    return np.full((count, 2), value, np.float32)


@pytest.mark.parametrize(("pieces", "offset"), [(1, 0), (3, 1)])
def test_requests_of_a_batch_get_their_own_rows(backend: Backend, folder: Path, pieces: int, offset: int) -> None:
    sizes = (1, 3, 2)
    requests = [{"a": Given(rows(n, n), pieces, offset), "b": Given(rows(n, 10 * n), pieces, offset)} for n in sizes]
    with Model(backend, folder) as model:
        for n, answer in zip(sizes, model.infer_all(requests, Asked(offset=offset)), strict=True):
            assert not isinstance(answer, BackendError)
            assert set(answer) == {"y", "z"}
            np.testing.assert_array_equal(answer["y"], rows(n, 11 * n))
            np.testing.assert_array_equal(answer["z"], rows(n, -n))


@pytest.mark.parametrize(
    ("inputs", "told"),
    [
        ({"a": rows(2, 0), "b": rows(3, 0)}, "b: expected 2 rows, as many as in a, got 3"),
        ({"a": rows(2, 0)}, "unknown request input name"),
        ({"a": rows(2, 0), "b": rows(2, 0).astype(np.int32)}, "b: expected FP32"),
        ({"a": rows(2, 0), "b": np.zeros((2, 3), np.float32)}, "ONNX Runtime: .*Got invalid dimensions for input: b"),
    ],
)
def test_a_bad_request_fails_alone(backend: Backend, folder: Path, inputs: dict, told: str) -> None:
    good = {"a": rows(1, 1), "b": rows(1, 2)}
    with Model(backend, folder) as model:
        first, bad, last = model.infer_all([good, inputs, good])
    with pytest.raises(BackendError, match=f"^{told}"):
        raise bad
    assert not isinstance(first, BackendError) and not isinstance(last, BackendError)


def test_a_model_of_other_numbers_is_told(backend: Backend, tmp_path: Path) -> None:
    with (
        Model(backend, write(tmp_path, TensorProto.INT64)) as model,
        pytest.raises(BackendError, match="a: expected FP32"),
    ):
        model.infer({"a": np.zeros((1, 2), np.int64), "b": np.zeros((1, 2), np.int64)})


@pytest.mark.parametrize("content", [None, b"", b"no model"])
def test_a_broken_model_is_told(backend: Backend, folder: Path, content: bytes | None) -> None:
    (folder / "1/model.onnx").unlink()
    if content is not None:
        (folder / "1/model.onnx").write_bytes(content)
    with pytest.raises(BackendError, match=r"ONNX Runtime: .*model\.onnx"), Model(backend, folder):
        pass
