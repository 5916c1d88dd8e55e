"""A DLRM's weights, whatever they come from; and those drawn at random, for models whose scores do not matter."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from repo_builder.export.stored import rows_per_chunk
from repo_builder.model.dlrm import Dlrm
from repo_builder.model.types import Table
from triton_backends.kernels.row_formats import encode_rows

Layer = tuple[NDArray[np.float32], NDArray[np.float32]]
"""One linear layer: the weight (out, in) and the bias (out,), both float32."""

Arrays = tuple[NDArray[np.float32], ...]
"""One layer of an interaction."""

KeptRows = NDArray[np.float32]
"""All rows (rows, dim) of a table that stays in the dense graph."""


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
class TablePartial:
    """An input of the dense graph: partial sums, [B, len(tables) * dim], of those tables.

    `tables` are positions in `dlrm.tables`, ascending.
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

    def table_chunks(self, table: Table) -> Iterator[NDArray[Any]]:
        """See Source.table_chunks."""


class RandomWeights:
    """Weights in the open-source DLRM's initial distributions, drawn from the spec's seed; the interaction's alike.

    Each table and layer has a stream of its own, seeded by its name, so it does not depend on what else the model
    holds or on the order of reading. The same seed gives the same weights on the same numpy release.
    """

    notes: Sequence[str] = ()

    def __init__(self, dlrm: Dlrm) -> None:
        self._dlrm = dlrm

    def dense(self) -> DenseWeights:
        """Weights normal with deviation sqrt(2 / (in + out)), biases normal with deviation sqrt(1 / out)."""
        bottom = tuple(self._layer(f"bottom.{i}", shape) for i, shape in enumerate(self._dlrm.bottom_shapes))
        top = tuple(self._layer(f"top.{i}", shape) for i, shape in enumerate(self._dlrm.top_shapes))
        interaction = {
            stack: tuple(self._arrays(f"{stack}.{i}", [each.shape for each in layer]) for i, layer in enumerate(layers))
            for stack, layers in self._dlrm.interaction_stacks.items()
        }
        return DenseWeights(bottom, interaction, top)

    def table_chunks(self, table: Table) -> Iterator[NDArray[Any]]:
        """Rows uniform between -sqrt(1 / rows) and +sqrt(1 / rows)."""
        rng = self._generator(f"table.{table.name}")
        bound = np.float32(math.sqrt(1 / table.rows))
        dim = table.format.dim
        step = rows_per_chunk(dim)
        for begin in range(0, table.rows, step):
            block = rng.random((min(step, table.rows - begin), dim), dtype=np.float32)
            block *= 2 * bound
            block -= bound
            yield block if table.format.dtype == "fp32" else encode_rows(block, table.format.dtype)

    def _layer(self, name: str, shape: tuple[int, int]) -> Layer:
        weight, bias = self._arrays(name, [shape, shape[:1]])
        return weight, bias

    def _arrays(self, name: str, shapes: Sequence[tuple[int, ...]]) -> Arrays:
        """Matrices and biases, one after another from one stream."""
        rng = self._generator(name)
        # sqrt(2 / (in + out)) and sqrt(1 / out)
        deviations = [math.sqrt(len(shape) / sum(shape)) for shape in shapes]
        drawn = [rng.normal(0.0, deviation, shape) for deviation, shape in zip(deviations, shapes, strict=True)]
        return tuple(values.astype(np.float32) for values in drawn)

    def _generator(self, name: str) -> np.random.Generator:
        words = np.frombuffer(hashlib.sha256(name.encode()).digest()[:16], "<u4")
        return np.random.Generator(np.random.PCG64(np.random.SeedSequence([self._dlrm.weights.seed, *map(int, words)])))
