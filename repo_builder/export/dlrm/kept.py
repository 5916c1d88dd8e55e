"""The tables of a DLRM that stay in the dense graph: their look-ups there, as plain operators.

Their rows lie one table after another in one matrix, with a row of zeros at the end, which an empty slot reads. So all
of a query's ids are one Gather, and what neighbouring tables of equal bags pool is one sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from repo_builder.model.dlrm import Dlrm


@dataclass(frozen=True, slots=True)
class _Bags:
    """Neighbouring tables that pool alike: `first` among all of the model's, `count` of them, `pooling` ids each."""

    first: int
    count: int
    pooling: int
    is_mean: bool


class KeptLookups(nn.Module):
    """From all ids of a query to the pooled rows of the tables that stay."""

    def __init__(self, dlrm: Dlrm, rows: Sequence[NDArray[np.float32]]) -> None:
        """rows: (rows, dim) of each table that stays, in the model's order."""
        super().__init__()
        kept = [dlrm.tables[i] for i in dlrm.kept]
        begins = list(accumulate((table.rows for table in kept), initial=0))
        columns = list(accumulate((table.pooling for table in dlrm.tables), initial=0))
        taken = [columns[i] + slot for i in dlrm.kept for slot in range(dlrm.tables[i].pooling)]
        of_slots = np.repeat(begins[:-1], [table.pooling for table in kept])
        self.register_buffer("columns", torch.tensor(taken))
        self.register_buffer("begins", torch.from_numpy(of_slots))
        self.register_buffer("none", torch.tensor(begins[-1]))
        matrix = np.concatenate([*rows, np.zeros((1, dlrm.dim), np.float32)])
        self.rows = nn.Parameter(torch.from_numpy(matrix), requires_grad=False)
        self.dim, self.bags = dlrm.dim, _bags(dlrm)

    def forward(self, indices: torch.Tensor) -> list[torch.Tensor]:
        """Of indices (B, columns) int64 or int32 the vectors of `bags`, (B, count * dim) float32 each."""
        ids = torch.index_select(indices, 1, self.get_buffer("columns")).to(torch.int64)
        is_none = ids < 0
        rows = torch.where(is_none, self.get_buffer("none"), ids + self.get_buffer("begins"))
        vectors = functional.embedding(rows, self.rows)  # (B, slots, D)
        pooled, slot = [], 0
        for bags in self.bags:
            end = slot + bags.count * bags.pooling
            mine = vectors if end - slot == len(self.get_buffer("columns")) else vectors[:, slot:end]
            if bags.pooling > 1:
                mine = mine.reshape(-1, bags.count, bags.pooling, self.dim).sum(2)
            if bags.is_mean and bags.pooling > 1:
                filled = (~is_none[:, slot:end]).to(torch.float32).reshape(-1, bags.count, bags.pooling)
                mine = mine / filled.sum(2, keepdim=True).clamp(min=1)
            pooled.append(mine.reshape(-1, bags.count * self.dim))
            slot = end
        return pooled


def _bags(dlrm: Dlrm) -> list[_Bags]:
    """Runs of tables that stay, with nothing between them that is cut."""

    def pooling_of(pair: tuple[int, int]) -> tuple[int, int, bool]:
        number, position = pair
        table = dlrm.tables[position]
        return position - number, table.pooling, table.mode == "mean"

    runs = [(key, list(members)) for key, members in groupby(enumerate(dlrm.kept), pooling_of)]
    return [_Bags(members[0][1], len(members), pooling, mean) for (_, pooling, mean), members in runs]
