"""Random small graphs of id arithmetic, look-ups and dense work: the cut answers as the whole model."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.export.onnx_file.cutting import FLOAT, INT32, INT64, Arrays, make, node, opened, prove, table

WIDTH = 4
LENGTH = 5
"""Of a history, when the model is run."""

DTYPES: dict[int, Any] = {INT64: np.int64, INT32: np.int32, FLOAT: np.float32}


@dataclass
class Drawn:
    """A graph as it grows. vectors: tensors (N, dim) that the outputs are made of, and their dims."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    inputs: dict[str, tuple[int, tuple[int | str, ...]]] = field(default_factory=dict)
    arrays: dict[str, NDArray[Any]] = field(default_factory=dict)
    vectors: list[tuple[str, int]] = field(default_factory=list)
    queries: dict[str, Callable[[np.random.Generator, int], NDArray[Any]]] = field(default_factory=dict)

    def add(self, op_type: str, inputs: list[str], **attributes: Any) -> str:
        name = f"t{len(self.nodes)}"
        self.nodes.append(node(op_type, inputs, name, **attributes))
        return name

    def number(self, value: Any) -> str:
        name = f"k{len(self.arrays)}"
        self.arrays[name] = np.asarray(value)
        return name

    def given(self, kind: int, shape: tuple[int | str, ...], high: int) -> str:
        """An input of whole numbers below a bound (as floats where it is of floats)."""
        name = f"in{len(self.inputs)}"
        dtype = DTYPES[kind]
        self.inputs[name] = (kind, shape)

        def query(rng: np.random.Generator, n: int) -> NDArray[Any]:
            sizes = [{"N": n, "L": LENGTH}[size] if isinstance(size, str) else size for size in shape]
            return rng.integers(0, high, sizes).astype(dtype)

        self.queries[name] = query
        return name


def add_ids(draw: st.DrawFn, graph: Drawn, rows: int) -> tuple[str, tuple[int | str, ...]]:
    """Ids within so many rows, and their shape: from an input, perhaps computed, perhaps some of its columns."""
    shapes: list[tuple[int | str, ...]] = [("N",), ("N", WIDTH), ("N", 2, 3), ("N", "L"), (1,), (1, "L")]
    shape = draw(st.sampled_from(shapes))
    kind = draw(st.sampled_from([INT64, INT32, FLOAT]))
    ids = graph.given(kind, shape, rows // 2)
    if kind == FLOAT:
        ids = graph.add("Cast", [ids], to=INT64)
    one = graph.number(np.array(1, np.int32 if kind == INT32 else np.int64))
    steps = draw(st.lists(st.sampled_from(["add", "mod", "negative", "column", "columns", "transpose"]), max_size=3))
    for step in dict.fromkeys(steps):
        if step == "add":
            ids = graph.add("Add", [ids, one])
        elif step == "mod":
            ids = graph.add("Mod", [ids, graph.number(np.array(rows // 3, graph.arrays[one].dtype))])
        elif step == "negative":
            ids = graph.add("Sub", [ids, graph.number(np.array(rows // 2, graph.arrays[one].dtype))])
        elif step == "column" and shape == ("N", WIDTH):
            ids, shape = graph.add("Gather", [ids, graph.number(np.array(2))], axis=1), ("N",)
        elif step == "columns" and shape == ("N", WIDTH):
            ids = graph.add("Slice", [ids, *(graph.number(np.array([i])) for i in (1, WIDTH, 1))])
            shape = ("N", WIDTH - 1)
        elif step == "transpose" and len(shape) == 3:
            ids, shape = graph.add("Transpose", [ids], perm=[0, 2, 1]), (shape[0], shape[2], shape[1])
    return ids, shape


def add_look_up(draw: st.DrawFn, graph: Drawn, tables: list[tuple[str, int, int]]) -> None:
    name, rows, dim = draw(st.sampled_from(tables))
    ids, shape = add_ids(draw, graph, rows)
    vectors = graph.add("Gather", [name, ids])
    while len(shape) > 1:  # pooled axis by axis, from the last, or laid side by side
        how = draw(st.sampled_from(["ReduceSum", "ReduceMean", "ReduceMax", "weighted", "flat"]))
        last = len(shape) - 1
        if how == "flat" and all(isinstance(size, int) for size in shape[1:]):
            for size in shape[1:]:
                assert isinstance(size, int)
                dim *= size
            vectors, shape = graph.add("Flatten", [vectors]), shape[:1]
            continue
        if how == "weighted":
            weights = graph.given(FLOAT, shape, 3)
            weights = graph.add("Unsqueeze", [weights, graph.number(np.array([-1]))])
            vectors = graph.add("Mul", [vectors, weights])
        op_type = how if how.startswith("Reduce") else "ReduceSum"
        vectors = graph.add(op_type, [vectors, graph.number(np.array([last]))], keepdims=0)
        shape = shape[:last]
    if shape == (1,):
        rows_like = graph.add("Mul", ["dense", graph.number(np.zeros((3, dim), np.float32)[:1, :1])])
        rows_like = graph.add("Slice", [rows_like, *(graph.number(np.array([i])) for i in (0, 1, 1))])
        vectors = graph.add("Add", [vectors, rows_like])  # (1, dim) + (N, 1)
    graph.vectors.append((vectors, dim))


@st.composite
def models(draw: st.DrawFn) -> tuple[onnx.ModelProto, list[Arrays]]:
    graph = Drawn(inputs={"dense": (FLOAT, ("N", 3))})
    graph.queries["dense"] = lambda rng, n: rng.random((n, 3), np.float32)
    tables = []
    for number in range(draw(st.integers(1, 3))):
        rows, dim = draw(st.integers(6, 40)), draw(st.sampled_from([1, 4, 7]))
        tables.append((f"T{number}", rows, dim))
        graph.arrays[f"T{number}"] = table(rows, dim, number)
    for _ in range(draw(st.integers(1, 4))):
        add_look_up(draw, graph, tables)
    joined = graph.add("Concat", ["dense", *(name for name, _ in graph.vectors)], axis=1)
    dim = 3 + sum(dim for _, dim in graph.vectors)
    hidden = graph.add("Relu", [graph.add("MatMul", [joined, graph.number(table(dim, 5))])])
    graph.nodes.append(node("Identity", [hidden], "score"))
    graph.nodes.append(node("Tanh", [graph.vectors[0][0]], "vector"))
    outputs = {"score": (FLOAT, ("N", 5)), "vector": (FLOAT, ("N", graph.vectors[0][1]))}
    rng = np.random.default_rng(0)
    queries: list[Arrays] = [{name: query(rng, n) for name, query in graph.queries.items()} for n in (1, 4)]
    return make(graph.nodes, graph.inputs, outputs, graph.arrays, draw(st.sampled_from([18, 21]))), queries


@given(models())
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_the_cut_answers_as_the_whole(case: tuple[onnx.ModelProto, list[Arrays]]) -> None:
    model, queries = case
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        source = opened(model, path)
        assert source.model.lookups
        prove(source, path / "model.onnx", queries, path)
