"""The dense layers as a torch module whose trace is a lean graph: few operators, none of them a pair's or a table's."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from repo_builder.export.layers import DenseWeights, Layer, Partial
from repo_builder.model.dlrm import Dlrm
from repo_builder.model.interaction import InteractionKind


@dataclass(frozen=True, slots=True)
class _Run:
    """Neighbouring tables held by the same partials: summed together. `slices` is (partial, first column, width)."""

    slices: tuple[tuple[int, int, int], ...]


def dense_module(dlrm: Dlrm, weights: DenseWeights, partials: Sequence[Partial]) -> DenseModule:
    """The dense layers of a model, with the interaction that it has."""
    return _MODULES[dlrm.interaction.kind](dlrm, weights, partials)


class DenseModule(nn.Module, ABC):
    """Dense features and partial sums to scores."""

    def __init__(self, dlrm: Dlrm, weights: DenseWeights, partials: Sequence[Partial]) -> None:
        super().__init__()
        self.bottom = nn.ModuleList(_linear(layer) for layer in weights.bottom)
        self.top = nn.ModuleList(_linear(layer) for layer in weights.top)
        self.vectors, self.dim = dlrm.vectors, dlrm.dim
        self.runs = _runs(partials, len(dlrm.tables), dlrm.dim)
        self.averages = dlrm.has_means

    def forward(self, dense: torch.Tensor, *inputs: torch.Tensor) -> torch.Tensor:
        """Dense (B, dense_features), partials (B, tables * dim), and with means divisors (B, F), all float32, to scores
        (B, 1) float32.
        """
        bottom = dense
        for layer in self.bottom:
            bottom = torch.relu(layer(bottom))  # (B, D)
        pooled = [_sum_of_run(run, inputs) for run in self.runs]  # together (B, F*D)
        if self.averages:
            sums = torch.cat(pooled, dim=1).reshape(-1, self.vectors - 1, self.dim)
            pooled = [(sums / inputs[-1].unsqueeze(2)).reshape(-1, (self.vectors - 1) * self.dim)]
        hidden = self.interact(bottom, torch.cat([bottom, *pooled], dim=1))
        for layer in self.top[:-1]:
            hidden = torch.relu(layer(hidden))
        return torch.sigmoid(self.top[-1](hidden))

    @abstractmethod
    def interact(self, bottom: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        """What the top MLP takes, from the bottom output (B, D) and all vectors' numbers (B, (F+1)*D)."""


class _Dot(DenseModule):
    """The arithmetic of the open-source DLRM."""

    def __init__(self, dlrm: Dlrm, weights: DenseWeights, partials: Sequence[Partial]) -> None:
        super().__init__(dlrm, weights, partials)
        lower = [i * self.vectors + j for i in range(self.vectors) for j in range(i)]
        self.register_buffer("pairs", torch.tensor(lower))  # places in the flattened (F+1, F+1) products

    def interact(self, bottom: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        vectors = numbers.reshape(-1, self.vectors, self.dim)  # (B, F+1, D)
        products = torch.matmul(vectors, vectors.transpose(1, 2)).reshape(-1, self.vectors**2)
        interaction = torch.index_select(products, 1, self.get_buffer("pairs"))  # (B, F(F+1)/2)
        return torch.cat([bottom, interaction], dim=1)


class _Cross(DenseModule):
    """A cross network: each layer multiplies its input, down to the rank and up again, with the first one's."""

    def __init__(self, dlrm: Dlrm, weights: DenseWeights, partials: Sequence[Partial]) -> None:
        super().__init__(dlrm, weights, partials)
        layers = weights.interaction["cross"]
        self.down = nn.ParameterList(_parameter(down.T) for down, _, _ in layers)  # (numbers, rank): MatMul's way
        self.up = nn.ModuleList(_linear((up, bias)) for _, up, bias in layers)

    def interact(self, bottom: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        crossed = numbers
        for down, up in zip(self.down, self.up, strict=True):
            crossed = numbers * up(torch.matmul(crossed, down)) + crossed
        return crossed


class _Projection(DenseModule):
    """Two MLPs of all vectors' numbers, and the products of their outputs."""

    def __init__(self, dlrm: Dlrm, weights: DenseWeights, partials: Sequence[Partial]) -> None:
        super().__init__(dlrm, weights, partials)
        self.branch1 = nn.ModuleList(_linear((weight, bias)) for weight, bias in weights.interaction["branch1"])
        self.branch2 = nn.ModuleList(_linear((weight, bias)) for weight, bias in weights.interaction["branch2"])
        last1, last2 = len(weights.interaction["branch1"][-1][1]), len(weights.interaction["branch2"][-1][1])
        self.ones, self.others = last1 // dlrm.dim, last2 // dlrm.dim

    def interact(self, bottom: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        ones, others = numbers, numbers
        for layer in self.branch1:
            ones = torch.relu(layer(ones))
        for layer in self.branch2:
            others = torch.relu(layer(others))
        left, right = ones.reshape(-1, self.ones, self.dim), others.reshape(-1, self.dim, self.others)
        return torch.cat([bottom, torch.matmul(left, right).reshape(-1, self.ones * self.others)], dim=1)


_MODULES: Mapping[InteractionKind, type[DenseModule]] = {"dot": _Dot, "dcn": _Cross, "projection": _Projection}


def _parameter(array: NDArray[np.float32]) -> nn.Parameter:
    return nn.Parameter(torch.from_numpy(np.require(array, requirements=["C", "W"])), requires_grad=False)


def _linear(layer: Layer) -> nn.Linear:
    linear = nn.Linear(layer[0].shape[1], layer[0].shape[0], device="meta")  # its own weights are never drawn
    linear.weight, linear.bias = map(_parameter, layer)
    return linear


def _runs(partials: Sequence[Partial], tables: int, dim: int) -> tuple[_Run, ...]:
    def holders(table: int) -> tuple[int, ...]:
        return tuple(i for i, partial in enumerate(partials) if table in partial.tables)

    runs = []
    for held_by, group in groupby(range(tables), holders):
        members = list(group)
        width = len(members) * dim
        runs.append(_Run(tuple((i, partials[i].tables.index(members[0]) * dim, width) for i in held_by)))
    return tuple(runs)


def _sum_of_run(run: _Run, partials: Sequence[torch.Tensor]) -> torch.Tensor:
    """The sum over the run's partials, (B, tables in the run * dim); a whole partial is not sliced."""
    pieces = [
        partials[i] if width == partials[i].shape[1] else partials[i][:, begin : begin + width]
        for i, begin, width in run.slices
    ]
    total = pieces[0]
    for piece in pieces[1:]:
        total = total + piece
    return total
