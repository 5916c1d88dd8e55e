"""Sequence recommenders as people write them: a SASRec-like transformer, an HSTU-like block, plain PyTorch alone."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as functional
from torch import nn

from tests.zoo.example import Example, Query, settled

ACTIONS, DIM, HISTORY, CANDIDATES, HEADS = 12, 32, 50, 10, 2
ROWS = {"item": 40_000}


class Sasrec(nn.Module):
    """The next item of a history [B, 50], padded in front with item 0, among candidates [B, 10]: scores [B, 10].

    Items of the history and candidates are read from one table.
    """

    def __init__(self) -> None:
        super().__init__()
        self.items = nn.Embedding(ROWS["item"], DIM, padding_idx=0)
        self.positions = nn.Embedding(HISTORY, DIM)
        layer = nn.TransformerEncoderLayer(DIM, HEADS, 2 * DIM, dropout=0.2, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(DIM)

    def forward(self, history: torch.Tensor, candidates: torch.Tensor) -> torch.Tensor:
        positions = self.positions(torch.arange(HISTORY, device=history.device))
        later = torch.triu(torch.ones(HISTORY, HISTORY, dtype=torch.bool, device=history.device), 1)
        padded = (history == 0).unsqueeze(1) & ~torch.eye(HISTORY, dtype=torch.bool, device=history.device)
        hidden = (later | padded).repeat_interleave(HEADS, 0)
        seen = self.norm(self.encoder(self.items(history) * math.sqrt(DIM) + positions, mask=hidden))
        return torch.bmm(self.items(candidates), seen[:, -1].unsqueeze(2)).squeeze(2)


class Hstu(nn.Module):
    """Two blocks after "Actions Speak Louder than Words": pointwise attention, gated, over items and actions.

    A history of any length [B, T] and what was done with each item [B, T]; one candidate a row: scores [B] and a second
    task [B].
    """

    def __init__(self) -> None:
        super().__init__()
        self.items, self.actions = nn.Embedding(ROWS["item"], DIM), nn.Embedding(ACTIONS, DIM)
        self.joint = nn.ModuleList(nn.Linear(DIM, 4 * DIM) for _ in range(2))
        self.out = nn.ModuleList(nn.Linear(DIM, DIM) for _ in range(2))
        self.before, self.within = (nn.ModuleList(nn.LayerNorm(DIM) for _ in range(2)) for _ in range(2))
        self.tasks = nn.Linear(2 * DIM, 2)

    def forward(
        self, history: torch.Tensor, actions: torch.Tensor, candidate: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.items(history) + self.actions(actions)
        steps = torch.arange(history.shape[1], device=history.device)
        causal = (steps.unsqueeze(0) <= steps.unsqueeze(1)).to(x.dtype)
        for joint, out, before, within in zip(self.joint, self.out, self.before, self.within, strict=True):
            gate, values, queries, keys = functional.silu(joint(before(x))).chunk(4, dim=-1)
            attention = functional.silu(queries @ keys.transpose(1, 2)) * causal / HISTORY
            x = x + out(within(attention @ values) * gate)
        scores = self.tasks(torch.cat([x[:, -1], self.items(candidate)], dim=1))
        return torch.sigmoid(scores[:, 0]), scores[:, 1]


def sasrec() -> Example:
    torch.manual_seed(20)

    def draw(numbers: np.random.Generator, batch: int) -> Query:
        history = numbers.integers(1, ROWS["item"], (batch, HISTORY))
        history[np.arange(HISTORY) < numbers.integers(0, HISTORY, (batch, 1))] = 0
        return {"history": history, "candidates": numbers.integers(1, ROWS["item"], (batch, CANDIDATES))}

    return Example(settled(Sasrec()), draw, ("scores",), {})


def hstu() -> Example:
    torch.manual_seed(21)

    def draw(numbers: np.random.Generator, batch: int) -> Query:
        shape = (batch, int(numbers.integers(2, HISTORY)))
        return {
            "history": numbers.integers(0, ROWS["item"], shape),
            "actions": numbers.integers(0, ACTIONS, shape),
            "candidate": numbers.integers(0, ROWS["item"], batch),
        }

    return Example(settled(Hstu()), draw, ("click", "watch"), {"history": (0, 1), "actions": (0, 1)})
