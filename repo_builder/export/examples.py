"""The demo's models as their owners would have them: a DLRM's checkpoint, and a DCN-v2 as an exported program."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

from repo_builder.export.dlrm.layers import RandomWeights
from repo_builder.model.dlrm import Dlrm


def write_example_checkpoint(dlrm: Dlrm, path: Path) -> None:
    """Save seeded random weights of the spec's shapes under the open-source DLRM's keys, with `torch.save`."""
    source = RandomWeights(dlrm)
    dense = source.dense()
    state: dict[str, torch.Tensor] = {}
    for i, table in enumerate(dlrm.tables):
        state[f"emb_l.{i}.weight"] = torch.from_numpy(np.concatenate(list(source.table_chunks(table.stored))))
    for part, layers in (("bot_l", dense.bottom), ("top_l", dense.top)):
        for k, (weight, bias) in enumerate(layers):
            state[f"{part}.{2 * k}.weight"] = torch.from_numpy(weight)
            state[f"{part}.{2 * k}.bias"] = torch.from_numpy(bias)
    torch.save(state, path)


NUMBERS = 8
HISTORY = 20
COUNTRIES = 60
_DIM = 16
_MOST_ROWS = 4096


class CrossLayer(nn.Module):
    """x_{l+1} = x_0 * (W x_l + b) + x_l, equation 1 of the paper; x of (batch, width) float32."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)

    def forward(self, first: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """From x_l, and x_0, to x_{l+1}."""
        crossed: torch.Tensor = first * self.linear(x) + x
        return crossed


class DcnV2(nn.Module):
    """Cross layers beside a deep network. Items are looked up twice: the candidate, and the mean of a history."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.user = nn.Embedding(rows, 2 * _DIM)
        self.item = nn.Embedding(rows, _DIM)
        self.seen = nn.EmbeddingBag(rows, _DIM, mode="mean", padding_idx=0)
        self.country = nn.Embedding(COUNTRIES, _DIM)
        width = 5 * _DIM + NUMBERS
        self.cross = nn.ModuleList(CrossLayer(width) for _ in range(3))
        self.deep = nn.Sequential(nn.Linear(width, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU())
        self.score = nn.Linear(width + 64, 1)
        self.seen.weight = self.item.weight

    def forward(
        self, user: torch.Tensor, item: torch.Tensor, seen: torch.Tensor, country: torch.Tensor, numbers: torch.Tensor
    ) -> torch.Tensor:
        """Ids (batch,) int64, `seen` (batch, HISTORY), 0 for none, numbers (batch, NUMBERS) float32 to (batch, 1)."""
        first = torch.cat([self.user(user), self.item(item), self.seen(seen), self.country(country), numbers], 1)
        x = first
        for layer in self.cross:
            x = layer(first, x)
        scores: torch.Tensor = torch.sigmoid(self.score(torch.cat([x, self.deep(first)], 1)))
        return scores


def write_example_program(rows: int, path: Path) -> None:
    """Export a DCN-v2 with seeded random weights and tables of so many rows to a `.pt2`."""
    torch.manual_seed(0)
    model = DcnV2(rows).eval()
    inputs = (
        torch.arange(3),
        torch.arange(3),
        torch.arange(3 * HISTORY).reshape(3, HISTORY),
        torch.arange(3),
        torch.rand(3, NUMBERS),
    )
    batch = {0: torch.export.Dim("batch", min=1, max=_MOST_ROWS)}
    torch.export.save(torch.export.export(model, inputs, dynamic_shapes=(batch,) * len(inputs)), path)
