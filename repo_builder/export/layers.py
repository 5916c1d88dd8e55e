"""What the exporter works on: the weights, whatever file they came from, and the dense graph's inputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from repo_builder.model.types import Table

CHUNK_BYTES = 4 * 1024**2
"""Bytes of float32 rows that a table's row block holds, about: what is read, sorted, hashed and written in one go.

Few enough to stay in a processor's cache meanwhile. Writes of 16 MB were measured to take up to six times as long, as
the kernel makes them wait for the disk; reading and sorting blocks of that size take half as long again.
"""

Layer = tuple[NDArray[np.float32], NDArray[np.float32]]
"""One linear layer: the weight (out, in) and the bias (out,), both float32."""

Arrays = tuple[NDArray[np.float32], ...]
"""One layer of an interaction."""


@dataclass(frozen=True, slots=True)
class DenseWeights:
    """The model's layers, first to last; `interaction` holds those of the stacks of `dlrm.interaction_stacks`.

    The vectors' numbers stand side by side as the bottom MLP's output, then the tables' in the spec's order. Behind
    the dot interaction the columns of `top[0]`'s weight stand in the order of the open-source DLRM: the bottom output,
    then the strict lower triangle of the products row by row: (1, 0), (2, 0), (2, 1), ...
    """

    bottom: tuple[Layer, ...]
    interaction: Mapping[str, tuple[Arrays, ...]]
    top: tuple[Layer, ...]

    @property
    def size_bytes(self) -> int:
        """Bytes of all arrays."""
        layers = [*self.bottom, *self.top, *(layer for stack in self.interaction.values() for layer in stack)]
        return sum(array.nbytes for layer in layers for array in layer)


@dataclass(frozen=True, slots=True)
class Partial:
    """An input of the dense graph: partial sums, [B, len(tables) * dim], of those tables.

    `tables` are places in `dlrm.tables`, ascending.
    """

    name: str
    tables: tuple[int, ...]


class WeightSource(Protocol):
    """Trained (or random) weights of a whole model, checked against its spec.

    notes: what its owner may want to know of how they were read, a line each.
    """

    notes: Sequence[str]

    def dense(self) -> DenseWeights:
        """The linear layers, in memory."""

    def table_chunks(self, table: Table) -> Iterator[NDArray[np.float32]]:
        """The table's rows in id order, in consecutive blocks (n, dim) float32, C-contiguous, about CHUNK_BYTES each.

        A block is the caller's to keep: it is not written to again. Raises CheckpointError on the way where a stored
        value is not finite or the file ends early.
        """


def rows_per_chunk(dim: int) -> int:
    """Rows of a block of about CHUNK_BYTES, at least one."""
    return max(1, CHUNK_BYTES // (4 * dim))
