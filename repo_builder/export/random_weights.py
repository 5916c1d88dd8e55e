"""Weights drawn at random, for models whose speed and memory matter and whose scores do not."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from repo_builder.export.layers import Arrays, DenseWeights, Layer, rows_per_chunk
from repo_builder.model.dlrm import Dlrm
from repo_builder.model.types import Table


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

    def table_chunks(self, table: Table) -> Iterator[NDArray[np.float32]]:
        """Rows uniform between -sqrt(1 / rows) and +sqrt(1 / rows)."""
        rng = self._generator(f"table.{table.name}")
        bound = np.float32(math.sqrt(1 / table.rows))
        dim = table.format.dim
        step = rows_per_chunk(dim)
        for begin in range(0, table.rows, step):
            block = rng.random((min(step, table.rows - begin), dim), dtype=np.float32)
            block *= 2 * bound
            block -= bound
            yield block

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
