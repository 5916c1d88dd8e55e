"""The one representation of a recommendation model, whatever it comes from: tables, look-ups in them, dense work.

    inputs ──(ids graph)── ids ── look-ups in tables ── looked-up vectors ──┐
       └───────────────────────────────────────────────────────── dense graph ── outputs

A look-up makes *bags*: each takes some ids and becomes one vector, the sum or the mean of the ids' rows, or the one
row where nothing is pooled. Look-ups whose bags go row by row of the same axis form a *group*: in a model that scores a
batch of rows most have `count` bags for each of these. So what comes back of a group is a matrix (its rows, the
look-ups' vectors side by side), which adds up over shards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Datatype = Literal[
    "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64", "BF16"
]
"""As the KServe protocol and Triton name them."""

RowDtype = Literal["fp32", "fp16", "bf16", "int8", "int8_half", "int4"]
"""How the numbers of a stored row are written, from the most bytes to the least."""

Mode = Literal["none", "sum", "mean"]
PoolingMode = Literal["sum", "mean"]
BATCH = "batch"


@dataclass(frozen=True, slots=True)
class Tensor:
    """An input or an output: a dimension of its shape is a size, or the name of one that varies, alike where equal."""

    name: str
    datatype: Datatype
    shape: tuple[int | str, ...]


@dataclass(frozen=True, slots=True)
class RowFormat:
    """How a row of a table is stored: `dim` numbers.

    int8 is `dim` bytes and the row's scale and bias, float32 each, int8_half those in float16; int4 is half as many
    bytes, and those in float16: FBGEMM's fused rowwise layouts (`pytorch/FBGEMM`, FloatToFused8BitRowwiseQuantized,
    FloatToFusedNBitRowwiseQuantizedSBHalf).
    """

    dim: int
    dtype: RowDtype = "fp32"

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        match self.dtype:
            case "fp32":
                return 4 * self.dim
            case "fp16" | "bf16":
                return 2 * self.dim
            case "int8":
                return self.dim + 8
            case "int8_half":
                return self.dim + 4
            case "int4":
                return (self.dim + 1) // 2 + 4

    def stored_as(self, dtype: RowDtype) -> RowFormat:
        """The format in a service whose rows are of `dtype`: as they came where that would take no fewer bytes.

        So do rows that came in fewer bits than float32, and those of one or two numbers beside a scale and a bias.
        """
        stored = RowFormat(self.dim, dtype)
        return stored if self.dtype == "fp32" and stored.row_bytes < self.row_bytes else self


@dataclass(frozen=True, slots=True)
class Table:
    """An embedding table of so many rows of one format.

    Parameters of a model that are read by the same ids lie side by side in one table: its rows are theirs, joined.
    """

    name: str
    rows: int
    format: RowFormat

    @property
    def size_bytes(self) -> int:
        """Bytes of all rows."""
        return self.rows * self.format.row_bytes


@dataclass(frozen=True, slots=True)
class Columns:
    """Bags of one size: the ids' tensor is a matrix (rows, width), whatever its shape; its rows are the group's.

    A look-up of `count` bags takes the columns `begin` to `begin + count * bag`, a bag after the other.
    width None: it is the tensor's last dimension, which varies, and all of it is one bag (begin is 0, count 1).
    """

    begin: int
    bag: int
    width: int | None


@dataclass(frozen=True, slots=True)
class Ragged:
    """Bags of any size, one a row: ids lie one after another, and another tensor of integers says where bags begin.

    bounds: its name. kind: `offsets` holds the first position of each bag, `ends` one number more: the end of the last,
    `lengths` how many ids each bag has.
    block: bags of several look-ups stand in one ids' tensor, first all of the one, then all of the next: this one's are
    the block-th of `blocks` equal parts.
    """

    bounds: str
    kind: Literal["offsets", "ends", "lengths"]
    block: int = 0
    blocks: int = 1


@dataclass(frozen=True, slots=True)
class Ids:
    """Where a look-up's ids come from.

    tensor: an INT64 or INT32 input of the model, or output of its ids graph. weights: a FP32 tensor like it, by which
    the rows are multiplied. padding: the id that stands for none. from_end: -n ... -1 are ids too, counted from the end
    of a table of n rows. Any other id outside the table is refused.
    """

    tensor: str
    layout: Columns | Ragged
    weights: str | None = None
    padding: int | None = None
    from_end: bool = False

    @property
    def tensors(self) -> frozenset[str]:
        """The names of those that say which ids each bag has."""
        return frozenset((self.tensor, self.layout.bounds) if isinstance(self.layout, Ragged) else (self.tensor,))


@dataclass(frozen=True, slots=True)
class Lookup:
    """A read of a table: `count` vectors of the table's dim for each row of its group, float32.

    table, group: positions in the model's. shape: of what comes out, whose last dimension is the table's dim and whose
    other ones make up the group's rows times `count`. mean_ids: how many ids a row of the group has, on average.
    """

    name: str
    table: int
    group: int
    ids: Ids
    mode: Mode
    count: int
    shape: tuple[int | str, ...]
    mean_ids: float


@dataclass(frozen=True, slots=True)
class Group:
    """An axis along which look-ups go: `rows` is its size, or the name of the dimension that it is (`BATCH`, ...).

    mean_rows: how many there are in a query, on average, for each row of its batch: 1 for the batch itself.
    """

    rows: int | str
    mean_rows: float = 1.0

    def rows_at(self, batch: int) -> int:
        """Rows in a query of `batch` rows; on average, where they are not as many in all."""
        return self.rows if isinstance(self.rows, int) else max(1, round(self.mean_rows * batch))


@dataclass(frozen=True, slots=True)
class Dense:
    """The dense graph: the tensors that it reads beside looked-up vectors, and what it costs.

    inputs: of the model's, or outputs of its ids graph. flops_per_row: of a batch's row.
    batched: whether it scores each row of the batch for itself, so that rows of several queries can be joined: all its
    inputs and outputs and all look-ups have the batch as their first dimension.
    """

    inputs: tuple[Tensor, ...]
    flops_per_row: float
    parameter_bytes: int
    batched: bool


@dataclass(frozen=True, slots=True)
class IdsGraph:
    """The integer work between the model's inputs and the ids, done before they are routed."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


