"""The stand-in for Triton's ONNX Runtime backend, called as Triton calls it, on small graphs."""

import ctypes
import json
from pathlib import Path

import numpy as np
import onnx
import onnx.numpy_helper
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


ALONE, JOINED = "{}", json.dumps({"max_batch_size": 4096})


@pytest.mark.parametrize("config", [ALONE, JOINED])
@pytest.mark.parametrize(("pieces", "offset"), [(1, 0), (3, 1)])
def test_requests_of_a_batch_get_their_own_rows(
    backend: Backend, folder: Path, pieces: int, offset: int, config: str
) -> None:
    sizes = (1, 3, 2)
    requests = [{"a": Given(rows(n, n), pieces, offset), "b": Given(rows(n, 10 * n), pieces, offset)} for n in sizes]
    with Model(backend, folder, config) as model:
        for n, answer in zip(sizes, model.infer_all(requests, Asked(offset=offset)), strict=True):
            assert not isinstance(answer, BackendError)
            assert set(answer) == {"y", "z"}
            np.testing.assert_array_equal(answer["y"], rows(n, 11 * n))
            np.testing.assert_array_equal(answer["z"], rows(n, -n))


def write_batch_sum(folder: Path, *, scalar: bool = False) -> Path:
    """`y` = `a` + the sum of `a` over the run; `scalar`: one more output, without rows."""
    a, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ("rows", "columns")) for name in "ay")
    outputs = [y, *([helper.make_tensor_value_info("size", TensorProto.INT64, ())] if scalar else [])]
    nodes = [
        helper.make_node("ReduceSum", ["a"], ["sum"], keepdims=0),
        helper.make_node("Add", ["a", "sum"], ["y"]),
        *([helper.make_node("Size", ["a"], ["size"])] if scalar else []),
    ]
    return save(folder, nodes, [a], outputs)


def batch_sums(model: Model, sizes: list[int], columns: list[int] | None = None) -> list[float]:
    """Queries of so many rows of ones: of each, how many rows were run with its own, which are its part."""
    shapes = zip(sizes, columns or [2] * len(sizes), strict=True)
    answers = model.infer_all([{"a": np.ones(shape, np.float32)} for shape in shapes])
    for size, answer in zip(sizes, answers, strict=True):
        assert not isinstance(answer, BackendError)
        assert answer["y"].shape[0] == size and np.ptp(answer["y"]) == 0
    return [(answer["y"][0, 0] - 1) / answer["y"].shape[1] for answer in answers]


def test_queries_of_a_batch_run_as_one_up_to_128_rows(backend: Backend, tmp_path: Path) -> None:
    """Their order stays; one that has more rows by itself runs alone; so do all where the model has no batches."""
    with Model(backend, write_batch_sum(tmp_path), JOINED) as model:
        assert batch_sums(model, [60, 68, 1, 300, 5, 7, 116]) == [128, 128, 1, 300, 128, 128, 128]
        assert batch_sums(model, [60, 69]) == [60, 69]
        assert batch_sums(model, [1] * 200) == [64] * 192 + [8] * 8
        assert batch_sums(model, [2, 3, 4], columns=[2, 2, 5]) == [5, 5, 4]
        assert (model.instance.executions, model.instance.executed, model.instance.bad) == (4, 212, 0)
    for config in (ALONE, json.dumps({"max_batch_size": 1}), json.dumps({"max_batch_size": 0})):
        with Model(backend, tmp_path, config) as model:
            assert batch_sums(model, [60, 68, 1]) == [60, 68, 1]


def test_outputs_without_rows_are_each_querys_own(backend: Backend, tmp_path: Path) -> None:
    with Model(backend, write_batch_sum(tmp_path, scalar=True), JOINED) as model:
        assert batch_sums(model, [2, 3]) == [2, 3]


