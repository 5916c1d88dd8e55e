"""Reading without weights, and writing: what is left in the file, and how much memory it takes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper, version_converter

from repo_builder.errors import ModelFileError
from repo_builder.export.onnx_file import open_onnx
from repo_builder.export.onnx_file import tensors as tensors_module
from repo_builder.export.onnx_file.file import LEFT_IN_FILE_BYTES, lean_message, read_without_weights
from repo_builder.export.onnx_file.tensors import is_external, tensors, values
from repo_builder.export.stored import CHUNK_BYTES
from tests.export.onnx_file.cutting import FLOAT, INT64, make, node, opened, partials_of, prove, read_tables, table

DIM = 4


def two_tables(rows: int = 3000) -> onnx.ModelProto:
    nodes = [
        node("Gather", ["big", "ids"], "a"),
        node("Gather", ["small", "ids"], "b"),
        node("MatMul", ["a", "weight"], "c"),
        node("Add", ["b", "c"], "y"),
    ]
    arrays = {"big": table(rows, DIM), "small": table(9, DIM, 1), "weight": table(DIM, DIM, 2)}
    return make(nodes, {"ids": (INT64, ("N",))}, {"y": (FLOAT, ("N", DIM))}, arrays)


def test_large_tensors_are_left_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    model = two_tables()
    path.write_bytes(model.SerializeToString())
    assert len(lean_message(path)) < LEFT_IN_FILE_BYTES
    lean = read_without_weights(path)
    assert {tensor.name: is_external(tensor) for tensor in lean.graph.initializer} == {
        "big": True, "small": False, "weight": False,
    }  # fmt: skip
    for tensor, stored in zip(model.graph.initializer, lean.graph.initializer, strict=True):
        np.testing.assert_array_equal(values(stored, tmp_path), numpy_helper.to_array(tensor))


@pytest.mark.parametrize(
    ("tensor", "left"),
    [
        (helper.make_tensor("big", TensorProto.FLOAT, [3000, DIM], table(3000, DIM).reshape(-1)), True),  # float_data
        (helper.make_tensor("big", TensorProto.DOUBLE, [3000, DIM], table(3000, DIM).reshape(-1)), True),
        (
            helper.make_tensor("big", TensorProto.FLOAT16, [3000, DIM], table(3000, DIM).reshape(-1)),
            False,
        ),  # int32_data
    ],
)
def test_other_ways_to_hold_values(tensor: TensorProto, left: bool, tmp_path: Path) -> None:
    nodes = [node("Gather", ["big", "ids"], "g"), node("Cast", ["g"], "y", to=FLOAT)]
    model = make(nodes, {"ids": (INT64, ("N",))}, {"y": (FLOAT, ("N", DIM))}, {})
    model.graph.initializer.append(tensor)
    source = opened(model, tmp_path)
    assert [is_external(each) for each in tensors(read_without_weights(tmp_path / "model.onnx").graph)] == [left]
    expected = numpy_helper.to_array(tensor).astype(np.float32)
    np.testing.assert_array_equal(read_tables(source)[0], expected)
    prove(source, tmp_path / "model.onnx", [{"ids": np.array([0, 2999])}], tmp_path)


def test_bfloat16(tmp_path: Path) -> None:
    """onnxruntime casts it on the processor, but looks nothing up in it: it is cast before."""
    nodes = [node("Cast", ["W"], "c", to=FLOAT), node("Gather", ["c", "ids"], "y")]
    model = make(nodes, {"ids": (INT64, ("N",))}, {"y": (FLOAT, ("N", DIM))}, {})
    halves = (table(3000, DIM).view(np.uint32) >> 16).astype(np.uint16)
    model.graph.initializer.append(
        TensorProto(name="W", data_type=TensorProto.BFLOAT16, dims=[3000, DIM], raw_data=halves.tobytes())
    )
    source = opened(model, tmp_path)
    np.testing.assert_array_equal(read_tables(source)[0], (halves.astype(np.uint32) << 16).view(np.float32))
    prove(source, tmp_path / "model.onnx", [{"ids": np.array([0, 2999])}], tmp_path)


def test_a_table_in_a_constant_node(tmp_path: Path) -> None:
    nodes = [
        node("Constant", [], "W", value=numpy_helper.from_array(table(3000, DIM))),
        node("Gather", ["W", "ids"], "y"),
    ]
    source = opened(make(nodes, {"ids": (INT64, ("N",))}, {"y": (FLOAT, ("N", DIM))}, {}), tmp_path)
    np.testing.assert_array_equal(read_tables(source)[0], table(3000, DIM))
    prove(source, tmp_path / "model.onnx", [{"ids": np.array([0, 2999])}], tmp_path)


@pytest.mark.parametrize("opset", [9, 11, 12])
def test_an_old_opset(opset: int, tmp_path: Path) -> None:
    """It is converted, as axes were attributes once."""
    nodes = [
        node("Gather", ["W", "ids"], "g"),
        node("ReduceSum", ["g"], "s", axes=[1], keepdims=0),
        node("Unsqueeze", ["s"], "u", axes=[1]),
        node("Squeeze", ["u"], "y", axes=[1]),
    ]
    model = make(nodes, {"ids": (INT64, ("N", 3))}, {"y": (FLOAT, ("N", DIM))}, {"W": table(3000, DIM)}, opset)
    source = opened(model, tmp_path)
    assert source.model.lookups[0].mode == "sum"
    prove(source, tmp_path / "model.onnx", [{"ids": np.array([[0, 2999, 5]])}], tmp_path)


def test_an_old_opset_that_cannot_be_converted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no adapter\nfor it")

    monkeypatch.setattr(version_converter, "convert_version", fail)
    nodes = [node("Gather", ["W", "ids"], "y")]
    model = make(nodes, {"ids": (INT64, ("N",))}, {"y": (FLOAT, ("N", DIM))}, {"W": table(9, DIM)}, 9)
    with pytest.raises(
        ModelFileError, match="expected opset 13 to 21, or one that can be converted, got 9 and: no ada"
    ):
        opened(model, tmp_path)


def test_weights_that_are_inputs_too(tmp_path: Path) -> None:
    """As files of old IR versions list them."""
    model = two_tables()
    shape = [3000, DIM]
    model.graph.input.append(helper.make_tensor_value_info("big", FLOAT, shape))
    source = opened(model, tmp_path)
    assert [tensor.name for tensor in source.model.inputs] == ["ids"]


def test_a_function_of_the_file(tmp_path: Path) -> None:
    """A model's own functions are part of it, and no custom operators."""
    nodes = [node("Gather", ["W", "ids"], "g"), node("Twice", ["g"], "y", domain="own")]
    model = make(nodes, {"ids": (INT64, ("N",))}, {"y": (FLOAT, ("N", DIM))}, {"W": table(9, DIM)}, domains=["own"])
    body = [helper.make_node("Add", ["x", "x"], ["z"])]
    model.functions.append(helper.make_function("own", "Twice", ["x"], ["z"], body, [helper.make_opsetid("", 18)]))
    prove(opened(model, tmp_path), tmp_path / "model.onnx", [{"ids": np.array([0, 8])}], tmp_path)


