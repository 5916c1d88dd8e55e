"""Whole models: several tables, groups and outputs; tables that lie side by side, that stay, and why."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from repo_builder.errors import CheckpointError, ExportError, InputError, ModelFileError
from repo_builder.export.onnx_file import open_onnx
from repo_builder.model.source import Partial
from repo_builder.model.types import BATCH, Columns, Group, Tensor
from tests.export.onnx_file.cutting import (
    FLOAT,
    INT64,
    answer,
    make,
    node,
    opened,
    partials_of,
    prove,
    read_tables,
    table,
)

DIM = 4


def deep_fm(rows: int = 20) -> Any:
    """A vector and a linear weight of each id of two features, a dense input, two outputs."""
    nodes = []
    for feature in (0, 1):
        nodes += [
            node("Gather", ["sparse", f"at_{feature}"], f"ids_{feature}", axis=1),
            node("Gather", [f"vectors.{feature}", f"ids_{feature}"], f"v{feature}"),
            node("Gather", [f"linear/{feature}", f"ids_{feature}"], f"l{feature}"),
        ]
    nodes += [
        node("Concat", ["v0", "v1", "dense"], "c", axis=1),
        node("MatMul", ["c", "weight"], "deep"),
        node("Sum", ["l0", "l1", "deep"], "logit"),
        node("Sigmoid", ["logit"], "score"),
        node("Mul", ["v0", "v1"], "crossed"),
    ]
    arrays: dict[str, NDArray[Any]] = {"weight": table(2 * DIM + 3, 1, 9)}
    for feature in (0, 1):
        arrays |= {
            f"at_{feature}": np.array(feature),
            f"vectors.{feature}": table(rows + feature, DIM, feature),
            f"linear/{feature}": table(rows + feature, 1, 2 + feature),
        }
    inputs = {"dense": (FLOAT, ("N", 3)), "sparse": (INT64, ("N", 2))}
    return make(nodes, inputs, {"score": (FLOAT, ("N", 1)), "crossed": (FLOAT, ("N", DIM))}, arrays)


def deep_fm_query(n: int, rows: int = 20) -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(n)
    return {"dense": rng.random((n, 3), np.float32), "sparse": rng.integers(-rows, rows, (n, 2))}


def test_tables_of_the_same_ids_lie_side_by_side(tmp_path: Path) -> None:
    source = opened(deep_fm(), tmp_path)
    model = source.model
    assert [(t.name, t.rows, t.format.dim) for t in model.tables] == [("vectors.0", 20, 5), ("vectors.1", 21, 5)]
    assert [lookup.ids.layout for lookup in model.lookups] == [Columns(0, 1, 2), Columns(1, 1, 2)]
    assert model.inputs == (Tensor("dense", "FP32", (BATCH, 3)), Tensor("sparse", "INT64", (BATCH, 2)))
    assert model.outputs == (Tensor("score", "FP32", (BATCH, 1)), Tensor("crossed", "FP32", (BATCH, DIM)))
    assert [tensor.name for tensor in model.dense.inputs] == ["dense"]
    assert model.groups == (Group(BATCH, 1.0),)
    assert model.dense.batched
    assert model.dense.flops_per_row == 2 * 11
    (first, _) = read_tables(source)
    np.testing.assert_array_equal(first, np.hstack([table(20, DIM, 0), table(20, 1, 2)]))
    prove(source, tmp_path / "model.onnx", [deep_fm_query(n) for n in (1, 4)], tmp_path)


def test_tables_of_the_same_ids_but_other_rows_do_not(tmp_path: Path) -> None:
    model = deep_fm()
    for tensor in model.graph.initializer:
        if tensor.name == "linear/0":
            tensor.CopyFrom(make([], {}, {}, {"linear/0": table(22, 1)}).graph.initializer[0])
    names = [each.name for each in opened(model, tmp_path).model.tables]
    assert names == ["vectors.0", "linear_0", "vectors.1"]


def test_small_tables_stay(tmp_path: Path) -> None:
    source = opened(deep_fm(), tmp_path, keep_under_bytes=21 * DIM * 4, keep={"linear_0": "shard"})
    assert [each.name for each in source.model.tables] == ["linear_0", "vectors.1"]
    reasons = {kept.name: kept.reason for kept in source.model.kept}
    assert set(reasons) == {"vectors.0", "linear_1"}
    assert reasons["vectors.0"] == "its 320 bytes are under 336 (keep_under_bytes)"
    prove(source, tmp_path / "model.onnx", [deep_fm_query(3)], tmp_path)


def test_a_table_stays_where_the_spec_says_so(tmp_path: Path) -> None:
    source = opened(deep_fm(), tmp_path, keep={"vectors.1": "dense"})
    assert [each.name for each in source.model.tables] == ["vectors.0", "linear_1"]
    assert "keep" in source.model.kept[0].reason
    prove(source, tmp_path / "model.onnx", [deep_fm_query(3)], tmp_path)


def test_one_table_of_two_features_is_one(tmp_path: Path) -> None:
    """And a look-up that the graph has twice is one."""
    nodes = [
        node("Gather", ["W", "a"], "ga"),
        node("Gather", ["W", "b"], "gb"),
        node("Gather", ["W", "a"], "again"),
        node("Concat", ["ga", "gb", "again"], "y", axis=1),
    ]
    inputs = {"a": (INT64, ("N",)), "b": (INT64, ("N",))}
    source = opened(make(nodes, inputs, {"y": (FLOAT, ("N", 12))}, {"W": table(9, DIM)}), tmp_path)
    assert len(source.model.tables) == 1
    assert [(lookup.name, lookup.ids.tensor) for lookup in source.model.lookups] == [("W", "a"), ("W_2", "b")]
    prove(source, tmp_path / "model.onnx", [{"a": np.array([1, -9, 8]), "b": np.array([0, 1, 1])}], tmp_path)


def test_a_user_beside_candidates(tmp_path: Path) -> None:
    """Inputs of batch 1, a scalar, a history and candidates: groups of their own."""
    nodes = [
        node("Gather", ["users", "user"], "u"),  # (1, dim)
        node("Gather", ["countries", "country"], "c"),  # (dim)
        node("Gather", ["items", "history"], "h"),  # (L, dim)
        node("ReduceMean", ["h", "zero"], "m"),  # (1, dim)
        node("Gather", ["items", "candidates"], "i"),  # (N, dim)
        node("Sum", ["u", "c", "m"], "all"),
        node("Mul", ["all", "i"], "p"),
        node("ReduceSum", ["p", "one"], "score", keepdims=0),
    ]
    inputs: dict[str, Any] = {
        "user": (INT64, (1,)), "country": (INT64, ()), "history": (INT64, ("L",)), "candidates": (INT64, ("N",)),
    }  # fmt: skip
    arrays = {
        "users": table(9, DIM), "countries": table(5, DIM, 1), "items": table(30, DIM, 2), "zero": np.array([0]),
        "one": np.array([1]),
    }  # fmt: skip
    source = opened(make(nodes, inputs, {"score": (FLOAT, ("N",))}, arrays), tmp_path)
    assert [group.rows for group in source.model.groups] == [BATCH, 1, "L"]
    assert [(lookup.group, lookup.shape) for lookup in source.model.lookups] == [
        (1, (1, DIM)), (1, (1, DIM)), (2, ("L", DIM)), (0, (BATCH, DIM)),
    ]  # fmt: skip
    assert not source.model.dense.batched
    queries = [
        {"user": np.array([3]), "country": np.array(2), "history": np.arange(length), "candidates": np.arange(n)}
        for length, n in ((1, 1), (7, 3), (2, 30))
    ]
    prove(source, tmp_path / "model.onnx", queries, tmp_path)


def test_a_dense_graph_across_rows_is_not_batched(tmp_path: Path) -> None:
    nodes = [node("Gather", ["W", "ids"], "g"), node("Softmax", ["g"], "y", axis=0)]
    model = make(nodes, {"ids": (INT64, ("N",))}, {"y": (FLOAT, ("N", DIM))}, {"W": table(9, DIM)})
    source = opened(model, tmp_path)
    assert not source.model.dense.batched
    prove(source, tmp_path / "model.onnx", [{"ids": np.arange(4)}], tmp_path)


@pytest.mark.parametrize("kind", [TensorProto.FLOAT16, TensorProto.DOUBLE])
def test_other_floats_are_stored_as_float32(kind: int, tmp_path: Path) -> None:
    dtype = np.float16 if kind == TensorProto.FLOAT16 else np.float64
    nodes = [node("Gather", ["W", "ids"], "g"), node("Add", ["g", "g"], "y")]
    arrays = {"W": table(2000, DIM).astype(dtype)}
    source = opened(make(nodes, {"ids": (INT64, ("N",))}, {"y": (kind, ("N", DIM))}, arrays), tmp_path)
    np.testing.assert_array_equal(read_tables(source)[0], arrays["W"].astype(np.float32))
    prove(source, tmp_path / "model.onnx", [{"ids": np.array([0, 1999, -3])}], tmp_path)


def stays(nodes: list[Any], tmp_path: Path, **arrays: NDArray[Any]) -> str:
    """The reason why a table W stays beside one that does not."""
    inputs = {"ids": (INT64, ("N",)), "x": (FLOAT, ("N", DIM))}
    nodes = [node("Gather", ["other", "ids"], "o"), *nodes, node("Identity", ["o"], "also")]
    arrays = {"W": table(9, DIM), "other": table(9, DIM, 1), **arrays}
    answers: dict[str, Any] = {"y": (FLOAT, None), "also": (FLOAT, ("N", DIM))}
    source = opened(make(nodes, inputs, answers, arrays), tmp_path)
    prove(source, tmp_path / "model.onnx", [{"ids": np.arange(3), "x": table(3, DIM)}], tmp_path)
    assert [each.name for each in source.model.tables] == ["other"]
    return next(kept.reason for kept in source.model.kept if kept.name == "W")


def test_a_tied_table_stays(tmp_path: Path) -> None:
    reason = stays(
        [
            node("Gather", ["W", "ids"], "g"),
            node("Transpose", ["W"], "t"),
            node("MatMul", ["g", "t"], "y"),
        ],
        tmp_path,
    )
    assert reason == "it is read by node n_y (MatMul), which is no look-up"


def test_a_table_of_looked_up_ids_stays(tmp_path: Path) -> None:
    """Ids that depend on what another table gives."""
    nodes = [
        node("ReduceSum", ["o", "one"], "s", keepdims=0),
        node("Sign", ["s"], "sign"),
        node("Cast", ["sign"], "c", to=INT64),
        node("Gather", ["W", "c"], "y"),
    ]
    reason = stays(nodes, tmp_path, one=np.array([1]))
    assert reason == "the ids of node n_y depend on what node n_o looks up"


def test_a_table_of_computed_ids_stays(tmp_path: Path) -> None:
    nodes = [
        node("MatMul", ["x", "m"], "p"),
        node("ArgMax", ["p"], "c", axis=1, keepdims=0),
        node("Gather", ["W", "c"], "y"),
    ]
    reason = stays(nodes, tmp_path, m=table(DIM, 5))
    assert reason == "the ids of node n_y are computed by node n_p (MatMul)"


def test_positions_stay(tmp_path: Path) -> None:
    nodes = [
        node("Shape", ["ids"], "shape"),
        node("Squeeze", ["shape"], "size"),
        node("Range", ["zero", "size", "one"], "positions"),
        node("Gather", ["W", "positions"], "y"),
    ]
    reason = stays(nodes, tmp_path, zero=np.array(0), one=np.array(1))
    assert reason == "the ids of node n_y are the same in every query of a size"


def test_other_operators_keep_their_table(tmp_path: Path) -> None:
    nodes = [node("Unsqueeze", ["ids", "one"], "u"), node("GatherND", ["W", "u"], "y")]
    reason = stays(nodes, tmp_path, one=np.array([1]))
    assert reason == "it is read by node n_y (GatherND), which is no look-up"


def test_a_table_that_is_read_in_a_branch_stays(tmp_path: Path) -> None:
    """Which is no loop, as torch's exporters would write."""
    then, other = (
        helper.make_graph(
            [node("Gather", [name, "ids"], "found")], name, [], [helper.make_tensor_value_info("found", FLOAT, None)]
        )
        for name in ("W", "V")
    )
    nodes = [
        node("ReduceMax", ["ids"], "most", keepdims=0),
        node("Greater", ["most", "one"], "is_large"),
        node("If", ["is_large"], "y", then_branch=then, else_branch=other),
    ]
    reason = stays(nodes, tmp_path, one=np.array(1), V=table(9, DIM, 2))
    assert (
        reason == "it is read inside node n_y (If), where look-ups are not cut; look its rows up outside of that node"
    )