def test_a_query_without_rows_runs_alone(backend: Backend, folder: Path) -> None:
    with Model(backend, folder, JOINED) as model:
        answers = model.infer_all([{"a": rows(n, 1), "b": rows(n, 2)} for n in (0, 0, 3)])
    assert [answer["y"].shape for answer in answers if not isinstance(answer, BackendError)] == [(0, 2), (0, 2), (3, 2)]


@pytest.mark.parametrize("config", [ALONE, JOINED])
@pytest.mark.parametrize(
    ("inputs", "told"),
    [
        ({"a": rows(2, 0), "b": rows(3, 0)}, "ONNX Runtime: .*Attempting to broadcast"),
        ({"a": rows(2, 0)}, "unknown request input name"),
        ({"a": rows(2, 0), "b": rows(2, 0).astype(np.int32)}, "ONNX Runtime: Unexpected input data type"),
        ({"a": rows(2, 0), "b": np.zeros((2, 3), np.float32)}, "ONNX Runtime: .*Got invalid dimensions for input: b"),
    ],
)
def test_a_bad_request_fails_alone(backend: Backend, folder: Path, inputs: dict, told: str, config: str) -> None:
    good = {"a": rows(1, 1), "b": rows(1, 2)}
    with Model(backend, folder, config) as model:
        first, bad, last = model.infer_all([good, inputs, good])
    with pytest.raises(BackendError, match=f"^{told}"):
        raise bad
    assert not isinstance(first, BackendError) and not isinstance(last, BackendError)


def test_where_a_run_of_several_fails_each_runs_alone(backend: Backend, tmp_path: Path) -> None:
    """An id that is no row fails the whole run; the others' answers come all the same."""
    table = np.random.default_rng(0).standard_normal((50, 4)).astype(np.float32)
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", 1])
    found = helper.make_tensor_value_info("rows", TensorProto.FLOAT, ["batch", 1, 4])
    save(tmp_path, [helper.make_node("Gather", ["table", "ids"], ["rows"])], [ids], [found], table=table)
    with Model(backend, tmp_path, JOINED) as model:
        first, bad, last = model.infer_all([{"ids": np.array([[number]])} for number in (3, 50, 7)])
    assert isinstance(bad, BackendError) and "indices element out of data bounds" in str(bad)
    for number, answer in ((3, first), (7, last)):
        assert not isinstance(answer, BackendError)
        np.testing.assert_array_equal(answer["rows"][0, 0], table[number])


def test_the_arena_is_on_or_off(backend: Backend, folder: Path) -> None:
    """As Triton's own backend has it: a parameter of the config."""
    for value in ("0", "1"):
        text = json.dumps({"parameters": {"enable_mem_arena": {"string_value": value}}})
        with Model(backend, folder, text) as model:
            np.testing.assert_array_equal(model.infer({"a": rows(2, 1), "b": rows(2, 2)})["y"], rows(2, 3))
    text = json.dumps({"parameters": {"other": {"string_value": "0"}, "enable_mem_arena": {"string_value": "no"}}})
    with (
        pytest.raises(BackendError, match=r"^enable_mem_arena: expected 0 or 1, got no"),
        Model(backend, folder, text),
    ):
        pass


NUMBERS = {
    np.bool_: TensorProto.BOOL,
    np.uint8: TensorProto.UINT8,
    np.uint16: TensorProto.UINT16,
    np.uint32: TensorProto.UINT32,
    np.uint64: TensorProto.UINT64,
    np.int8: TensorProto.INT8,
    np.int16: TensorProto.INT16,
    np.int32: TensorProto.INT32,
    np.int64: TensorProto.INT64,
    np.float16: TensorProto.FLOAT16,
    np.float32: TensorProto.FLOAT,
    np.float64: TensorProto.DOUBLE,
}


