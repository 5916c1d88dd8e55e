"""The dense layers as a torch module whose trace is a lean graph: few operators, none of them a pair's or a table's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from torch import nn

from repo_builder.export.layers import DenseWeights, Layer, Partial
from repo_builder.model.dlrm import Dlrm


@dataclass(frozen=True, slots=True)
class _Run:
    """Neighbouring tables held by the same partials: summed together. `slices` is (partial, first column, width)."""

    slices: tuple[tuple[int, int, int], ...]


class DenseModule(nn.Module):
    """Dense features and partial sums to scores; the arithmetic of the open-source DLRM."""

    def __init__(self, dlrm: Dlrm, weights: DenseWeights, partials: Sequence[Partial]) -> None:
        super().__init__()
        self.bottom = nn.ModuleList(_linear(layer) for layer in weights.bottom)
        self.top = nn.ModuleList(_linear(layer) for layer in weights.top)
        self.vectors, self.dim = len(dlrm.tables) + 1, dlrm.dim
        lower = [i * self.vectors + j for i in range(self.vectors) for j in range(i)]
        self.register_buffer("pairs", torch.tensor(lower))  # places in the flattened (F+1, F+1) products
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
        vectors = torch.cat([bottom, *pooled], dim=1).reshape(-1, self.vectors, self.dim)  # (B, F+1, D)
        products = torch.matmul(vectors, vectors.transpose(1, 2)).reshape(-1, self.vectors**2)
        interaction = torch.index_select(products, 1, self.get_buffer("pairs"))  # (B, F(F+1)/2)
        hidden = torch.cat([bottom, interaction], dim=1)
        for layer in self.top[:-1]:
            hidden = torch.relu(layer(hidden))
        return torch.sigmoid(self.top[-1](hidden))


def _linear(layer: Layer) -> nn.Linear:
    weight, bias = (torch.from_numpy(np.require(array, requirements=["C", "W"])) for array in layer)
    linear = nn.Linear(weight.shape[1], weight.shape[0], device="meta")  # its own weights are never drawn
    linear.weight, linear.bias = nn.Parameter(weight, requires_grad=False), nn.Parameter(bias, requires_grad=False)
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
