"""Files that cannot be served, each refused in a line that names the file, the node and what to do; none runs code."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from repo_builder.errors import ModelFileError
from repo_builder.export.onnx_file import open_onnx
from tests.export.onnx_file.cutting import BOOL, FLOAT, INT64, make, node, opened, prove, table

ROWS, DIM = 2000, 4


def simple(opset: int = 18, batch: int | str = "N", **attributes: Any) -> onnx.ModelProto:
    """A model whose table is large enough to lie outside."""
    nodes = [node("Gather", ["W", "ids"], "y", **attributes)]
    return make(nodes, {"ids": (INT64, (batch,))}, {"y": (FLOAT, (batch, DIM))}, {"W": table(ROWS, DIM)}, opset)


def refused(model: onnx.ModelProto | bytes, folder: Path, message: str, **keep: Any) -> None:
    path = folder / "model.onnx"
    path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    with pytest.raises(ModelFileError, match=message) as caught:
        open_onnx(path, "toy", None, 0, keep)
    assert all(problem.startswith(f"{path}: ") and "\n" not in problem for problem in caught.value.problems)


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"none\.onnx: expected an ONNX file, found none"):
        open_onnx(tmp_path / "none.onnx", "toy", None, 0, {})
    with pytest.raises(ModelFileError, match="cannot be read: Is a directory"):
        open_onnx(tmp_path, "toy", None, 0, {})


@pytest.mark.parametrize("content", [b"", b"no model", b"\x0a" * 5000, b"\xff" * 5000, np.arange(3000).tobytes()])
def test_no_onnx_file(content: bytes, tmp_path: Path) -> None:
    refused(content, tmp_path, "expected an ONNX (file|model)")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_a_file_cut_short(share: float, tmp_path: Path) -> None:
    content = simple().SerializeToString()
    refused(content[: int(share * len(content))], tmp_path, "expected an ONNX file, got another or a damaged one")


def test_no_look_ups(tmp_path: Path) -> None:
    model = make(
        [node("MatMul", ["x", "W"], "y")], {"x": (FLOAT, ("N", 3))}, {"y": (FLOAT, ("N", 4))}, {"W": table(3, 4)}
    )
    refused(model, tmp_path, "expected look-ups, Gather nodes on axis 0")


def test_all_tables_stay(tmp_path: Path) -> None:
    refused(simple(), tmp_path, r"table W \(2000 x 4\): keep: W is dense in the spec", W="dense")


def test_keep_of_no_table(tmp_path: Path) -> None:
    refused(simple(), tmp_path, "keep: expected tables among W, got 'V'", V="shard")


def test_keep_of_a_tied_table(tmp_path: Path) -> None:
    nodes = [node("Gather", ["W", "ids"], "g"), node("Transpose", ["W"], "t"), node("MatMul", ["g", "t"], "y")]
    model = make(nodes, {"ids": (INT64, ("N",))}, {"y": (FLOAT, ("N", 9))}, {"W": table(9, DIM)})
    refused(
        model,
        tmp_path,
        r"keep: W cannot be sharded: .* \(MatMul\), which is no look-up; take it out of keep",
        W="shard",
    )


def test_a_static_batch(tmp_path: Path) -> None:
    refused(
        simple(batch=32),
        tmp_path,
        r'input ids: .*the batch, got the shape \[32\]; .*dynamic_axes=\{"ids": \{0: "batch"\}\}',
    )


@pytest.mark.parametrize("opset", [6, 22, 23])
def test_an_opset_that_triton_has_not(opset: int, tmp_path: Path) -> None:
    refused(simple(opset), tmp_path, f"expected opset 7 to 21, .* got {opset}; export the model with opset_version=18")


@pytest.mark.parametrize("opset", [13, 21])
def test_the_first_and_last_opset(opset: int, tmp_path: Path) -> None:
    prove(opened(simple(opset), tmp_path), tmp_path / "model.onnx", [{"ids": np.array([0, -1])}], tmp_path)


def test_a_custom_operator(tmp_path: Path) -> None:
    nodes = [node("Gather", ["W", "ids"], "g"), node("FancyBag", ["g"], "y", domain="my.ops")]
    model = make(nodes, {"ids": (INT64, ("N",))}, {"y": (FLOAT, ("N", DIM))}, {"W": table(9, DIM)}, domains=["my.ops"])
    refused(
        model,
        tmp_path,
        r"node n_y: expected operators of ONNX or onnxruntime, got my\.ops\.FancyBag; .*custom operator",
    )


def test_an_operator_that_onnxruntime_has_not(tmp_path: Path) -> None:
    nodes = [node("Gather", ["W", "ids"], "g"), node("FancyBag", ["g"], "y", domain="com.microsoft")]
    model = make(
        nodes, {"ids": (INT64, ("N",))}, {"y": (FLOAT, ("N", DIM))}, {"W": table(9, DIM)}, domains=["com.microsoft"]
    )
    refused(model, tmp_path, "expected a model that onnxruntime loads, got: .*FancyBag")


def test_ids_that_are_floats(tmp_path: Path) -> None:
    model = make(
        [node("Gather", ["W", "x"], "y")], {"x": (FLOAT, ("N",))}, {"y": (FLOAT, ("N", DIM))}, {"W": table(9, DIM)}
    )
    refused(model, tmp_path, "expected a model that onnxruntime loads, got: .*x")


def test_a_look_up_in_a_loop(tmp_path: Path) -> None:
    """As torch's older exporter writes EmbeddingBag."""
    body = helper.make_graph(
        [
            helper.make_node("Gather", ["W", "ids"], ["g"]),
            helper.make_node("Add", ["sum_in", "g"], ["sum_out"]),
            helper.make_node("Identity", ["go"], ["go_on"]),
        ],
        "body",
        [helper.make_tensor_value_info(name, kind, []) for name, kind in (("i", INT64), ("go", BOOL))]
        + [helper.make_tensor_value_info("sum_in", FLOAT, None)],
        [helper.make_tensor_value_info("go_on", BOOL, []), helper.make_tensor_value_info("sum_out", FLOAT, None)],
    )
    nodes = [
        node("Shape", ["ids"], "s"),
        node("Concat", ["s", "dim"], "sd", axis=0),
        node("ConstantOfShape", ["sd"], "zeros"),
        node("Loop", ["three", "", "zeros"], "y", body=body),
    ]
    arrays = {"W": table(ROWS, DIM), "three": np.array(3), "dim": np.array([DIM])}
    model = make(nodes, {"ids": (INT64, ("N",))}, {"y": (FLOAT, ("N", DIM))}, arrays)
    refused(model, tmp_path, r"table W .* it is read inside node n_y \(Loop\): .*source: exported")