def save(folder: Path, nodes: list[onnx.NodeProto], inputs: list, outputs: list, **initializers: np.ndarray) -> Path:
    """A model whose initializers lie in a file of their own."""
    constants = [onnx.numpy_helper.from_array(array, name) for name, array in initializers.items()]
    graph = helper.make_graph(nodes, "small", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    (folder / "1").mkdir(parents=True)
    external = {"save_as_external_data": True, "location": "model.data", "size_threshold": 0} if constants else {}
    onnx.save(model, folder / "1/model.onnx", **external)
    return folder


@pytest.mark.parametrize("dtype", NUMBERS, ids=lambda each: each.__name__)
@pytest.mark.parametrize("shape", [(), (3,), (0, 4), (2, 1, 3, 2), (1, 1, 1, 1, 1, 1, 2, 2)], ids=str)
@pytest.mark.parametrize("pieces", [1, 3])
def test_numbers_of_any_kind_and_shape_pass(
    backend: Backend, tmp_path: Path, dtype: type, shape: tuple[int, ...], pieces: int
) -> None:
    """Scalars and tensors without a number too."""
    a, y = (helper.make_tensor_value_info(name, NUMBERS[dtype], [f"d{i}" for i in range(len(shape))]) for name in "ay")
    numbers = (np.random.default_rng(0).integers(0, 100, shape) % (2 if dtype is np.bool_ else 100)).astype(dtype)
    numbers = np.asarray(numbers)
    with Model(backend, save(tmp_path, [helper.make_node("Identity", ["a"], ["y"])], [a], [y])) as model:
        found = model.infer({"a": Given(numbers, pieces, pieces - 1)}, Asked(offset=pieces - 1))["y"]
    assert (found.dtype, found.shape) == (numbers.dtype, shape)
    np.testing.assert_array_equal(found, numbers)


def test_a_models_inputs_and_outputs_are_each_of_their_own_kind(backend: Backend, tmp_path: Path) -> None:
    """Its numbers lie in a file beside it: rows of a table by ids of any shape; and whether a number is large."""
    table = np.random.default_rng(0).standard_normal((50, 4)).astype(np.float32)
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["rows"]),
        helper.make_node("Greater", ["number", "half"], ["above"]),
    ]
    inputs = [
        helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", "length"]),
        helper.make_tensor_value_info("number", TensorProto.DOUBLE, []),
    ]
    outputs = [
        helper.make_tensor_value_info("rows", TensorProto.FLOAT, ["batch", "length", 4]),
        helper.make_tensor_value_info("above", TensorProto.BOOL, []),
    ]
    save(tmp_path, nodes, inputs, outputs, table=table, half=np.array(0.5))
    assert (tmp_path / "1/model.data").stat().st_size >= table.nbytes
    ids = np.array([[3, 49, 0], [7, 7, 1]])
    with Model(backend, tmp_path) as model:
        found = model.infer({"ids": ids, "number": np.array(0.75)})
        np.testing.assert_array_equal(found["rows"], table[ids])
        assert found["above"].shape == () and found["above"]
        assert model.infer({"ids": ids[:, :0], "number": np.array(0.25)})["rows"].shape == (2, 0, 4)
    (tmp_path / "1/model.data").unlink()
    with pytest.raises(BackendError, match=r"ONNX Runtime: .*model\.data"), Model(backend, tmp_path):
        pass


def test_what_is_no_number_is_told(backend: Backend, folder: Path, tmp_path: Path) -> None:
    good = {"a": rows(1, 1), "b": rows(1, 2)}
    with Model(backend, folder) as model:
        for b, told in (
            (Given(np.zeros(2, "S4"), shape=(1, 2)), "b: expected numbers, got BYTES"),
            (rows(1, 1).reshape(*[1] * 8, 2), "b: expected at most 8 dimensions, got 9"),
        ):
            with pytest.raises(BackendError, match=told):
                model.infer({**good, "b": b})
        model.infer(good)


@pytest.mark.parametrize("content", [None, b"", b"no model"])
def test_a_broken_model_is_told(backend: Backend, folder: Path, content: bytes | None) -> None:
    (folder / "1/model.onnx").unlink()
    if content is not None:
        (folder / "1/model.onnx").write_bytes(content)
    with pytest.raises(BackendError, match=r"ONNX Runtime: .*model\.onnx"), Model(backend, folder):
        pass
