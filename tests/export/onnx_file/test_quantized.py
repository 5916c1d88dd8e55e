"""Tables that an ONNX file has in fewer bits: cut with the rows that it has, and the cut answers as onnxruntime."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper
from onnxruntime.quantization import quantize_dynamic

from repo_builder.errors import CheckpointError, ModelFileError
from repo_builder.export import stored
from repo_builder.model.types import RowDtype
from tests.export.onnx_file.cutting import FLOAT, INT64, make, node, opened, prove

KINDS = {np.int8: (-128, 127), np.uint8: (0, 255), ml_dtypes.int4: (-8, 7), ml_dtypes.uint4: (0, 15)}


def numbers(kind: type, rows: int, dim: int) -> NDArray[Any]:
    least, most = KINDS[kind]
    return np.random.default_rng(dim).integers(least, most + 1, (rows, dim)).astype(kind)


def quantized(
    rows: int,
    kind: type,
    scale: NDArray[Any],
    zero: NDArray[Any] | None,
    dim: int = 8,
    before: bool = True,
    pooling: str = "",
    opset: int = 21,
    **attributes: int,
) -> onnx.ModelProto:
    """A model of one such table, dequantized before or behind its Gather, and pooled."""
    arrays = {"W": numbers(kind, rows, dim), "s": scale, "one": np.array([1])}
    sides = ["s"]
    if zero is not None:
        arrays["z"] = zero.astype(kind)
        sides.append("z")
    looked_up = "g" if pooling else "y"
    if before:
        nodes = [node("DequantizeLinear", ["W", *sides], "d", **attributes), node("Gather", ["d", "ids"], looked_up)]
    else:
        nodes = [node("Gather", ["W", "ids"], "q"), node("DequantizeLinear", ["q", *sides], looked_up, **attributes)]
    nodes += [node(pooling, ["g", "one"], "y", keepdims=0)] if pooling else []
    kind_of_y = helper.np_dtype_to_tensor_dtype(scale.dtype)
    shape = ("N", dim) if pooling else ("N", 3, dim)
    return make(nodes, {"ids": (INT64, ("N", 3))}, {"y": (kind_of_y, shape)}, arrays, opset)


def single(value: float) -> NDArray[np.float32]:
    return np.float32(value).reshape(())


def of_rows(count: int, most: float = 0.02) -> NDArray[np.float32]:
    return np.random.default_rng(3).uniform(most / 50, most, count).astype(np.float32)


def zeros_of(kind: type, count: int) -> NDArray[Any]:
    least, most = KINDS[kind]
    return np.random.default_rng(4).integers(least, most + 1, count)


def halves(count: int) -> NDArray[np.float32]:
    """Scales that float16 has, as all multiples of theirs."""
    return (2.0 ** np.random.default_rng(5).integers(-9, -4, count)).astype(np.float32)


CASES: dict[str, tuple[Callable[[int], onnx.ModelProto], RowDtype]] = {
    "int8 of a table": (lambda n: quantized(n, np.int8, single(0.01), np.array(3)), "int8"),
    "without a zero point": (lambda n: quantized(n, np.uint8, single(0.01), None), "int8"),
    "uint8, a scale each row": (lambda n: quantized(n, np.uint8, of_rows(n), zeros_of(np.uint8, n), axis=0), "int8"),
    "int8, summed": (
        lambda n: quantized(n, np.int8, of_rows(n), zeros_of(np.int8, n), axis=-2, pooling="ReduceSum"),
        "int8",
    ),
    "averaged": (lambda n: quantized(n, np.uint8, single(0.01), np.array(128), pooling="ReduceMean"), "int8"),
    "behind the Gather": (lambda n: quantized(n, np.int8, single(0.01), np.array(-5), before=False), "int8"),
    "behind it, summed": (
        lambda n: quantized(n, np.uint8, single(0.01), np.array(9), before=False, pooling="ReduceSum", opset=13),
        "int8",
    ),
    "in blocks as wide as a row": (
        lambda n: quantized(n, np.int8, of_rows(n).reshape(-1, 1), None, axis=1, block_size=8),
        "int8",
    ),
    "int8, scales that float16 has": (
        lambda n: quantized(n, np.int8, halves(n), zeros_of(np.int8, n), axis=0),
        "int8_half",
    ),
    "uint8 of a table, likewise, summed": (
        lambda n: quantized(n, np.uint8, single(0.015625), np.array(77), pooling="ReduceSum"),
        "int8_half",
    ),
    "int4": (lambda n: quantized(n, ml_dtypes.int4, halves(n), zeros_of(ml_dtypes.int4, n), axis=0), "int4"),
    "uint4 of a table": (lambda n: quantized(n, ml_dtypes.uint4, single(0.25), np.array(7)), "int4"),
    "int4, odd, summed": (
        lambda n: quantized(n, ml_dtypes.int4, halves(n), None, dim=11, axis=0, pooling="ReduceSum"),
        "int4",
    ),
    "uint4, scales that float16 has not": (
        lambda n: quantized(n, ml_dtypes.uint4, of_rows(n), zeros_of(ml_dtypes.uint4, n), dim=13, axis=0),
        "int8",
    ),
    "a scale each column": (lambda n: quantized(n, np.int8, of_rows(8), zeros_of(np.int8, 8), axis=1), "fp32"),
    "behind it a scale each column": (
        lambda n: quantized(n, np.uint8, of_rows(8), zeros_of(np.uint8, 8), before=False, axis=-1),
        "fp32",
    ),
    "in blocks": (
        lambda n: quantized(n, np.uint8, of_rows(n * 3).reshape(-1, 3), None, dim=11, axis=1, block_size=4),
        "fp32",
    ),
    "large numbers": (lambda n: quantized(n, np.uint8, single(3.7), np.array(128)), "fp32"),
    "large numbers without a bias": (lambda n: quantized(n, np.uint8, single(3.7), None), "int8"),
    "narrow rows": (lambda n: quantized(n, np.int8, single(0.01), np.array(3), dim=2), "fp32"),
    "halves": (lambda n: quantized(n, np.int8, np.float16(0.01).reshape(()), np.array(3)), "fp32"),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("rows", [37, 3000])
def test_the_cut_answers_as_the_whole_model(
    name: str, rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With rows in the message and, where they are many, left in the file; read in blocks of odd sizes."""
    made, dtype = CASES[name]
    monkeypatch.setattr(stored, "CHUNK_BYTES", 4 * 8 * 7 * (1 + rows // 1000))
    source = opened(made(rows), tmp_path)
    (table,), (lookup,) = source.model.tables, source.model.lookups
    assert table.format.dtype == dtype and not source.model.kept
    assert lookup.mode == {"summed": "sum", "averaged": "mean"}.get(name.split(", ")[-1], "none")
    assert len(source.notes) == 1 and source.notes[0].startswith("W: its ") and f"stored as {dtype}" in source.notes[0]
    ids = np.random.default_rng(0).integers(-table.rows, table.rows, (5, 3))
    prove(source, tmp_path / "model.onnx", [{"ids": ids}, {"ids": ids[:1]}], tmp_path)


def test_onnxruntimes_own_quantization_is_taken_as_it_is(tmp_path: Path) -> None:
    """quantize_dynamic: whole numbers are looked up, and dequantized behind; the layer's stay in the dense graph."""
    rng = np.random.default_rng(0)
    arrays = {"W": rng.standard_normal((500, 16), np.float32), "M": rng.standard_normal((16, 1), np.float32)}
    nodes = [node("Gather", ["W", "ids"], "g"), node("MatMul", ["g", "M"], "y")]
    model = make(nodes, {"ids": (INT64, ("N",))}, {"y": (FLOAT, ("N", 1))}, arrays)
    (tmp_path / "float.onnx").write_bytes(model.SerializeToString())
    quantize_dynamic(tmp_path / "float.onnx", tmp_path / "model.onnx", op_types_to_quantize=["Gather"])
    source = opened(onnx.load(tmp_path / "model.onnx"), tmp_path)
    assert [(table.rows, table.format.dtype) for table in source.model.tables] == [(500, "int8")]
    ids = rng.integers(0, 500, 9)
    prove(source, tmp_path / "model.onnx", [{"ids": ids}, {"ids": ids[:1]}], tmp_path)


def test_small_tables_stay_by_the_bytes_that_they_have(tmp_path: Path) -> None:
    model = quantized(37, np.int8, single(0.01), None)
    assert opened(model, tmp_path, 37 * 16).model.tables[0].size_bytes == 37 * 16
    with pytest.raises(ModelFileError, match=r"its 592 bytes are under 593 \(keep_under_bytes\)"):
        opened(model, tmp_path, 37 * 16 + 1)


def test_rows_with_scales_of_their_own_are_tables_by_themselves(tmp_path: Path) -> None:
    """Those that become float32 lie side by side with others that are read alike."""
    arrays = {"s": single(0.01), "c": of_rows(8), "F": np.random.default_rng(1).standard_normal((37, 4), np.float32)}
    arrays |= {name: numbers(np.int8, 37, 8) for name in ("A", "B", "C")}
    nodes = [node("DequantizeLinear", [name, "s"], f"d{name}") for name in ("A", "B")]
    nodes += [node("DequantizeLinear", ["C", "c"], "dC", axis=1)]
    nodes += [node("Gather", [name, "ids"], f"g{name}") for name in ("dA", "dB", "dC", "F")]
    nodes.append(node("Concat", ["gdA", "gdB", "gdC", "gF"], "y", axis=-1))
    model = make(nodes, {"ids": (INT64, ("N",))}, {"y": (FLOAT, ("N", 28))}, arrays, 21)
    source = opened(model, tmp_path)
    assert sorted((table.format.dim, table.format.dtype) for table in source.model.tables) == [
        (8, "int8"),
        (8, "int8"),
        (12, "fp32"),
    ]
    ids = np.random.default_rng(0).integers(0, 37, 9)
    prove(source, tmp_path / "model.onnx", [{"ids": ids}], tmp_path)


def block_quantized(quantize_axis: int = 1) -> onnx.ModelProto:
    arrays = {"W": numbers(ml_dtypes.int4, 37, 32), "s": of_rows(74).reshape(37, 2)}
    attributes = {"gather_axis": 0, "quantize_axis": quantize_axis, "block_size": 16, "domain": "com.microsoft"}
    nodes = [node("GatherBlockQuantized", ["W", "ids", "s"], "y", **attributes)]
    shape = ("N", 32)
    return make(nodes, {"ids": (INT64, ("N",))}, {"y": (FLOAT, shape)}, arrays, 21, ["com.microsoft"])


def test_onnxruntimes_look_up_of_blocks(tmp_path: Path) -> None:
    source = opened(block_quantized(), tmp_path)
    assert [(table.rows, table.format.dim, table.format.dtype) for table in source.model.tables] == [(37, 32, "fp32")]
    prove(source, tmp_path / "model.onnx", [{"ids": np.arange(37)}], tmp_path)


def with_another_reader(*others: onnx.NodeProto, **arrays: NDArray[Any]) -> onnx.ModelProto:
    """A quantized table W, and one of floats, with nodes that make `z`."""
    own = {"W": numbers(np.int8, 37, 8), "s": of_rows(37), "F": np.ones((37, 4), np.float32)}
    nodes = [
        node("DequantizeLinear", ["W", "s"], "d", axis=0),
        node("Gather", ["d", "ids"], "y"),
        node("Gather", ["F", "ids"], "f"),
    ]
    kind = TensorProto.INT8 if others[-1].op_type in ("Gather", "Identity") else FLOAT
    outputs = {"y": (FLOAT, ("N", 8)), "f": (FLOAT, ("N", 4)), "z": (kind, None)}
    return make([*nodes, *others], {"ids": (INT64, ("N",))}, outputs, {**own, **arrays}, 21)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (
            with_another_reader(
                node("DequantizeLinear", ["W", "t"], "e", axis=0), node("ReduceMax", ["e"], "x"),
                node("Gather", ["e", "ids"], "k"), node("Add", ["k", "x"], "z"), t=of_rows(37),
            ),
            "is no look-up",
        ),
        (
            with_another_reader(
                node("DequantizeLinear", ["W", "t"], "e", axis=0), node("Gather", ["e", "ids"], "k"),
                node("Relu", ["k"], "z"), t=2 * of_rows(37),
            ),
            "its numbers are read by two scales",
        ),
        (with_another_reader(node("Gather", ["W", "ids"], "z")), "looks up its whole numbers"),
        (
            with_another_reader(
                node("Identity", ["s"], "t"), node("DequantizeLinear", ["W", "t"], "e", axis=0),
                node("Gather", ["e", "ids"], "k"), node("Relu", ["k"], "z"),
            ),
            "its scale or zero point is computed",
        ),
    ],
)  # fmt: skip
def test_what_is_read_in_other_ways_too_stays_dense(model: onnx.ModelProto, reason: str, tmp_path: Path) -> None:
    source = opened(model, tmp_path)
    assert [table.name for table in source.model.tables] == ["F"]
    assert [(kept.name, kept.rows, kept.dim) for kept in source.model.kept] == [("W", 37, 8)]
    assert reason in source.model.kept[0].reason
    prove(source, tmp_path / "model.onnx", [{"ids": np.arange(37)}], tmp_path)


def test_scales_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    scale = of_rows(37)
    scale[5] = np.nan
    with pytest.raises(ModelFileError, match="s: expected finite scales of W, got nan at 5") as caught:
        opened(quantized(37, np.int8, scale, None, axis=0), tmp_path)
    assert len(caught.value.problems) == 1


def test_numbers_beyond_float32_are_refused(tmp_path: Path) -> None:
    source = opened(quantized(37, np.uint8, single(3e38), np.array(100)), tmp_path)
    with pytest.raises(CheckpointError, match="W: expected finite float32 values, got others at row 0"):
        list(source.table_chunks(source.model.tables[0]))


@pytest.mark.parametrize("count", [36, 8])
def test_scales_of_another_number_are_refused(count: int, tmp_path: Path) -> None:
    with pytest.raises(ModelFileError) as caught:
        opened(quantized(37, np.int8, of_rows(count), None, axis=0), tmp_path)
    assert all(str(tmp_path) in problem for problem in caught.value.problems)