@dataclass(frozen=True, slots=True)
class Kept:
    """A parameter that look-ups read and that stays in the dense graph, and why.

    ids: where those of its one look-up come from, if they are to be checked before the dense graph reads them.
    """

    name: str
    rows: int
    dim: int
    reason: str
    ids: Ids | None = None


@dataclass(frozen=True, slots=True)
class Model:
    """A model cut at its look-ups. `inputs` and `outputs` are its clients'.

    finite: FP32 inputs with the batch's rows whose numbers must be finite: other queries are refused.
    """

    name: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    tables: tuple[Table, ...]
    groups: tuple[Group, ...]
    lookups: tuple[Lookup, ...]
    dense: Dense
    ids_graph: IdsGraph | None = None
    kept: tuple[Kept, ...] = ()
    finite: tuple[str, ...] = ()

    @property
    def size_bytes(self) -> int:
        """Bytes of all tables."""
        return sum(table.size_bytes for table in self.tables)

    def stored_bytes(self, dtype: RowDtype) -> int:
        """Bytes of all tables whose rows are stored as `RowFormat.stored_as` says."""
        return sum(table.rows * table.format.stored_as(dtype).row_bytes for table in self.tables)

    @property
    def ids_per_row(self) -> tuple[float, ...]:
        """How many ids of each table a row of the batch has, on average, whichever look-ups they are of."""
        ids = [0.0] * len(self.tables)
        for lookup in self.lookups:
            ids[lookup.table] += lookup.mean_ids * self.groups[lookup.group].mean_rows
        return tuple(ids)

    def width(self, lookup: Lookup) -> int:
        """Numbers that a look-up gives for each row of its group."""
        return lookup.count * self.tables[lookup.table].format.dim

    def in_group(self, group: int) -> Sequence[int]:
        """The positions of a group's look-ups."""
        return [i for i, lookup in enumerate(self.lookups) if lookup.group == group]

    def has_means(self, group: int) -> bool:
        """Whether a look-up of the group is averaged."""
        return any(lookup.group == group and lookup.mode == "mean" for lookup in self.lookups)