def test_strings(tmp_path: Path) -> None:
    nodes = [node("Gather", ["W", "ids"], "y"), node("Identity", ["s"], "t")]
    inputs = {"ids": (INT64, ("N",)), "s": (TensorProto.STRING, ("N",))}
    model = make(nodes, inputs, {"y": (FLOAT, ("N", DIM)), "t": (TensorProto.STRING, ("N",))}, {"W": table(9, DIM)})
    refused(model, tmp_path, "input s: expected numbers, got STRING")


def test_an_input_without_a_shape(tmp_path: Path) -> None:
    model = simple()
    extra = helper.make_tensor_value_info("x", FLOAT, None)
    model.graph.input.append(extra)
    refused(model, tmp_path, "input x: expected a shape, got none")


def test_a_circle(tmp_path: Path) -> None:
    nodes = [node("Add", ["ids", "b"], "a"), node("Add", ["a", "ids"], "b"), node("Gather", ["W", "a"], "y")]
    model = make(nodes, {"ids": (INT64, ("N",))}, {"y": (FLOAT, ("N", DIM))}, {"W": table(9, DIM)})
    refused(model, tmp_path, "expected a model that onnxruntime loads")


def external(folder: Path, location: str, length: int | None = None, offset: int = 0) -> onnx.ModelProto:
    """A model whose table is said to lie in a file."""
    model = simple()
    (tensor,) = model.graph.initializer
    (folder / "weights.bin").write_bytes(b"\0" * offset + tensor.raw_data)
    size_bytes = len(tensor.raw_data) if length is None else length
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", str(offset)), ("length", str(size_bytes))):
        tensor.external_data.add(key=key, value=value)
    return model


