"""Each form in which an ONNX file looks rows up: what is found, and that the cut answers as the whole model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from repo_builder.model.types import BATCH, Columns, Lookup
from tests.export.onnx_file.cutting import FLOAT, INT32, INT64, Arrays, make, node, opened, prove, table

ROWS, DIM = 11, 4


def one(
    nodes: list[onnx.NodeProto],
    ids_shape: tuple[int | str, ...] = ("N", 3),
    out_shape: tuple[int | str | None, ...] = ("N", DIM),
    ids_type: int = INT64,
    inputs: Mapping[str, tuple[int, tuple[int | str, ...]]] | None = None,
    arrays: Mapping[str, NDArray[Any]] | None = None,
    opset: int = 18,
) -> onnx.ModelProto:
    """A model of one table W and ids, whose nodes make y."""
    return make(
        nodes,
        {"ids": (ids_type, ids_shape), **(inputs or {})},
        {"y": (FLOAT, out_shape)},
        {"W": table(ROWS, DIM), "one": np.array([1]), "last": np.array([-1]), **(arrays or {})},
        opset,
    )


def ids_like(*shape: int, dtype: type = np.int64, low: int = -ROWS) -> NDArray[Any]:
    return np.random.default_rng(len(shape)).integers(low, ROWS, shape).astype(dtype)


Queries = Callable[[int], Arrays]
Case = tuple[onnx.ModelProto, Queries, dict[str, Any]]


def plain(*shape: int, dtype: type = np.int64) -> Queries:
    return lambda n: {"ids": ids_like(n, *shape, dtype=dtype)}


def cases() -> dict[str, Case]:
    gather = node("Gather", ["W", "ids"], "g")
    found: dict[str, Case] = {}
    found["rank_1"] = (
        one([node("Gather", ["W", "ids"], "y")], ("N",)),
        plain(),
        {
            "layout": Columns(0, 1, 1),
            "mode": "none",
            "count": 1,
            "shape": (BATCH, DIM),
            "batched": True,
        },
    )
    found["rank_2"] = (
        one([node("Gather", ["W", "ids"], "y")], out_shape=("N", 3, DIM)),
        plain(3),
        {
            "layout": Columns(0, 1, 3),
            "mode": "none",
            "count": 3,
            "shape": (BATCH, 3, DIM),
            "batched": True,
        },
    )
    found["rank_3"] = (
        one([node("Gather", ["W", "ids"], "y")], ("N", 2, 3), ("N", 2, 3, DIM)),
        plain(2, 3),
        {
            "layout": Columns(0, 1, 6),
            "count": 6,
            "shape": (BATCH, 6, DIM),
            "batched": True,
        },
    )
    found["int32"] = (
        one([node("Gather", ["W", "ids"], "y")], ("N",), ids_type=INT32),
        plain(dtype=np.int32),
        {
            "layout": Columns(0, 1, 1),
            "tensor": "ids",
        },
    )
    found["history"] = (
        one([node("Gather", ["W", "ids"], "y")], ("N", "L"), ("N", "L", DIM)),
        lambda n: {"ids": ids_like(n, n + 1)},
        {"layout": Columns(0, 1, 1), "group": "batch*L", "batched": False},
    )
    found["sum"] = (
        one([gather, node("ReduceSum", ["g", "one"], "y", keepdims=0)]),
        plain(3),
        {
            "layout": Columns(0, 3, 3),
            "mode": "sum",
            "count": 1,
            "shape": (BATCH, DIM),
            "batched": True,
        },
    )
    found["sum_kept_axis"] = (
        one([gather, node("ReduceSum", ["g", "one"], "y")], out_shape=("N", 1, DIM)),
        plain(3),
        {"mode": "sum"},
    )
    found["sum_negative_axis"] = (
        one([gather, node("ReduceSum", ["g", "axis"], "y", keepdims=0)], arrays={"axis": np.array([-2])}),
        plain(3),
        {"mode": "sum"},
    )
    found["sum_two_axes"] = (
        one(
            [gather, node("ReduceSum", ["g", "axes"], "y", keepdims=0)], ("N", 2, 3), arrays={"axes": np.array([2, 1])}
        ),
        plain(2, 3),
        {"mode": "sum", "layout": Columns(0, 6, 6)},
    )
    found["sum_of_fields"] = (
        one(
            [gather, node("ReduceSum", ["g", "two"], "y", keepdims=0)],
            ("N", 2, 3),
            ("N", 2, DIM),
            arrays={"two": np.array([2])},
        ),
        plain(2, 3),
        {"mode": "sum", "layout": Columns(0, 3, 6), "count": 2},
    )
    found["sum_over_the_batch_is_none"] = (
        one(
            [gather, node("ReduceSum", ["g", "zero"], "y", keepdims=0)],
            out_shape=(3, DIM),
            arrays={"zero": np.array([0])},
        ),
        plain(3),
        {"mode": "none", "batched": False},
    )
    found["sum_over_dim_is_none"] = (
        one([gather, node("ReduceSum", ["g", "last"], "y", keepdims=0)], out_shape=("N", 3)),
        plain(3),
        {"mode": "none"},
    )
    found["sum_read_twice_is_none"] = (
        one(
            [
                gather,
                node("ReduceSum", ["g", "one"], "s", keepdims=0),
                node("ReduceMax", ["g", "one"], "m", keepdims=0),
                node("Add", ["s", "m"], "y"),
            ]
        ),
        plain(3),
        {"mode": "none"},
    )
    found["mean_attribute"] = (
        one([gather, node("ReduceMean", ["g"], "y", axes=[1], keepdims=0)], opset=13),
        plain(3),
        {"mode": "mean", "layout": Columns(0, 3, 3)},
    )
    found["mean_of_any_length"] = (
        one([gather, node("ReduceMean", ["g", "one"], "y", keepdims=0)], ("N", "L")),
        lambda n: {"ids": ids_like(n, n + 2)},
        {"mode": "mean", "layout": Columns(0, 0, None), "shape": (BATCH, DIM), "batched": True},
    )
    found["weights"] = (
        one(
            [
                gather,
                node("Unsqueeze", ["w", "last"], "u"),
                node("Mul", ["u", "g"], "p"),
                node("ReduceSum", ["p", "one"], "y", keepdims=0),
            ],
            inputs={"w": (FLOAT, ("N", 3))},
        ),
        lambda n: {"ids": ids_like(n, 3), "w": np.random.default_rng(n).random((n, 3), np.float32)},
        {"mode": "sum", "weights": "w", "layout": Columns(0, 3, 3), "batched": True},
    )
    found["product_with_computed_weights_is_none"] = (
        one(
            [gather, node("Transpose", ["g"], "t", perm=[0, 2, 1]), node("MatMul", ["t", "g"], "y")],
            out_shape=("N", DIM, DIM),
        ),
        plain(3),
        {"mode": "none"},
    )
    found["a_score_of_no_dimension_for_one_row"] = (
        one(
            [node("Gather", ["W", "ids"], "g"), node("MatMul", ["g", "to_one"], "p"), node("Squeeze", ["p"], "y")],
            ("N",),
            ("N",),
            arrays={"to_one": table(DIM, 1, 1)},
        ),
        plain(),
        {"mode": "none", "batched": False},
    )
    found["ids_that_another_input_picks"] = (
        one(
            [node("Gather", ["ids", "place"], "picked", axis=1), node("Gather", ["W", "picked"], "y")],
            ("N", 6),
            ("N", 1, DIM),
            inputs={"place": (INT64, (1,))},
        ),
        lambda n: {"ids": ids_like(n, 6), "place": np.array([n])},
        {"layout": Columns(0, 1, 1), "tensor": "picked", "ids_graph": ["picked"]},
    )
    found["weights_of_every_column_are_none"] = (
        one(
            [gather, node("Mul", ["g", "w"], "p"), node("ReduceSum", ["p", "one"], "y", keepdims=0)],
            inputs={"w": (FLOAT, ("N", 3, DIM))},
        ),
        lambda n: {"ids": ids_like(n, 3), "w": np.ones((n, 3, DIM), np.float32)},
        {"mode": "none"},
    )
    found["attention_is_none"] = (
        one(
            [
                gather,
                node("ReduceSum", ["g", "last"], "a"),
                node("Softmax", ["a"], "b", axis=1),
                node("Mul", ["g", "b"], "p"),
                node("ReduceSum", ["p", "one"], "y", keepdims=0),
            ]
        ),
        plain(3),
        {"mode": "none", "batched": True},
    )
    found["column_by_gather"] = (
        one(
            [node("Gather", ["ids", "two"], "c", axis=1), node("Gather", ["W", "c"], "y")],
            ("N", 5),
            arrays={"two": np.array(2)},
        ),
        plain(5),
        {"layout": Columns(2, 1, 5), "tensor": "ids"},
    )
    found["columns_by_slice"] = (
        one(
            [node("Slice", ["ids", "one", "three", "one"], "c"), node("Gather", ["W", "c"], "y")],
            ("N", 5),
            ("N", 2, DIM),
            arrays={"three": np.array([3])},
        ),
        plain(5),
        {"tensor": "ids"},
    )
    found["columns_by_split"] = (
        one(
            [
                node("Split", ["ids", "sizes"], ["a", "b"], axis=1),
                node("Gather", ["W", "b"], "g"),
                node("ReduceSum", ["g", "one"], "y", keepdims=0),
                node("Identity", ["a"], "unused"),
            ],
            ("N", 5),
            arrays={"sizes": np.array([2, 3])},
        ),
        plain(5),
        {"layout": Columns(2, 3, 5), "tensor": "ids", "mode": "sum"},
    )
    found["squeezed_and_cast"] = (
        one(
            [
                node("Cast", ["ids"], "c", to=INT64),
                node("Squeeze", ["c", "one"], "q"),
                node("Reshape", ["q", "last"], "r"),
                node("Gather", ["W", "r"], "y"),
            ],
            ("N", 1),
            ids_type=INT32,
        ),
        plain(1, dtype=np.int32),
        {"layout": Columns(0, 1, 1), "tensor": "ids"},
    )
    found["transposed_needs_an_ids_graph"] = (
        one(
            [
                node("Transpose", ["ids"], "t", perm=[0, 2, 1]),
                node("Gather", ["W", "t"], "g"),
                node("ReduceSum", ["g", "two"], "y", keepdims=0),
            ],
            ("N", 2, 3),
            ("N", 3, DIM),
            arrays={"two": np.array([2])},
        ),
        plain(2, 3),
        {"tensor": "t", "layout": Columns(0, 2, 6)},
    )
    found["offsets_added"] = (
        one(
            [node("Add", ["ids", "offsets"], "a"), node("Gather", ["W", "a"], "y")],
            out_shape=("N", 3, DIM),
            arrays={"offsets": np.array([0, 3, 6])},
        ),
        lambda n: {"ids": ids_like(n, 3, low=0) % 3},
        {"tensor": "a", "layout": Columns(0, 1, 3), "ids_graph": ["a"]},
    )
    found["clipped_is_no_input"] = (
        one(
            [node("Clip", ["ids", "", "high"], "c"), node("Gather", ["W", "c"], "y")],
            ("N",),
            arrays={"high": np.array(5)},
        ),
        plain(),
        {"tensor": "c"},
    )
    found["floats_cast"] = (
        one(
            [node("Cast", ["x"], "c", to=INT64), node("Gather", ["W", "c"], "y"), node("Identity", ["ids"], "unused")],
            ("N",),
            inputs={"x": (FLOAT, ("N",))},
        ),
        lambda n: {"ids": ids_like(n), "x": ids_like(n, low=0).astype(np.float32)},
        {"tensor": "c", "ids_graph": ["c"]},
    )
    negative_by_where = [
        node("Less", ["ids", "zero"], "b"),
        node("Add", ["ids", "rows"], "s"),
        node("Where", ["b", "s", "ids"], "c"),
        node("Gather", ["W", "c"], "g"),
        node("ReduceMean", ["g", "one"], "y", keepdims=0),
    ]
    found["tensorflow_negative_ids"] = (
        one(negative_by_where, arrays={"zero": np.array(0), "rows": np.array(ROWS)}),
        plain(3),
        {"mode": "mean", "tensor": "ids", "layout": Columns(0, 3, 3), "ids_graph": None},
    )
    found["tensorflow_negative_ids_by_products"] = (
        one(
            [
                node("Cast", ["ids"], "f", to=FLOAT),
                node("Less", ["f", "zero"], "b"),
                node("Cast", ["b"], "m", to=INT32),
                node("Add", ["ids", "rows"], "s"),
                node("Mul", ["m", "s"], "p"),
                node("Not", ["b"], "n"),
                node("Cast", ["n"], "o", to=INT32),
                node("Mul", ["ids", "o"], "q"),
                node("Add", ["p", "q"], "c"),
                node("Unsqueeze", ["c", "one"], "u"),
                node("Gather", ["W", "u"], "g"),
                node("Squeeze", ["g", "one"], "y"),
            ],
            ("N",),
            ids_type=INT32,
            arrays={"zero": np.array(0, np.float32), "rows": np.array(ROWS, np.int32)},
        ),
        plain(dtype=np.int32),
        {"tensor": "ids", "layout": Columns(0, 1, 1), "ids_graph": None},
    )
    found["another_number_added_to_negative_ids"] = (
        one(negative_by_where, arrays={"zero": np.array(0), "rows": np.array(ROWS - 1)}),
        lambda n: {"ids": ids_like(n, 3, low=1 - ROWS)},
        {"tensor": "c", "ids_graph": ["c"]},
    )
    found["looked_up_through_identity_and_cast"] = (
        one(
            [node("Identity", ["H"], "i"), node("Cast", ["i"], "c", to=FLOAT), node("Gather", ["c", "ids"], "y")],
            ("N",),
            arrays={"H": table(ROWS, DIM).astype(np.float16)},
        ),
        plain(),
        {"table": "H"},
    )
    found["vector_table"] = (
        one(
            [node("Gather", ["b", "ids"], "g"), node("ReduceSum", ["g", "one"], "y")],
            out_shape=("N", 1),
            arrays={"b": table(ROWS, 1)[:, 0]},
        ),
        plain(3),
        {"table": "b", "mode": "sum", "shape": (BATCH, 1)},
    )
    found["axis_by_negative_number"] = (
        one([node("Gather", ["W", "ids"], "y", axis=-2)], ("N",)),
        plain(),
        {"mode": "none"},
    )
    return found


@pytest.mark.parametrize("name", cases())
def test_pattern(name: str, tmp_path: Path) -> None:
    check(cases()[name], tmp_path)


def check(case: Case, tmp_path: Path) -> None:
    """What is found of the one look-up, and that the cut answers as the whole model."""
    model, queries, expected = case
    source = opened(model, tmp_path)
    (lookup,) = source.model.lookups
    seen = facts(source.model.lookups[0], source.model)
    assert {key: seen[key] for key in expected} == expected
    assert lookup.ids.from_end
    prove(source, tmp_path / "model.onnx", [queries(n) for n in (1, 2, 5)], tmp_path)


def facts(lookup: Lookup, model: Any) -> dict[str, Any]:
    return {
        "layout": lookup.ids.layout,
        "tensor": lookup.ids.tensor,
        "weights": lookup.ids.weights,
        "padding": lookup.ids.padding,
        "mode": lookup.mode,
        "count": lookup.count,
        "shape": lookup.shape,
        "group": model.groups[lookup.group].rows,
        "table": model.tables[lookup.table].name,
        "batched": model.dense.batched,
        "ids_graph": [tensor.name for tensor in model.ids_graph.outputs] if model.ids_graph else None,
    }
