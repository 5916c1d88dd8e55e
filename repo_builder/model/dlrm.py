"""The dot-interaction DLRM (Naumov et al., 2019) by its numbers: its layers' shapes, and what it is as a `Model`.

    bottom MLP of the dense features -> D numbers; the pooled rows of F tables -> D numbers each
    the dot products of all pairs of these F + 1 vectors, behind the bottom output -> top MLP -> sigmoid -> score

Everything that follows from the interaction's widths stands here.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Literal

from repo_builder.model.types import (
    BATCH,
    Columns,
    Dense,
    Group,
    Ids,
    Lookup,
    Model,
    PoolingMode,
    RowFormat,
    Table,
    Tensor,
)

WeightsSource = Literal["random", "dlrm", "torchrec"]
IndexDtype = Literal["int64", "int32"]
PADDING = -1
"""Of `indices` on the wire: an empty slot."""


@dataclass(frozen=True, slots=True)
class DlrmTable:
    """One embedding table, (rows, dim) float32; a query row brings up to `pooling` ids, whose rows are pooled.

    mode: a bag's rows are summed, or averaged over the ids that it has; an empty bag is zeros either way.
    """

    name: str
    rows: int
    dim: int
    pooling: int
    mode: PoolingMode = "sum"

    @property
    def stored(self) -> Table:
        """Its rows, as any model's."""
        return Table(self.name, self.rows, RowFormat(self.dim))


@dataclass(frozen=True, slots=True)
class Weights:
    """Where the trained weights come from; `path` is None for `random`.

    tables_in_order: the spec says that it lists the tables as TorchRec's EmbeddingBagCollection does.
    """

    source: WeightsSource
    path: Path | None = None
    seed: int = 0
    tables_in_order: bool = False


@dataclass(frozen=True, slots=True)
class Dlrm:
    """A DLRM's shape, and its weights; `tables` are in wire order, and all of one dim, the last of `bottom_mlp`."""

    dense_features: int
    bottom_mlp: tuple[int, ...]
    top_mlp: tuple[int, ...]
    tables: tuple[DlrmTable, ...]
    index_dtype: IndexDtype
    weights: Weights

    @property
    def dim(self) -> int:
        """The embedding dimension, the same for every table (a dot interaction needs it so)."""
        return self.tables[0].dim

    @property
    def has_means(self) -> bool:
        """Whether a table's bags are averaged."""
        return any(table.mode == "mean" for table in self.tables)

    @property
    def index_columns(self) -> int:
        """Width of the wire's `indices`: the sum of the tables' pooling."""
        return sum(table.pooling for table in self.tables)

    @property
    def pairs(self) -> int:
        """Pairs of the interaction's vectors: the tables' and the bottom output."""
        vectors = len(self.tables) + 1
        return vectors * (vectors - 1) // 2

    @property
    def bottom_shapes(self) -> list[tuple[int, int]]:
        """The bottom MLP's weight shapes (out, in), first layer first."""
        return _shapes(self.dense_features, self.bottom_mlp)

    @property
    def top_shapes(self) -> list[tuple[int, int]]:
        """The top MLP's weight shapes (out, in), first layer first; its input is [bottom output | interaction]."""
        return _shapes(self.dim + self.pairs, self.top_mlp)

    @property
    def parameter_bytes(self) -> int:
        """Bytes of the float32 weights and biases of both MLPs."""
        return 4 * sum(fan_out * fan_in + fan_out for fan_out, fan_in in (*self.bottom_shapes, *self.top_shapes))

    @property
    def flops_per_row(self) -> int:
        """Floating-point operations of the dense layers for a row: a multiply-add counts two."""
        layers = sum(fan_out * fan_in for fan_out, fan_in in (*self.bottom_shapes, *self.top_shapes))
        return 2 * (layers + self.pairs * self.dim)


def _shapes(inputs: int, widths: tuple[int, ...]) -> list[tuple[int, int]]:
    return [(after, before) for before, after in pairwise((inputs, *widths))]


def dlrm_model(name: str, dlrm: Dlrm) -> Model:
    """The DLRM as a `Model`: `dense` and `indices` in, `score` out, a look-up a table in the batch's group."""
    dense = Tensor("dense", "FP32", (BATCH, dlrm.dense_features))
    columns = dlrm.index_columns
    indices = Tensor("indices", "INT64" if dlrm.index_dtype == "int64" else "INT32", (BATCH, columns))
    begins = accumulate((table.pooling for table in dlrm.tables), initial=0)
    return Model(
        name=name,
        inputs=(dense, indices),
        outputs=(Tensor("score", "FP32", (BATCH, 1)),),
        tables=tuple(table.stored for table in dlrm.tables),
        groups=(Group(BATCH),),
        lookups=tuple(
            Lookup(
                name=table.name,
                table=i,
                group=0,
                ids=Ids("indices", Columns(begin, table.pooling, columns), padding=PADDING),
                mode=table.mode,
                count=1,
                shape=(BATCH, table.dim),
                mean_ids=table.pooling,
            )
            for i, (table, begin) in enumerate(zip(dlrm.tables, begins, strict=False))
        ),
        dense=Dense((dense,), dlrm.flops_per_row, dlrm.parameter_bytes, batched=True),
    )
