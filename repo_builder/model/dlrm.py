"""The DLRM (Naumov et al., 2019) by its numbers: its layers' shapes, and what it is as a `Model`.

bottom MLP of the dense features -> D numbers; the pooled rows of F tables -> D numbers each
the interaction of these F + 1 vectors (`interaction.py`) -> top MLP -> sigmoid -> score
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import accumulate
from math import prod
from pathlib import Path
from typing import Literal

from repo_builder.model.interaction import Dot, Interaction, Stacks, linear_shapes
from repo_builder.model.source import KEEP_UNDER_BYTES, Keep
from repo_builder.model.types import (
    BATCH,
    Columns,
    Dense,
    Group,
    Ids,
    Kept,
    Lookup,
    Model,
    PoolingMode,
    RowDtype,
    RowFormat,
    Table,
    Tensor,
)

WeightsSource = Literal["random", "dlrm", "torchrec"]
IndexDtype = Literal["int64", "int32"]
PADDING = -1
"""Of `indices` on the wire: an empty slot."""

_READ_FLOPS = 3000
"""What a row that the dense graph looks up counts for, in operations of its layers: reading it took onnxruntime 33 to
65 ns, with 16 to 128 numbers, where the default profile has 14.5 ps for an operation.
"""


@dataclass(frozen=True, slots=True)
class DlrmTable:
    """One embedding table, (rows, dim); a query row brings up to `pooling` ids, whose rows are pooled.

    mode: a bag's rows are summed, or averaged over the ids that it has; an empty bag is zeros either way. dtype: how
    the rows come. keep: whether it stays in the dense graph or is cut into shards, where not its size is to decide.
    """

    name: str
    rows: int
    dim: int
    pooling: int
    mode: PoolingMode = "sum"
    dtype: RowDtype = "fp32"
    keep: Keep | None = None

    @property
    def dense_bytes(self) -> int:
        """Bytes of its rows in the dense graph, where they are float32 however they come."""
        return 4 * self.rows * self.dim

    @property
    def stored(self) -> Table:
        """Its rows, as any model's."""
        return Table(self.name, self.rows, RowFormat(self.dim, self.dtype))


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
    """A DLRM's shape, and its weights; `tables` are in wire order, and all of one dim, the last of `bottom_mlp`.

    keep_under_bytes: smaller tables stay in the dense graph. None: those under KEEP_UNDER_BYTES do, but where that is
    every table none does, for something must be cut.
    """

    dense_features: int
    bottom_mlp: tuple[int, ...]
    top_mlp: tuple[int, ...]
    tables: tuple[DlrmTable, ...]
    index_dtype: IndexDtype
    weights: Weights
    interaction: Interaction = field(default=Dot())
    keep_under_bytes: int | None = None

    @property
    def kept(self) -> Mapping[int, str]:
        """The positions of the tables that stay in the dense graph, and why each does."""
        bound = KEEP_UNDER_BYTES if self.keep_under_bytes is None else self.keep_under_bytes
        asked = {
            i: f"keep: {each.name} is dense in the spec" for i, each in enumerate(self.tables) if each.keep == "dense"
        }
        small = {
            i: f"its {each.dense_bytes} bytes are under {bound} (keep_under_bytes)"
            for i, each in enumerate(self.tables)
            if each.keep is None and each.dense_bytes < bound
        }
        if self.keep_under_bytes is None and len(asked) + len(small) == len(self.tables):
            return asked
        return dict(sorted({**asked, **small}.items()))

    @property
    def cut(self) -> tuple[int, ...]:
        """The positions of the others, in order: those of the model's look-ups."""
        kept = self.kept
        return tuple(i for i in range(len(self.tables)) if i not in kept)

    @property
    def dim(self) -> int:
        """The embedding dimension, the same for every table (an interaction needs it so)."""
        return self.tables[0].dim

    @property
    def has_means(self) -> bool:
        """Whether bags of a table that is cut are averaged."""
        return any(self.tables[i].mode == "mean" for i in self.cut)

    @property
    def index_columns(self) -> int:
        """Width of the wire's `indices`: the sum of the tables' pooling."""
        return sum(table.pooling for table in self.tables)

    @property
    def vectors(self) -> int:
        """How many the interaction takes: the bottom output and the tables'."""
        return len(self.tables) + 1

    @property
    def bottom_shapes(self) -> list[tuple[int, int]]:
        """The bottom MLP's weight shapes (out, in), first layer first."""
        return linear_shapes(self.dense_features, self.bottom_mlp)

    @property
    def top_shapes(self) -> list[tuple[int, int]]:
        """The top MLP's weight shapes (out, in), first layer first; its input is the interaction's output."""
        return linear_shapes(self.interaction.width(self.dim, self.vectors), self.top_mlp)

    @property
    def interaction_stacks(self) -> Stacks:
        """The interaction's arrays."""
        return self.interaction.stacks(self.dim, self.vectors)

    @property
    def parameter_bytes(self) -> int:
        """Bytes of the float32 weights and biases of both MLPs and of the interaction."""
        linears = sum(fan_out * fan_in + fan_out for fan_out, fan_in in (*self.bottom_shapes, *self.top_shapes))
        stacks = self.interaction_stacks.values()
        return 4 * (linears + sum(prod(each.shape) for stack in stacks for layer in stack for each in layer))

    @property
    def flops_per_row(self) -> int:
        """Floating-point operations of the dense layers for a row: a multiply-add counts two."""
        layers = sum(fan_out * fan_in for fan_out, fan_in in (*self.bottom_shapes, *self.top_shapes))
        return 2 * (layers + self.interaction.multiply_adds(self.dim, self.vectors))


def whole_dlrm_model(name: str, dlrm: Dlrm) -> Model:
    """The DLRM as a `Model` of which all tables are cut: `dense` and `indices` in, `score` out, a look-up per table in
    the batch's group.
    """
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
        finite=(dense.name,),
    )


def dlrm_model(name: str, dlrm: Dlrm) -> Model:
    """The DLRM as it is cut: what stays in the dense graph is looked up there, in the columns of `indices`."""
    whole = whole_dlrm_model(name, dlrm)
    kept = tuple(
        Kept(table.name, table.rows, table.dim, reason, whole.lookups[i].ids)
        for i, reason in dlrm.kept.items()
        for table in (dlrm.tables[i],)
    )
    if not kept:
        return whole
    stay = [dlrm.tables[i] for i in dlrm.kept]
    dense = Dense(
        whole.inputs,
        whole.dense.flops_per_row + _READ_FLOPS * sum(table.pooling for table in stay),
        whole.dense.parameter_bytes + sum(table.dense_bytes for table in stay),
        batched=True,
    )
    lookups = tuple(replace(whole.lookups[i], table=position) for position, i in enumerate(dlrm.cut))
    tables = tuple(whole.tables[i] for i in dlrm.cut)
    return replace(whole, tables=tables, lookups=lookups, dense=dense, kept=kept)
