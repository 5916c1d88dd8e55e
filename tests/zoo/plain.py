"""Models in plain PyTorch that ask more of a cut than the libraries' do: ids computed, ragged, of one user for all."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from tests.zoo.example import Example, Query, settled

DIM = 16
ROWS = {"user": 30_000, "item": 50_000, "tag": 20_000}


class OneMatrix(nn.Module):
    """All features in one matrix of floats [B, 5], as a data frame has them: two columns are ids, one is hashed."""

    def __init__(self) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(ROWS["user"], DIM), nn.Embedding(ROWS["item"], DIM)
        self.head = nn.Sequential(nn.Linear(2 * DIM + 3, 32), nn.ReLU(), nn.Linear(32, 1))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        user, item = features[:, 0].long(), features[:, 1].long() % ROWS["item"]
        return self.head(torch.cat([self.users(user), self.items(item), features[:, 2:]], dim=1))


class Bags(nn.Module):
    """Bags of each kind: ids [B, 6] averaged, with a padding id; ids one after another, with offsets [B], summed."""

    def __init__(self) -> None:
        super().__init__()
        self.items = nn.EmbeddingBag(ROWS["item"], DIM, mode="mean", padding_idx=0)
        self.tags = nn.EmbeddingBag(ROWS["tag"], DIM, mode="sum")
        self.weighted = nn.EmbeddingBag(ROWS["user"], 2 * DIM, mode="sum", include_last_offset=True)
        self.head = nn.Linear(4 * DIM, 1)

    def forward(
        self,
        items: torch.Tensor,
        tags: torch.Tensor,
        offsets: torch.Tensor,
        friends: torch.Tensor,
        closeness: torch.Tensor,
        ends: torch.Tensor,
    ) -> torch.Tensor:
        bags = [self.items(items), self.tags(tags, offsets), self.weighted(friends, ends, closeness)]
        return torch.sigmoid(self.head(torch.cat(bags, dim=1)))


class Candidates(nn.Module):
    """One user [1], what they saw [1, T], and N candidates [N]: a score for each, and the user's vector [1, 16]."""

    def __init__(self) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(ROWS["user"], DIM), nn.Embedding(ROWS["item"], DIM)
        self.tower = nn.Linear(2 * DIM, DIM)

    def forward(
        self, user: torch.Tensor, seen: torch.Tensor, candidates: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        vector = self.tower(torch.cat([self.users(user), self.items(seen).mean(dim=1)], dim=1))
        return (self.items(candidates) @ vector.transpose(0, 1)).squeeze(1), vector


def one_matrix() -> Example:
    torch.manual_seed(30)

    def draw(numbers: np.random.Generator, batch: int) -> Query:
        columns = [numbers.integers(0, ROWS["user"], batch), numbers.integers(0, 10 * ROWS["item"], batch)]
        columns += [numbers.standard_normal(batch) for _ in range(3)]
        return {"features": np.stack(columns, axis=1).astype(np.float32)}

    return Example(settled(OneMatrix()), draw, ("score",), {})


def bags() -> Example:
    torch.manual_seed(31)

    def draw(numbers: np.random.Generator, batch: int) -> Query:
        items = numbers.integers(0, ROWS["item"], (batch, 6))
        items[:, 4:] *= numbers.integers(0, 2, (batch, 2))
        of_tags, of_friends = numbers.integers(0, 8, batch), numbers.integers(0, 8, batch)
        friends = int(of_friends.sum())
        return {
            "items": items,
            "tags": numbers.integers(0, ROWS["tag"], of_tags.sum()),
            "offsets": np.cumsum(of_tags) - of_tags,
            "friends": numbers.integers(0, ROWS["user"], friends),
            "closeness": numbers.random(friends, dtype=np.float32),
            "ends": np.concatenate([[0], np.cumsum(of_friends)]),
        }

    return Example(settled(Bags()), draw, ("score",), {})


def candidates() -> Example:
    torch.manual_seed(32)

    def draw(numbers: np.random.Generator, batch: int) -> Query:
        return {
            "user": numbers.integers(0, ROWS["user"], 1),
            "seen": numbers.integers(0, ROWS["item"], (1, 2 + batch % 30)),
            "candidates": numbers.integers(0, ROWS["item"], batch),
        }

    return Example(settled(Candidates()), draw, ("scores", "vector"), {"user": (), "seen": (1,)})
