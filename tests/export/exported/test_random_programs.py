"""Programs put together at random, of look-ups, id arithmetic and dense work: whole against cut."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

from repo_builder.export.exported import open_exported
from tests.export.exported.oracle import Cut, assert_same
from tests.export.exported.programs import Case, Query, export

FEATURES = 6
WIDTH = 12


class Feature(nn.Module):
    """One look-up of a random kind, in one of some tables, with ids from one of the inputs; gives (rows, some)."""

    def __init__(self, rng: np.random.Generator, tables: list[nn.Module]) -> None:
        super().__init__()
        self.tables = tables  # a plain list: they are the program's, which others read too
        self.table = int(rng.integers(len(tables)))
        self.begin, self.size = int(rng.integers(0, 6)), int(rng.integers(1, 5))
        self.kind = str(rng.choice(["rows", "sum", "bag", "weighted", "ragged"]))
        self.mode = str(rng.choice(["sum", "mean"]))
        self.work = str(rng.choice(["none", "none", "modulo", "cast", "offset"]))
        self.factor = int(rng.integers(2, 9))

    def forward(self, matrix: Tensor, numbers: Tensor, values: Tensor, starts: Tensor) -> Tensor:
        weight = self.tables[self.table].weight
        ids = values if self.kind == "ragged" else matrix[:, self.begin : self.begin + self.size]
        if self.work == "cast" and self.kind != "ragged":
            ids = (numbers[:, self.begin : self.begin + self.size].abs() * 9).long()
        elif self.work == "modulo":
            ids = (ids * self.factor) % 20
        elif self.work == "offset":
            ids = torch.where(ids > 10, ids - self.factor, ids + 1)
        if self.kind == "ragged":
            return nn.functional.embedding_bag(ids, weight, starts, mode=self.mode)
        if self.kind == "bag":
            return nn.functional.embedding_bag(ids, weight, mode=self.mode, padding_idx=3)
        if self.kind == "weighted":
            shares = numbers[:, self.begin : self.begin + self.size]
            return nn.functional.embedding_bag(ids, weight, mode="sum", per_sample_weights=shares)
        rows = nn.functional.embedding(ids, weight)
        return rows.sum(1) if self.kind == "sum" else rows.flatten(1)


class Random(nn.Module):
    """Features side by side, mixed by a layer or a product, to one output or several."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        rng = np.random.default_rng(seed)
        self.tables = nn.ModuleList(nn.Embedding(24, int(rng.choice([1, 4, 6]))) for _ in range(3))
        self.features = nn.ModuleList(Feature(rng, list(self.tables)) for _ in range(FEATURES))
        self.layer, self.top = nn.LazyLinear(8), nn.Linear(8, 1)
        self.with_numbers, self.outputs = bool(rng.integers(2)), int(rng.integers(1, 4))

    def forward(self, matrix: Tensor, numbers: Tensor, values: Tensor, starts: Tensor) -> tuple[Tensor, ...]:
        parts = [feature(matrix, numbers, values, starts) for feature in self.features]
        hidden = torch.relu(self.layer(torch.cat([*parts, numbers] if self.with_numbers else parts, 1)))
        return (torch.sigmoid(self.top(hidden)), hidden * hidden.roll(1, 1), parts[0].amax(1))[: self.outputs]


def query(rows: int, rng: np.random.Generator) -> Query:
    counts = rng.integers(0, 4, rows)
    counts[-1] += 2
    return {
        "matrix": rng.integers(0, 20, (rows, WIDTH)),
        "numbers": rng.random((rows, WIDTH), np.float32),
        "values": rng.integers(0, 20, counts.sum()),
        "starts": np.concatenate([[0], counts.cumsum()[:-1]]),
    }


def model(seed: int) -> nn.Module:
    made = Random(seed)
    made(*(torch.from_numpy(values) for values in query(2, np.random.default_rng(0)).values()))
    return made


@pytest.mark.parametrize("seed", range(3))
def test_random_programs(seed: int, tmp_path: Path) -> None:
    shapes = {name: {0: Dim.AUTO} for name in ("matrix", "numbers", "values", "starts")}
    path = export(Case(lambda: model(seed), query, shapes), tmp_path / "model.pt2")
    source = open_exported(path, "random", None, 0, {})
    cut = Cut(source, tmp_path)
    for rows in (1, 4, 9):
        asked = query(rows, np.random.default_rng(rows))
        assert_same(source.answers(asked), cut.answers(asked))