def test_blocks(tmp_path: Path) -> None:
    """Of about CHUNK_BYTES, also where tables of other dims lie side by side."""
    rows = 100_000
    nodes = [
        node("Gather", ["wide", "ids"], "a"),
        node("Gather", ["thin", "ids"], "b"),
        node("Concat", ["a", "b"], "y", axis=1),
    ]
    arrays = {"wide": table(rows, 30), "thin": table(rows, 1, 1)}
    source = opened(make(nodes, {"ids": (INT64, ("N",))}, {"y": (FLOAT, ("N", 31))}, arrays), tmp_path)
    blocks = list(source.table_chunks(source.model.tables[0]))
    assert len(blocks) > 1
    assert all(block.nbytes <= 1.2 * CHUNK_BYTES for block in blocks)
    np.testing.assert_array_equal(np.concatenate(blocks), np.hstack([arrays["wide"], arrays["thin"]]))


def test_large_weights_are_written_beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensors_module, "IN_FILE_BYTES", 1000)
    nodes = [node("Gather", ["W", "ids"], "g"), node("MatMul", ["g", "weight"], "y")]
    arrays: dict[str, NDArray[Any]] = {"W": table(900, 100), "weight": table(100, 200)}
    source = opened(make(nodes, {"ids": (INT64, ("N",))}, {"y": (FLOAT, ("N", 200))}, arrays), tmp_path)
    (tmp_path / "out").mkdir()
    assert source.write_dense(partials_of(source.model, 1), tmp_path / "out") == ["model.onnx", "model.onnx.data"]
    assert (tmp_path / "out" / "model.onnx.data").stat().st_size == 100 * 200 * 4
    prove(source, tmp_path / "model.onnx", [{"ids": np.array([0, 2])}], tmp_path)


def test_notes_of_the_exporting_machine_are_not_written(tmp_path: Path) -> None:
    model = two_tables()
    trace = "File /home/someone/model.py"
    model.doc_string = model.graph.doc_string = model.graph.node[2].doc_string = trace
    model.metadata_props.add(key="trace", value=trace)
    model.graph.node[3].metadata_props.add(key="trace", value=trace)
    source = opened(model, tmp_path)
    (tmp_path / "out").mkdir()
    source.write_dense(partials_of(source.model, 1), tmp_path / "out")
    assert trace.encode() not in (tmp_path / "out" / "model.onnx").read_bytes()


