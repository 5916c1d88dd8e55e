"""A second kind of model, made by hand: its vectors are concatenated, and it has a door of its own.

toy     two groups (a batch of candidates, one user), tables of three dims, un-pooled, mean and weighted ragged
        look-ups, two outputs, an input that nothing reads
rows    one group, whose rows are scored each for itself; an input and an output of shape [batch]
ids     like rows, but its ids are computed from a matrix of floats
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from repo_builder.model.source import TOLERANCE, ModelFile, Partial, divisors_name
from repo_builder.model.types import (
    BATCH,
    Columns,
    Dense,
    Group,
    Ids,
    IdsGraph,
    Lookup,
    Model,
    Ragged,
    RowFormat,
    Table,
    Tensor,
)
from repo_builder.spec import Access, Serving, Spec
from triton_backends.kernels.row_formats import decode_rows, encode_rows

PRICE = Tensor("price", "FP32", (BATCH, 3))
ITEM = Tensor("item", "INT64", (BATCH,))
HISTORY = Tensor("history", "INT32", (BATCH, 5))
TAGS = Tensor("tags", "INT64", ("tags",))
TAG_ENDS = Tensor("tag_ends", "INT64", ("ends",))
TAG_WEIGHTS = Tensor("tag_weights", "FP32", ("tags",))
USER = Tensor("user", "INT64", (1, 2))
UNUSED = Tensor("unused", "BOOL", (BATCH, 1))
FEATURES = Tensor("features", "FP32", (BATCH, 4))
SHIFT = Tensor("shift", "FP32", (BATCH,))
FIRST_ID = Tensor("first", "INT64", (BATCH,))
COMPUTED = Tensor("computed", "INT64", (BATCH, 5))

TABLES = (Table("items", 500, RowFormat(8)), Table("tags", 40, RowFormat(4)), Table("users", 90, RowFormat(16)))
OUTPUTS = (Tensor("click", "FP32", (BATCH,)), Tensor("watch", "FP32", (BATCH, 2)))
SEEN = Lookup("seen", 0, 0, Ids("history", Columns(0, 5, 5), padding=-1), "mean", 1, (BATCH, 8), 5.0)
FIRST = Lookup("item", 0, 0, Ids("item", Columns(0, 1, 1), from_end=True), "none", 1, (BATCH, 8), 1.0)

TOY = Model(
    name="toy",
    inputs=(PRICE, ITEM, HISTORY, TAGS, TAG_ENDS, TAG_WEIGHTS, USER, UNUSED),
    outputs=OUTPUTS,
    tables=TABLES,
    groups=(Group(BATCH), Group(1, 1 / 8)),
    lookups=(
        FIRST,
        SEEN,
        Lookup("tag", 1, 0, Ids("tags", Ragged("tag_ends", "ends"), "tag_weights"), "sum", 1, (BATCH, 4), 3.0),
        Lookup("who", 2, 1, Ids("user", Columns(0, 1, 2)), "none", 2, (1, 2, 16), 2.0),
    ),
    dense=Dense((PRICE,), 400.0, 660, batched=False),
)
ROWS = replace(
    TOY,
    inputs=(PRICE, ITEM, HISTORY),
    tables=TABLES[:1],
    groups=TOY.groups[:1],
    lookups=TOY.lookups[:2],
    dense=replace(TOY.dense, batched=True),
)
IDS = replace(
    ROWS,
    inputs=(PRICE, FEATURES, SHIFT),
    lookups=(
        replace(FIRST, ids=Ids("first", Columns(0, 1, 1))),
        replace(SEEN, ids=Ids("computed", Columns(0, 5, 5))),
    ),
    ids_graph=IdsGraph((FEATURES, SHIFT), (FIRST_ID, COMPUTED)),
)
MODELS = {"toy": TOY, "rows": ROWS, "ids": IDS}


def toy_spec(kind: str, name: str = "toy") -> tuple[Spec, ToySource]:
    """A spec whose model file is opened already."""
    source = ToySource(replace(MODELS[kind], name=name))
    form = ModelFile("onnx", Path("toy.onnx"))
    serving = Serving(target_qps=300, batch=8)
    return Spec(name, form, source.model, Access("powerlaw", locality=0.8), serving, opened=source), source


_SPREAD = np.ones((4, 5), np.float32)


class ToySource:
    """A `Source` with tables and weights drawn from a fixed seed."""

    def __init__(self, model: Model) -> None:
        rng = np.random.default_rng(5)
        self.model = model
        self.notes: Sequence[str] = ()
        self.tolerance = TOLERANCE
        drawn = [rng.standard_normal((table.rows, table.format.dim)).astype(np.float32) for table in model.tables]
        formats = [table.format for table in model.tables]
        self.stored = [encode_rows(rows, each.dtype) for rows, each in zip(drawn, formats, strict=True)]
        self.tables = [decode_rows(rows, each.dim, each.dtype) for rows, each in zip(self.stored, formats, strict=True)]
        vectors = sum(model.width(lookup) for lookup in model.lookups)
        self.weight = 0.3 * rng.standard_normal((3 + vectors, 3)).astype(np.float32)

    def table_chunks(self, table: Table) -> Iterator[NDArray[Any]]:
        rows = (self.tables if table.format.dtype == "fp32" else self.stored)[self.model.tables.index(table)]
        yield from (rows[begin : begin + 7].copy() for begin in range(0, len(rows), 7))

    def write_ids(self, folder: Path) -> Sequence[str]:
        """Floats that are cast: of a vector, and of a matrix."""
        half = helper.make_tensor("half", TensorProto.FLOAT, [], [0.5])
        spread = numpy_helper.from_array(_SPREAD, "spread")
        nodes = [
            helper.make_node("Mul", ["shift", "half"], ["halved"]),
            helper.make_node("Cast", ["halved"], ["first"], to=TensorProto.INT64),
            helper.make_node("MatMul", ["features", "spread"], ["mixed"]),
            helper.make_node("Cast", ["mixed"], ["computed"], to=TensorProto.INT64),
        ]
        _save(folder, nodes, (FEATURES, SHIFT), (FIRST_ID, COMPUTED), [half, spread])
        return ["model.onnx"]

    def write_whole(self, folder: Path) -> Sequence[str]:
        return []

    def write_dense(self, partials: Sequence[Partial], folder: Path) -> Sequence[str]:
        graph = _Graph()
        vectors = ["price", *(self._vector(graph, place, partials) for place in range(len(self.model.lookups)))]
        graph.add("Concat", vectors, "joined", axis=1)
        graph.constants.append(numpy_helper.from_array(self.weight, "weight"))
        graph.add("MatMul", ["joined", "weight"], "logits")
        graph.add("Sigmoid", [graph.columns("logits", 0, 1)], "chances")
        graph.add("Reshape", ["chances", graph.number([-1])], "click")
        graph.add("Identity", [graph.columns("logits", 1, 3)], "watch")
        sums = [Tensor(partial.name, "FP32", (f"rows{partial.group}", partial.width)) for partial in partials]
        divisors = [
            Tensor(divisors_name(group), "FP32", (f"rows{group}", sum(self.model.lookups[i].count for i in places)))
            for group in range(len(self.model.groups))
            if self.model.has_means(group) and (places := self.model.in_group(group))
        ]
        _save(folder, graph.nodes, (PRICE, *sums, *divisors), self.model.outputs, graph.constants)
        return ["model.onnx"]

    def _vector(self, graph: _Graph, place: int, partials: Sequence[Partial]) -> str:
        lookup = self.model.lookups[place]
        width, held = self.model.width(lookup), [partial for partial in partials if place in partial.columns]
        parts = [graph.columns(each.name, each.columns[place], each.columns[place] + width) for each in held]
        graph.add("Sum", parts, f"sum{place}")
        if lookup.mode == "mean":
            before = sum(self.model.lookups[i].count for i in self.model.in_group(lookup.group) if i < place)
            divisor = graph.columns(divisors_name(lookup.group), before, before + 1)
            graph.add("Div", [f"sum{place}", divisor], f"mean{place}")
            return f"mean{place}"
        if lookup.group:  # one row for all candidates
            graph.add("Shape", ["price"], f"shape{place}")
            graph.add("Gather", [f"shape{place}", graph.number([0])], f"batch{place}")
            graph.add("Concat", [f"batch{place}", graph.number([width])], f"wide{place}", axis=0)
            graph.add("Expand", [f"sum{place}", f"wide{place}"], f"all{place}")
            return f"all{place}"
        return f"sum{place}"

    def ids(self, inputs: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
        if "features" not in inputs:
            return inputs
        first = (inputs["shift"] * np.float32(0.5)).astype(np.int64)
        return {**inputs, "first": first, "computed": (inputs["features"] @ _SPREAD).astype(np.int64)}

    def answers(self, inputs: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
        batch = len(inputs["price"])
        if "features" in inputs:
            item, history = self.ids(inputs)["first"], self.ids(inputs)["computed"]
        else:
            item, history = inputs["item"], inputs["history"]
        seen = [self.tables[0][row[row >= 0]].sum(0) / max(1, (row >= 0).sum()) for row in history]
        vectors = [inputs["price"], self.tables[0][item], np.array(seen).reshape(batch, -1)]
        if "user" in inputs:
            tags = self.tables[1][inputs["tags"]] * inputs["tag_weights"][:, None]
            vectors.append(np.array([tags[begin:end].sum(0) for begin, end in pairwise(inputs["tag_ends"])]))
            vectors.append(np.repeat(self.tables[2][inputs["user"]].reshape(1, -1), batch, axis=0))
        logits = (np.hstack(vectors).astype(np.float64) @ self.weight).astype(np.float32)
        return {"click": 1 / (1 + np.exp(-logits[:, 0])), "watch": logits[:, 1:]}

    def samples(self) -> Mapping[str, NDArray[Any]]:
        return self.query(11, seed=1)

    def tried(self) -> Mapping[str, NDArray[Any]]:
        return self.samples()

    def query(self, batch: int, seed: int) -> dict[str, NDArray[Any]]:
        """Ids from anywhere, padding, negative ids where they count from the end, empty bags."""
        rng = np.random.default_rng(seed)
        history = rng.integers(-1, 500, HISTORY.shape[1] * batch).reshape(batch, 5).astype(np.int32)
        lengths = rng.integers(0, 7, batch)
        tags = int(lengths.sum())
        found = {
            "price": rng.standard_normal((batch, 3)).astype(np.float32),
            "item": rng.integers(-500, 500, batch),
            "history": history,
            "tags": rng.integers(0, 40, tags),
            "tag_ends": np.concatenate([[0], np.cumsum(lengths)]),
            "tag_weights": rng.standard_normal(tags).astype(np.float32),
            "user": rng.integers(0, 90, (1, 2)),
            "unused": rng.random((batch, 1)) < 0.5,
            "features": rng.integers(0, 100, (batch, 4)).astype(np.float32),
            "shift": rng.integers(0, 1000, batch).astype(np.float32),
        }
        return {tensor.name: found[tensor.name] for tensor in self.model.inputs}


class _Graph:
    """ONNX nodes and constants that are added one by one."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[TensorProto] = []

    def add(self, kind: str, inputs: Sequence[str], output: str, **attributes: int) -> None:
        self.nodes.append(helper.make_node(kind, list(inputs), [output], **attributes))

    def number(self, values: Sequence[int]) -> str:
        self.constants.append(numpy_helper.from_array(np.array(values, np.int64), f"constant{len(self.constants)}"))
        return str(self.constants[-1].name)

    def columns(self, name: str, begin: int, end: int) -> str:
        output = f"{name}_{begin}_{end}"
        self.add("Slice", [name, *map(self.number, ([begin], [end], [1]))], output)
        return output


def _save(
    folder: Path,
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[Tensor],
    outputs: Sequence[Tensor],
    constants: Sequence[TensorProto],
) -> None:
    infos = [[_info(tensor) for tensor in tensors] for tensors in (inputs, outputs)]
    graph = helper.make_graph(list(nodes), "toy", *infos, initializer=list(constants))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    (folder / "model.onnx").write_bytes(model.SerializeToString(deterministic=True))


def _info(tensor: Tensor) -> onnx.ValueInfoProto:
    kinds = {"FP32": TensorProto.FLOAT, "INT64": TensorProto.INT64, "INT32": TensorProto.INT32}
    return helper.make_tensor_value_info(tensor.name, kinds[tensor.datatype], list(tensor.shape))
