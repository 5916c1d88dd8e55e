"""How the vectors of a DLRM meet between its MLPs: the three interactions that TorchRec has, by their numbers.

The vectors, `dim` numbers each: the bottom MLP's output, then the tables'. x is all their numbers side by side.

    dot         the dot products of all pairs, behind the bottom output (DLRM, Naumov et al., 2019)
    dcn         a low-rank cross network: x_0 = x, x_{l+1} = x_0 * (W_l V_l x_l + b_l) + x_l (DCN v2; MLPerf's DLRMv2)
    projection  two MLPs of x give vectors; the dot products of the one's with the other's, behind the bottom output

Whatever follows from an interaction's own numbers stands here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, Literal

InteractionKind = Literal["dot", "dcn", "projection"]


@dataclass(frozen=True, slots=True)
class Parameter:
    """A float32 array. vectors: the axis along which the vectors' numbers stand side by side; None: there is none."""

    shape: tuple[int, ...]
    vectors: int | None = None


Stacks = Mapping[str, Sequence[tuple[Parameter, ...]]]
"""An interaction's arrays: by stack, layer after layer."""


@dataclass(frozen=True, slots=True)
class Dot:
    """The dot products of all pairs of vectors; it has no weights."""

    kind: ClassVar[InteractionKind] = "dot"

    def keys(self) -> Mapping[str, int | Sequence[int]]:
        """Its numbers, as a spec names them."""
        return {}

    def stacks(self, dim: int, vectors: int) -> Stacks:
        """Its arrays, for so many vectors."""
        return {}

    def width(self, dim: int, vectors: int) -> int:
        """Numbers that it gives the top MLP."""
        return dim + vectors * (vectors - 1) // 2

    def multiply_adds(self, dim: int, vectors: int) -> int:
        """Of a row."""
        return vectors * (vectors - 1) // 2 * dim


@dataclass(frozen=True, slots=True)
class Cross:
    """A cross network of so many layers, whose matrices are products of two of a low rank."""

    layers: int
    rank: int
    kind: ClassVar[InteractionKind] = "dcn"

    def keys(self) -> Mapping[str, int | Sequence[int]]:
        """See Dot.keys."""
        return {"cross_layers": self.layers, "cross_rank": self.rank}

    def stacks(self, dim: int, vectors: int) -> Stacks:
        """The stack `cross`: V (rank, x), W (x, rank) and b (x,) of each layer."""
        numbers = dim * vectors
        layer = (Parameter((self.rank, numbers), 1), Parameter((numbers, self.rank), 0), Parameter((numbers,), 0))
        return {"cross": [layer] * self.layers}

    def width(self, dim: int, vectors: int) -> int:
        """See Dot.width."""
        return dim * vectors

    def multiply_adds(self, dim: int, vectors: int) -> int:
        """See Dot.multiply_adds."""
        return self.layers * dim * vectors * (2 * self.rank + 1)


@dataclass(frozen=True, slots=True)
class Projection:
    """Two MLPs by their layers' widths; the last of each is a multiple of dim: of the vectors that it gives."""

    branch1: tuple[int, ...]
    branch2: tuple[int, ...]
    kind: ClassVar[InteractionKind] = "projection"

    def keys(self) -> Mapping[str, int | Sequence[int]]:
        """See Dot.keys."""
        return {"branch1_mlp": self.branch1, "branch2_mlp": self.branch2}

    def stacks(self, dim: int, vectors: int) -> Stacks:
        """The stacks `branch1` and `branch2`: weight (out, in) and bias (out,) of each layer."""
        return {"branch1": _linears(dim * vectors, self.branch1), "branch2": _linears(dim * vectors, self.branch2)}

    def width(self, dim: int, vectors: int) -> int:
        """See Dot.width."""
        return dim + (self.branch1[-1] // dim) * (self.branch2[-1] // dim)

    def multiply_adds(self, dim: int, vectors: int) -> int:
        """See Dot.multiply_adds."""
        linears = [*linear_shapes(dim * vectors, self.branch1), *linear_shapes(dim * vectors, self.branch2)]
        return sum(fan_out * fan_in for fan_out, fan_in in linears) + (self.width(dim, vectors) - dim) * dim


Interaction = Dot | Cross | Projection


def linear_shapes(inputs: int, widths: Sequence[int]) -> list[tuple[int, int]]:
    """The weight shapes (out, in) of an MLP, first layer first."""
    return [(after, before) for before, after in pairwise((inputs, *widths))]


def _linears(inputs: int, widths: Sequence[int]) -> list[tuple[Parameter, ...]]:
    """An MLP's weights and biases; the first layer takes the vectors' numbers."""
    first, *others = linear_shapes(inputs, widths)
    layers = [Parameter(first, vectors=1), *(Parameter(shape) for shape in others)]
    return [(weight, Parameter(weight.shape[:1])) for weight in layers]