def test_a_transposed_table_stays(tmp_path: Path) -> None:
    nodes = [node("Transpose", ["T"], "t"), node("Gather", ["t", "ids"], "y"), node("Gather", ["W", "ids"], "unused")]
    arrays = {"T": table(DIM, 9), "W": table(9, DIM)}
    with pytest.raises(ModelFileError, match=r"table T \(4 x 9\): .*Transpose"):
        opened(make(nodes[:2], {"ids": (INT64, ("N",))}, {"y": (FLOAT, ("N", DIM))}, arrays), tmp_path)


def test_tensors_that_are_called_as_look_ups(tmp_path: Path) -> None:
    nodes = [
        node("Gather", ["W", "ids"], "lookup_0"),
        node("Neg", ["lookup_0"], "looked_up_0"),
        node("Add", ["looked_up_0", "lookup_0"], "joined_0"),
        node("Abs", ["joined_0"], "y"),
    ]
    source = opened(make(nodes, {"ids": (INT64, ("N",))}, {"y": (FLOAT, ("N", DIM))}, {"W": table(9, DIM)}), tmp_path)
    prove(source, tmp_path / "model.onnx", [{"ids": np.arange(4)}], tmp_path)
    nodes = [node("Gather", ["W", "lookup_3"], "y")]
    model = make(nodes, {"lookup_3": (INT64, ("N",))}, {"y": (FLOAT, ("N", DIM))}, {"W": table(9, DIM)})
    with pytest.raises(ModelFileError, match="lookup_3: expected inputs and outputs not called lookup_N"):
        opened(model, tmp_path)