def test_external_data(tmp_path: Path) -> None:
    source = opened(external(tmp_path, "weights.bin", offset=100), tmp_path)
    prove(source, tmp_path / "model.onnx", [{"ids": np.array([0, 1999, -3])}], tmp_path)


def link_out(folder: Path) -> str:
    (folder / "link.bin").symlink_to(Path(__file__))
    return "link.bin"


def link_of_a_folder_out(folder: Path) -> str:
    (folder / "sub").symlink_to(Path(__file__).parent)
    return f"sub/{Path(__file__).name}"


@pytest.mark.parametrize(
    "location",
    [
        "/etc/passwd",
        "../weights.bin",
        "sub/../../weights.bin",
        "",
        "..",
        "a\0b",
        "a\\b",
        link_out,
        link_of_a_folder_out,
    ],
)
def test_external_data_elsewhere(location: str | Callable[[Path], str], tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    place = location if isinstance(location, str) else location(folder)
    (tmp_path / "weights.bin").write_bytes(b"\0" * 99999)
    refused(external(folder, place), folder, "W: expected (its )?external data in ")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            lambda folder: external(folder, "none.bin"),
            "W: expected its external data in .*none.bin, found no such file",
        ),
        (lambda folder: external(folder, "."), "W: expected its external data in .*, found no such file"),
        (lambda folder: external(folder, "weights.bin", length=5), "W: expected 32000 bytes .*, got 5 from 0"),
        (lambda folder: external(folder, "weights.bin", length=-32000), "W: expected 32000 bytes"),
    ],
)
def test_external_data_that_are_not_there(model: Any, message: str, tmp_path: Path) -> None:
    refused(model(tmp_path), tmp_path, message)


def test_external_data_cut_short(tmp_path: Path) -> None:
    model = external(tmp_path, "weights.bin")
    os.truncate(tmp_path / "weights.bin", 31999)
    refused(model, tmp_path, "W: expected 32000 bytes in .*weights.bin, got 31999; copy it again")


def test_numbers_of_external_data_that_are_none(tmp_path: Path) -> None:
    model = external(tmp_path, "weights.bin")
    for entry in model.graph.initializer[0].external_data:
        entry.value = "weights.bin" if entry.key == "location" else "many"
    refused(model, tmp_path, "W: expected whole numbers for the place of its external data")


def test_negative_sizes(tmp_path: Path) -> None:
    model = external(tmp_path, "weights.bin")
    model.graph.initializer[0].dims[:] = [-ROWS, -DIM]
    refused(model, tmp_path, "W: expected 32000 bytes")


def test_a_number_for_rows_that_overflows(tmp_path: Path) -> None:
    model = external(tmp_path, "weights.bin")
    model.graph.initializer[0].dims[:] = [2**62, 4]
    refused(model, tmp_path, "W: expected ")


def test_samples_that_are_a_pickle(tmp_path: Path) -> None:
    """They are not unpickled."""
    path, marker = tmp_path / "model.onnx", tmp_path / "ran"

    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(marker),)

    path.write_bytes(simple().SerializeToString())
    np.savez(tmp_path / "samples.npz", ids=np.array([Bomb()], dtype=object))
    with pytest.raises(ModelFileError, match=r"expected an \.npz with an array per input"):
        open_onnx(path, "toy", tmp_path / "samples.npz", 0, {})
    assert not marker.exists()