MEASURE = """
import sys
from pathlib import Path
from repo_builder.export.onnx_file import open_onnx
from repo_builder.model.source import Partial
def resident_mib():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024
before = resident_mib()
source = open_onnx(Path(sys.argv[1]), "toy", None, 0, {})
source.write_dense([Partial("sums", 0, source.model.tables[0].format.dim, {0: 0})], Path(sys.argv[2]))
assert sum(len(block) for block in source.table_chunks(source.model.tables[0])) == source.model.tables[0].rows
print(resident_mib() - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize("place", ["beside", "inside"])
def test_memory_does_not_grow_with_the_tables(place: str, tmp_path: Path) -> None:
    """A table of 512 MiB is opened, cut, proven and streamed in less than 128 MiB more than the imports take."""
    rows, dim = 1024**2, 128
    size_bytes = rows * dim * 4
    model = make(
        [node("Gather", ["W", "ids"], "y")], {"ids": (INT64, ("N",))}, {"y": (FLOAT, ("N", dim))}, {}
    )  # fmt: skip
    path = tmp_path / "model.onnx"
    if place == "beside":
        tensor = TensorProto(name="W", data_type=FLOAT, dims=[rows, dim], data_location=TensorProto.EXTERNAL)
        tensor.external_data.add(key="location", value="weights.bin")
        (tmp_path / "weights.bin").touch()
        with (tmp_path / "weights.bin").open("r+b") as file:
            file.truncate(size_bytes)
        model.graph.initializer.append(tensor)
        path.write_bytes(model.SerializeToString())
    else:
        write_inside(model, path, [rows, dim], size_bytes)
    out = tmp_path / "out"
    out.mkdir()
    run = subprocess.run(
        [sys.executable, "-c", MEASURE, str(path), str(out)], capture_output=True, text=True, check=True
    )
    assert float(run.stdout) < 128


def write_inside(model: onnx.ModelProto, path: Path, dims: list[int], size_bytes: int) -> None:
    """A file with a tensor of zeros in it, a hole in the file: a message's fields may stand in several pieces."""
    head = TensorProto(name="W", data_type=FLOAT, dims=dims).SerializeToString()
    tensor = head + b"\x4a" + varint(size_bytes)  # raw_data
    graph_bytes = len(tensor) + size_bytes
    initializer = b"\x2a" + varint(graph_bytes)
    content = model.SerializeToString() + b"\x3a" + varint(len(initializer) + graph_bytes) + initializer + tensor
    with path.open("wb") as file:
        file.write(content)
        file.truncate(len(content) + size_bytes)


def varint(number: int) -> bytes:
    parts = []
    while number >= 128:
        parts.append(number % 128 + 128)
        number //= 128
    return bytes([*parts, number])


def test_a_model_in_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.onnx").write_bytes(two_tables().SerializeToString())
    monkeypatch.chdir(tmp_path)
    source = open_onnx(Path("model.onnx"), "toy", None, 0, {})
    assert source.answers({"ids": np.array([1])})["y"].shape == (1, DIM)


def test_a_model_behind_a_link(tmp_path: Path) -> None:
    """As hubs keep models in a cache."""
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshot").mkdir()
    (tmp_path / "blobs" / "0123").write_bytes(two_tables().SerializeToString())
    path = tmp_path / "snapshot" / "model.onnx"
    path.symlink_to(tmp_path / "blobs" / "0123")
    source = open_onnx(path, "toy", None, 0, {})
    (tmp_path / "out").mkdir()
    prove(source, path, [{"ids": np.array([1, 2])}], tmp_path / "out")


def test_nothing_is_left_in_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """onnxruntime's own call saves the model there where it cannot tell a shape, as that of ONNX-ML's operators."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    nodes = [
        node("Gather", ["big", "ids"], "a"),
        node("Normalizer", ["a"], "b", domain="ai.onnx.ml", norm="L2"),
        node("MatMul", ["b", "weight"], "y"),
    ]
    arrays = {"big": table(3000, DIM), "weight": table(DIM, DIM, 2)}
    inputs, outputs = {"ids": (INT64, ("N",))}, {"y": (FLOAT, ("N", DIM))}
    source = opened(make(nodes, inputs, outputs, arrays, domains=["ai.onnx.ml"]), tmp_path)
    assert [each.name for each in source.model.tables] == ["big"]
    assert list((tmp_path / "here").iterdir()) == []


READ = """
import sys
from pathlib import Path
from repo_builder.export.onnx_file import open_onnx
print([tensor.shape for tensor in open_onnx(Path(sys.argv[1]), "toy", None, 0, {}).model.inputs])
"""


@pytest.mark.parametrize("seed", range(4))
def test_inputs_that_must_have_as_many_rows_have_the_batch(seed: int, tmp_path: Path) -> None:
    """As exporters name them apart, in every process: what Python makes of a set of names differs between them."""
    nodes = [node("Gather", ["W", "user"], "a"), node("Gather", ["V", "item"], "b"), node("Add", ["a", "b"], "y")]
    inputs = {"user": (INT64, ("user_rows",)), "item": (INT64, ("item_rows",))}
    model = make(nodes, inputs, {"y": (FLOAT, ("y_rows", DIM))}, {"W": table(9, DIM), "V": table(7, DIM, 1)})
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    command = [sys.executable, "-c", READ, str(tmp_path / "model.onnx")]
    done = subprocess.run(
        command, env={**os.environ, "PYTHONHASHSEED": str(seed)}, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[('batch',), ('batch',)]\n"
