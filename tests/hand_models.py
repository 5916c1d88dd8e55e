"""Models made by hand, for tests of what talks to a running repository: every kind of input and look-up in one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from repo_builder.model.source import ModelFile
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

INPUTS = (
    Tensor("dense", "FP32", (BATCH, 3)),
    Tensor("items", "INT64", (BATCH,)),
    Tensor("history", "INT32", (BATCH, 2, 3)),
    Tensor("tags", "INT64", ("tags",)),
    Tensor("tag_lengths", "INT32", ("bags",)),
    Tensor("tag_weights", "FP32", ("tags",)),
    Tensor("user", "INT64", (1, 4)),
    Tensor("user_age", "BF16", (1, 1)),
    Tensor("is_new", "BOOL", ()),
)
TABLES = (
    Table("items", 500, RowFormat(8)),
    Table("tags", 40, RowFormat(4)),
    Table("users", 9, RowFormat(16)),
)
GROUPS = (Group(BATCH), Group(1, 1 / 4))
LOOKUPS = (
    Lookup("item", 0, 0, Ids("items", Columns(0, 1, 1)), "none", 1, (BATCH, 8), 1.0),
    Lookup("seen", 0, 0, Ids("history", Columns(0, 3, 6), padding=0), "mean", 2, (BATCH, 2, 8), 6.0),
    Lookup("tag", 1, 0, Ids("tags", Ragged("tag_lengths", "lengths", 1, 2), "tag_weights"), "sum", 1, (BATCH, 4), 2.5),
    Lookup("who", 2, 1, Ids("user", Columns(1, 1, 4), padding=3, from_end=True), "none", 2, (1, 2, 16), 2.0),
)
OUTPUTS = (Tensor("click", "FP32", (BATCH, 1)), Tensor("user_vector", "FP16", (1, 16)))
RANKER = Model(
    name="ranker",
    inputs=INPUTS,
    outputs=OUTPUTS,
    tables=TABLES,
    groups=GROUPS,
    lookups=LOOKUPS,
    dense=Dense((INPUTS[0], INPUTS[7], INPUTS[8]), 1000.0, 4000, batched=False),
)
"""Two id inputs of different rank, a ragged one of two blocks, candidates beside a user, a scalar, two outputs."""

DENSE = Tensor("dense", "FP32", (BATCH, 5))
DLRM = Model(
    name="small",
    inputs=(DENSE, Tensor("indices", "INT64", (BATCH, 6))),
    outputs=(Tensor("score", "FP32", (BATCH, 1)),),
    tables=(Table("users", 3000, RowFormat(8)), Table("items", 517, RowFormat(8))),
    groups=(Group(BATCH),),
    lookups=(
        Lookup("users", 0, 0, Ids("indices", Columns(0, 4, 6), padding=-1), "sum", 1, (BATCH, 8), 4),
        Lookup("items", 1, 0, Ids("indices", Columns(4, 2, 6), padding=-1), "mean", 1, (BATCH, 8), 2),
    ),
    dense=Dense((DENSE,), 100.0, 400, batched=True),
)


def hand_spec(model: Model, batch: int = 32, sla_ms: float = 400.0, **more: Any) -> Spec:
    """As if a model file were opened; `more`: fields of the spec."""
    fields = {"access": Access("powerlaw", locality=0.9), **more}
    return Spec(
        model.name, ModelFile("onnx", Path("none.onnx")), model, serving=Serving(100.0, batch, sla_ms), **fields
    )


_MATRIX = Tensor("features", "FP32", (BATCH, 4))
COMPUTED = Model(
    name="computed",
    inputs=(_MATRIX,),
    outputs=(Tensor("score", "FP32", (BATCH, 1)),),
    tables=(Table("items", 500, RowFormat(8)),),
    groups=(Group(BATCH),),
    lookups=(Lookup("item", 0, 0, Ids("ids", Columns(0, 1, 1)), "none", 1, (BATCH, 8), 1.0),),
    dense=Dense((_MATRIX,), 100.0, 400, batched=True),
    ids_graph=IdsGraph((_MATRIX,), (Tensor("ids", "INT64", (BATCH, 1)),)),
)
"""Its ids are computed: a column of one matrix of floats."""

_SEQUENCE = Tensor("sequence", "INT64", (BATCH, "length"))
VARYING = Model(
    name="varying",
    inputs=(_SEQUENCE, Tensor("mask", "BOOL", (BATCH, "length"))),
    outputs=(Tensor("next", "FP32", (BATCH, 5)),),
    tables=(Table("items", 100, RowFormat(8)),),
    groups=(Group(BATCH),),
    lookups=(Lookup("seen", 0, 0, Ids("sequence", Columns(0, -1, None), padding=0), "mean", 1, (BATCH, 8), 20.0),),
    dense=Dense((), 100.0, 400, batched=True),
)
"""Bags as long as the longest of the query."""
