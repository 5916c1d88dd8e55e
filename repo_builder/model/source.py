"""What a door into the product opens, and what it takes: a model that its owner has as a file, and an opened model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from numpy.typing import NDArray

from repo_builder.model.types import Model, Table

FileSource = Literal["exported", "onnx"]
Keep = Literal["dense", "shard"]

KEEP_UNDER_BYTES = 1024**2
"""A table below it stays in the dense graph: a service of its own would cost more than its rows."""


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A program of torch.export (`.pt2`) or an ONNX file.

    samples: an `.npz` with an array per input, a query that the model is known to take. keep: whether a table stays in
    the dense graph or is cut into shards, where not its size is to decide.
    """

    source: FileSource
    path: Path
    samples: Path | None = None
    keep_under_bytes: int = KEEP_UNDER_BYTES
    keep: Mapping[str, Keep] = field(default_factory=dict)


DIVISORS = "divisors"

TOLERANCE = 1e-5
"""Of a model that computes in float32 or float64."""

HALF_TOLERANCE = 2e-2
"""Of one that computes in half precision somewhere, where the order of sums shows."""


def suffix(group: int) -> str:
    """What the names of a group's tensors end with: nothing for the first, most models' only one."""
    return f"_{group}" if group else ""


def divisors_name(group: int) -> str:
    """The dense graph's input with what each bag's sum is divided by, FP32 [rows, bags], where some of a group's are
    averaged: `count` columns per look-up of the group, in the model's order, 1 where a look-up is none of a mean.
    """
    return DIVISORS + suffix(group)


@dataclass(frozen=True, slots=True)
class Partial:
    """An input of the dense graph: partial sums FP32 [rows of the group, width], of some look-ups of one group.

    columns: position of the look-up in the model -> its first column; it takes `model.width(lookup)`.
    """

    name: str
    group: int
    width: int
    columns: Mapping[int, int]


class Source(Protocol):
    """An opened model: its tables are streamed, so that memory never holds one.

    notes: what its owner may want to know of how it was read, a line each.
    tolerance: how far an answer may lie from the whole model's, as a share of it where it is above 1.
    """

    model: Model
    notes: Sequence[str]
    tolerance: float

    def table_chunks(self, table: Table) -> Iterator[NDArray[Any]]:
        """The table's rows in id order, in consecutive blocks, C-contiguous, about CHUNK_BYTES each.

        (n, dim) float32; of a table in another format (n, row_bytes) uint8, rows as `table.format` says. A block is the
        caller's to keep: it is not written to again. Raises CheckpointError on the way where a stored value is not
        finite or the file ends early.
        """

    def write_dense(self, partials: Sequence[Partial], folder: Path) -> Sequence[str]:
        """Write the dense graph as `model.onnx` into a folder; the files' names.

        Its inputs: `model.dense.inputs`, then the partials, then `divisors_name(g)` of each group with means. A look-up
        is the sum of the partials that hold it, divided by its divisors where it is a mean. Its outputs: the model's.
        The same weights give the same bytes. Raises ExportError where the partials do not make up the model.
        """

    def write_ids(self, folder: Path) -> Sequence[str]:
        """Write the ids graph as `model.onnx` into a folder, where the model has one; the files' names."""

    def write_whole(self, folder: Path) -> Sequence[str]:
        """Write the whole model as `model.onnx` into a folder, where its owner has it so; the files' names, else none.

        It is what the cut model is measured against. Where bags are pooled an export to ONNX makes loops of them, which
        would flatter us: a model that comes otherwise is measured against our own kernels, uncut.
        """

    def ids(self, inputs: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
        """The tensors that look-ups name, of a query: its own, and those that the ids graph makes of them."""

    def answers(self, inputs: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
        """The whole model's outputs for a query, computed as its owner would: the reference for what we build.

        Raises InputError where the inputs are none of the model's.
        """

    def samples(self) -> Mapping[str, NDArray[Any]] | None:
        """A query that is known to be one of the model's: recorded, or that it was exported with; None: draw one."""

    def tried(self) -> Mapping[str, NDArray[Any]] | None:
        """A query whose answers a build is to compare with the whole model's.

        None: the whole model is not run for that, as that would be to read all tables once more; `write_dense` has
        compared the dense graph with the reference on any vectors.
        """