def test_samples_are_what_is_tried(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(deep_fm().SerializeToString())
    query = deep_fm_query(50)
    np.savez(tmp_path / "samples.npz", **query)
    source = open_onnx(path, "toy", tmp_path / "samples.npz", 0, {})
    found = source.samples()
    assert found is not None
    assert {name: array.tolist() for name, array in found.items()} == {n: a.tolist() for n, a in query.items()}
    prove(source, path, [query], tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dense": None}, r"dense: expected FP32 \[batch, \d\], got none"),
        ({"more": np.zeros(1)}, "more: expected inputs dense, sparse alone, got this too"),
        ({"sparse": np.zeros((4, 2), np.int32)}, r"sparse: expected INT64 \[batch, 2\], got int32 \[4, 2\]"),
        ({"sparse": np.zeros((4, 3), np.int64)}, r"sparse: expected INT64 \[batch = 4, 2\], got \[4, 3\]"),
        ({"sparse": np.zeros((3, 2), np.int64)}, r"sparse: expected INT64 \[batch = 4, 2\], got \[3, 2\]"),
        (
            {"sparse": np.array([[0, -20], [5, 21], [0, 0], [0, 0]])},
            r"samples.npz: sparse: expected ids of table vectors.1, from -21 to 20, got 21 in row 1$",
        ),
    ],
)
def test_samples_of_another_model_are_refused(change: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(deep_fm().SerializeToString())
    arrays = {name: array for name, array in {**deep_fm_query(4), **change}.items() if array is not None}
    np.savez(tmp_path / "samples.npz", **arrays)
    with pytest.raises(ModelFileError, match=message):
        open_onnx(path, "toy", tmp_path / "samples.npz", 0, {})
    if "expected ids" not in message:
        with pytest.raises(InputError, match=message):
            open_onnx(path, "toy", None, 0, {}).answers(arrays)


def test_samples_of_which_no_ids_are_computed_are_told_without_the_runtimes_codes(tmp_path: Path) -> None:
    path, samples = tmp_path / "model.onnx", tmp_path / "samples.npz"
    nodes = [
        node("Cast", ["feature"], "ids", to=INT64),
        node("Gather", ["W", "ids"], "rows"),
        node("Relu", ["rows"], "y"),
    ]
    model = make(nodes, {"feature": (FLOAT, ("N",))}, {"y": (FLOAT, ("N", DIM))}, {"W": table(9, DIM)})
    path.write_bytes(model.SerializeToString())
    np.savez(samples, feature=np.array([3, np.nan], np.float32))
    with pytest.raises(ModelFileError) as refusal:
        open_onnx(path, "toy", samples, 0, {})
    told = str(refusal.value)
    assert told.startswith(f"{samples}: expected samples that the model takes, got others: indices element out of")
    assert told.endswith("[-9,8]; not all finite: feature") and "\n" not in told


def test_a_query_of_which_no_ids_are_computed_is_refused(tmp_path: Path) -> None:
    nodes = [
        node("Gather", ["renamed", "raw"], "ids"),
        node("Gather", ["W", "ids"], "rows"),
        node("Relu", ["rows"], "y"),
    ]
    arrays = {"W": table(9, DIM), "renamed": np.arange(8, -1, -1)}
    source = opened(make(nodes, {"raw": (INT64, ("N",))}, {"y": (FLOAT, ("N", DIM))}, arrays), tmp_path)
    assert source.model.ids_graph is not None
    with pytest.raises(InputError, match=r"^the model refuses the query: indices element out of data bounds, idx=9 "):
        source.ids({"raw": np.array([3, 9])})


def test_an_id_outside_its_table_is_refused(tmp_path: Path) -> None:
    source = opened(deep_fm(), tmp_path)
    with pytest.raises(InputError, match="does not take this query"):
        source.answers(deep_fm_query(4) | {"sparse": np.full((4, 2), 99)})


def test_a_value_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    for rows in (9, 9000):  # held, and left in the file
        bad = table(rows, DIM)
        bad[rows - 2, 1] = np.nan
        nodes = [node("Gather", ["W", "ids"], "y")]
        model = make(nodes, {"ids": (INT64, ("N",))}, {"y": (FLOAT, ("N", DIM))}, {"W": bad})
        source = opened(model, tmp_path)
        with pytest.raises(CheckpointError, match=f"W: expected finite float32 values, got nan at row {rows - 2}"):
            list(source.table_chunks(source.model.tables[0]))


def test_partials_that_do_not_make_up_the_model_are_refused(tmp_path: Path) -> None:
    source = opened(deep_fm(), tmp_path)
    with pytest.raises(ExportError, match=r"look-up vectors\.1: expected a partial"):
        source.write_dense([Partial("a", 0, 5, {0: 0})], tmp_path)


def test_the_same_bytes_twice(tmp_path: Path) -> None:
    written = []
    for number in (0, 1):
        folder = tmp_path / str(number)
        folder.mkdir()
        source = opened(deep_fm(), folder)
        source.write_dense(partials_of(source.model, 2), folder)
        written.append((folder / "model.onnx").read_bytes())
    assert written[0] == written[1]


def narrow_model(ends: int = FLOAT) -> Any:
    """A model in bfloat16: a table, a weight and a constant are, and what is made of them."""
    nodes = [
        node("Gather", ["rows", "ids"], "vector"),
        node("Cast", ["dense"], "narrow", to=TensorProto.BFLOAT16),
        node("MatMul", ["narrow", "weight"], "hidden"),
        node("Mul", ["vector", "hidden"], "product"),
        node("Constant", [], "half", value=narrowed(np.full((1,), 0.5, np.float32), "half")),
        node("Mul", ["product", "half"], "halved"),
        node("Cast", ["halved"], "score", to=ends),
    ]
    inputs = {"ids": (INT64, ("N",)), "dense": (FLOAT, ("N", 3))}
    model = make(nodes, inputs, {"score": (ends, ("N", DIM))}, {})
    model.graph.initializer.extend([narrowed(table(3000, DIM), "rows"), narrowed(table(3, DIM, 1), "weight")])
    return model


def narrowed(values: NDArray[np.float32], name: str) -> TensorProto:
    halves = (values.view(np.uint32) >> 16).astype(np.uint16)
    return TensorProto(name=name, data_type=TensorProto.BFLOAT16, dims=values.shape, raw_data=halves.tobytes())


def widened(values: NDArray[np.float32]) -> NDArray[np.float32]:
    return (values.view(np.uint32) & 0xFFFF0000).view(np.float32)


def test_a_model_in_bfloat16_is_served_in_float32(tmp_path: Path) -> None:
    """onnxruntime has no such operators for the processor: what it makes in float32 is what arithmetic says."""
    source = opened(narrow_model(), tmp_path)
    assert [each.name for each in source.model.tables] == ["rows"]
    query = {"ids": np.array([0, 2999, 7]), "dense": np.random.default_rng(0).random((3, 3), np.float32)}
    expected = widened(table(3000, DIM))[query["ids"]] * (query["dense"] @ widened(table(3, DIM, 1))) * 0.5
    np.testing.assert_allclose(source.answers(query)["score"], expected, atol=1e-6)
    for name in ("dense", "whole"):
        (tmp_path / name).mkdir()
    partials = partials_of(source.model, 1)
    source.write_dense(partials, tmp_path / "dense")
    np.testing.assert_allclose(
        answer(source, tmp_path, partials, read_tables(source), query)["score"], expected, atol=1e-6
    )
    assert list(source.write_whole(tmp_path / "whole")) == []  # no server of ours could load it


def test_bfloat16_at_the_ends_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"score: expected another type than bfloat16, .* take and give float32"):
        opened(narrow_model(TensorProto.BFLOAT16), tmp_path)
