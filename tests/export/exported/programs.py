"""Models in plain PyTorch that look rows up in every way that a door has to know, exported as their owners would."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.export import Dim
from torch.nn import functional

from repo_builder.export.torch_onnx import quiet

Query = dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Case:
    """A model, what makes a query of so many rows for it, and which axes vary (the first, where nothing is said)."""

    model: Callable[[], nn.Module]
    query: Callable[[int, np.random.Generator], Query]
    shapes: Mapping[str, Mapping[int, Any] | None] | None = None
    decompose: bool = False


def export(case: Case, path: Path, rows: int = 3) -> Path:
    """Save a case's program, exported with a query of some rows."""
    torch.manual_seed(0)
    query = case.query(rows, np.random.default_rng(0))
    example = tuple(torch.from_numpy(values) for values in query.values())
    shapes = case.shapes or {name: {0: Dim.AUTO} for name in query}
    save(case.model(), example, path, tuple(shapes.values()), decompose=case.decompose)
    return path


def save(
    model: nn.Module,
    example: tuple[Any, ...],
    path: Path,
    shapes: tuple[Any, ...] | None = None,
    *,
    decompose: bool = False,
) -> Path:
    """As a user saves a program."""
    with quiet():
        dynamic = tuple({0: Dim.AUTO} for _ in example) if shapes is None else shapes
        program = torch.export.export(model.eval(), example, dynamic_shapes=dynamic, strict=False)
        if decompose:
            program = program.run_decompositions()
        torch.export.save(program, path)
    return path


class DeepFm(nn.Module):
    """Vectors and linear weights by the same ids; two outputs by name; one table is read twice."""

    def __init__(self) -> None:
        super().__init__()
        self.vectors = nn.ModuleDict({"user": nn.Embedding(60, 8), "item": nn.Embedding(70, 8)})
        self.linear = nn.ModuleDict({"user": nn.Embedding(60, 1), "item": nn.Embedding(70, 1)})
        self.deep = nn.Sequential(nn.Linear(20, 12), nn.ReLU(), nn.BatchNorm1d(12), nn.Dropout(), nn.Linear(12, 1))

    def forward(self, dense: Tensor, user: Tensor, item: Tensor) -> dict[str, Tensor]:
        ids = {"user": user, "item": item}
        vectors = torch.stack([self.vectors[name](ids[name]) for name in ids], dim=1)
        pairs = 0.5 * (vectors.sum(1).square() - vectors.square().sum(1)).sum(1, keepdim=True)
        linear = sum(self.linear[name](ids[name]) for name in ids)
        deep = self.deep(torch.cat([dense, self.vectors["user"](user), self.vectors["item"](item)], 1))
        return {"score": torch.sigmoid(pairs + linear + deep), "vectors": vectors}


class Bags(nn.Module):
    """Bags of one size, of a size that varies, and ragged: sums and means, weighted, with ids for none."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = nn.EmbeddingBag(50, 4, mode="mean", padding_idx=0)
        self.weighted = nn.EmbeddingBag(40, 4, mode="sum")
        self.wide = nn.EmbeddingBag(30, 8, mode="sum", padding_idx=5)
        self.starts = nn.EmbeddingBag(20, 4, mode="mean")
        self.ends = nn.EmbeddingBag(25, 4, mode="sum", include_last_offset=True)

    def forward(
        self,
        fixed: Tensor,
        weights: Tensor,
        any_size: Tensor,
        ids: Tensor,
        starts: Tensor,
        ends: Tensor,
        ragged_weights: Tensor,
    ) -> Tensor:
        return torch.cat(
            [
                self.mean(fixed),
                self.weighted(fixed[:, 1:], per_sample_weights=weights),
                self.weighted(fixed, per_sample_weights=functional.softmax(torch.cat([weights, weights[:, :1]], 1), 1)),
                self.wide(any_size),
                self.starts(ids, starts),
                self.ends(ids, ends, per_sample_weights=ragged_weights),
            ],
            dim=1,
        ).tanh()


def bags_query(rows: int, rng: np.random.Generator) -> Query:
    counts = rng.integers(0, 4, rows)
    counts[0] += 2
    ends = np.concatenate([[0], counts.cumsum()])
    return {
        "fixed": rng.integers(0, 3, (rows, 5)),
        "weights": rng.random((rows, 4), np.float32),
        "any_size": rng.integers(4, 7, (rows, 3 + rows % 2)),
        "ids": rng.integers(0, 20, counts.sum()),
        "starts": ends[:-1].copy(),
        "ends": ends,
        "ragged_weights": rng.random(counts.sum(), np.float32),
    }


BAGS_SHAPES = {
    **{name: {0: Dim.AUTO} for name in ("fixed", "weights", "any_size", "ids", "starts", "ends", "ragged_weights")},
    "any_size": {0: Dim.AUTO, 1: Dim.AUTO},
}


class Computed(nn.Module):
    """Ids that are columns of a wider matrix, and ids that are worked out from numbers of every kind."""

    def __init__(self) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(90, 4), nn.Embedding(80, 6)
        self.all = nn.Embedding(100, 4)
        self.bins = nn.Embedding(12, 3)
        self.register_buffer("starts", torch.tensor([0, 40, 70]))
        self.register_buffer("edges", torch.linspace(-1, 1, 11))

    def forward(self, matrix: Tensor, numbers: Tensor, small: Tensor) -> tuple[Tensor, Tensor]:
        fields = matrix.to(torch.int64)
        vectors = [
            self.users(fields[:, 0]),
            self.items(matrix[:, 3].to(torch.int64).remainder(80)),
            self.all((fields[:, 4:7] % 30) + self.get_buffer("starts")).flatten(1),
            self.bins(torch.bucketize(numbers, self.get_buffer("edges"))).flatten(1),
            self.users(small.long()),
            self.bins(numbers.topk(1, dim=1).indices).flatten(1),
            functional.embedding_bag((fields[:, 1:3] * 7) % 80, self.items.weight, mode="mean"),
        ]
        return torch.cat(vectors, 1), numbers.sum(1, keepdim=True) + vectors[0].sum()


def computed_query(rows: int, rng: np.random.Generator) -> Query:
    return {
        "matrix": rng.integers(0, 90, (rows, 8)).astype(np.float32),
        "numbers": rng.normal(size=(rows, 2)).astype(np.float32),
        "small": rng.integers(0, 90, rows).astype(np.int16),
    }


class Fields(nn.Module):
    """Ids straight from one matrix of 32-bit ids: single columns, neighbours, bags, the last first."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.three = nn.Embedding(30, 4), nn.Embedding(30, 6)
        self.bag = nn.EmbeddingBag(30, 4, mode="sum")

    def forward(self, ids: Tensor, scale: Tensor) -> Tensor:
        first, rest = ids.split([2, 8], dim=1)
        vectors = [
            self.one(first[:, 1]),
            self.three(rest[:, 1:4].unsqueeze(1)).flatten(1),
            self.bag(rest.narrow(1, 4, 4)),
            torch.index_select(self.one.weight, 0, rest[:, 0].long()),
            self.three.weight[first[:, 0]],
            self.bag(ids.reshape(-1, 5)).reshape(ids.shape[0], 8),
            self.one(rest.reshape(-1, 2, 4)).mean(-2).flatten(1),
            self.three(rest[:, 2:5]).sum(dim=1, keepdim=True).squeeze(1),
        ]
        return torch.cat(vectors, 1) * scale


class SasRec(nn.Module):
    """A history through a transformer block, with a mask made of the ids; the candidate is of the same table."""

    def __init__(self) -> None:
        super().__init__()
        self.items, self.positions = nn.Embedding(60, 8, padding_idx=0), nn.Embedding(6, 8)
        self.block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.2)

    def forward(self, history: Tensor, candidate: Tensor) -> Tensor:
        hidden = self.items(history) + self.positions(torch.arange(history.shape[1]))
        hidden = self.block(hidden) * (history != 0).unsqueeze(-1)
        return (hidden[:, -1] * self.items(candidate)).sum(-1)


class Din(nn.Module):
    """Attention of a target over a history whose length varies, of two tables that both share; several tasks."""

    def __init__(self) -> None:
        super().__init__()
        self.items, self.shops = nn.Embedding(60, 4), nn.Embedding(50, 4)
        self.attention = nn.Linear(16, 1)
        self.tasks = nn.ModuleList(nn.Linear(16, 1) for _ in range(2))

    def forward(self, item: Tensor, shop: Tensor, items: Tensor, shops: Tensor) -> list[Tensor]:
        target = torch.cat([self.items(item), self.shops(shop)], -1)
        seen = torch.cat([self.items(items), self.shops(shops)], -1)
        weights = self.attention(torch.cat([seen, seen * target.unsqueeze(1)], -1)).masked_fill(
            (items == 0)[..., None], -9
        )
        user = (weights.softmax(1) * seen).sum(1)
        return [torch.sigmoid(task(torch.cat([user, target], 1))).squeeze(1) for task in self.tasks]


class Candidates(nn.Module):
    """One user beside many candidates, and a scalar; the user's history has a length of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(40, 6), nn.Embedding(50, 6)

    def forward(self, user: Tensor, history: Tensor, candidates: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        vector = self.users(user) + self.items(history).mean(1)
        return (self.items(candidates) * vector).sum(1) * scale, vector


class Keyed(nn.Module):
    """A KeyedJaggedTensor as TorchRec takes it apart: ids of all features in one tensor, told apart by lengths."""

    def __init__(self, features: int = 3, *, weighted: bool = True) -> None:
        super().__init__()
        self.features, self.weighted = features, weighted
        self.tables = nn.ModuleList(
            nn.EmbeddingBag(30, 4, mode=mode, include_last_offset=True) for mode in ("sum", "mean")
        )
        self.top = nn.Linear(12, 1)

    def forward(self, values: Tensor, lengths: Tensor, weights: Tensor | None = None) -> Tensor:
        by_feature = lengths.view(self.features, -1)
        totals = by_feature.sum(1).tolist()
        for total in totals:
            torch._check(total >= 0)
        ids = values.split(totals)
        ends = torch.cat([torch.zeros(self.features, 1, dtype=torch.int64), by_feature.cumsum(1)], 1)
        shares = weights.split(totals) if weights is not None else [None] * self.features
        bags = [
            self.tables[0](ids[0], ends[0], per_sample_weights=shares[0]),
            self.tables[1](ids[1], ends[1]),
            self.tables[0](ids[2], ends[2], per_sample_weights=shares[2]),
        ]
        return self.top(torch.cat(bags, 1))


def keyed_query(rows: int, rng: np.random.Generator) -> Query:
    lengths = rng.integers(0, 4, 3 * rows)
    lengths[:: max(rows, 1)] += 1
    total = int(lengths.sum())
    return {"values": rng.integers(0, 30, total), "lengths": lengths, "weights": rng.random(total, np.float32)}


class Halves(nn.Module):
    """Tables of other dtypes, of which the vectors go on in theirs."""

    def __init__(self) -> None:
        super().__init__()
        self.fp16, self.bf16 = nn.Embedding(30, 4, dtype=torch.float16), nn.Embedding(30, 4, dtype=torch.bfloat16)
        self.fp64 = nn.Embedding(30, 4, dtype=torch.float64)

    def forward(self, ids: Tensor) -> Tensor:
        low = self.fp16(ids).float() + self.bf16(ids).float() * 2
        return low.double() + self.fp64(ids).float().double()


class Bfloat16(nn.Module):
    """A model in bfloat16 that takes and gives float32: look-ups, weighted bags, a mean, a constant, and ids of it."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.rounded = nn.Embedding(60, 8), nn.Embedding(40, 4)
        self.bag, self.mean = nn.EmbeddingBag(50, 8, mode="sum"), nn.EmbeddingBag(50, 8, mode="mean")
        self.hidden, self.score = nn.Linear(8 * 3 + 4 + 4, 16), nn.Linear(16, 1)
        self.to(torch.bfloat16)

    def forward(self, ids: Tensor, seen: Tensor, numbers: Tensor) -> Tensor:
        narrow = numbers.to(torch.bfloat16)
        weighted = self.bag(seen, per_sample_weights=torch.ones_like(seen, dtype=torch.bfloat16) * 0.5)
        vectors = [self.table(ids), weighted, self.mean(seen), self.rounded((narrow[:, 0] * 39).long()), narrow]
        joined = torch.cat(vectors, 1) * torch.tensor(0.75, dtype=torch.bfloat16)
        return torch.sigmoid(self.score(torch.relu(self.hidden(joined)))).float()


class Branches(nn.Module):
    """One of two heads, as a query's values say; rows are looked up before, and a part of a table in a branch."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.warm, self.cold = nn.Embedding(60, 8), nn.Linear(12, 4), nn.Linear(12, 4)
        self.inner = nn.Embedding(30, 4)
        self.requires_grad_(False)  # torch's exporter warns of gradients at a branch

    def forward(self, ids: Tensor, numbers: Tensor) -> Tensor:
        joined = torch.cat([self.table(ids), numbers], 1)
        return torch.cond(
            numbers.sum() > 0,
            lambda vectors, ids: torch.sigmoid(self.warm(vectors)) + self.inner(ids % 30),
            lambda vectors, ids: torch.relu(self.cold(vectors)) * 3,
            (joined, ids),
        )


class InPlace(nn.Module):
    """Operators that write into what they are given: ids, vectors and a sum."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.bag = nn.Embedding(30, 4), nn.EmbeddingBag(30, 4)

    def forward(self, ids: Tensor) -> Tensor:
        moved = ids.clone()
        moved[:, 0] = 7
        moved.add_(1)
        total = torch.zeros(ids.shape[0], 4)
        vectors = self.table(moved)
        vectors[:, 1].mul_(3)
        total += vectors.sum(1)
        total += self.bag(ids)
        return total.relu_()


class Kept(nn.Module):
    """Look-ups that cannot be cut off, each for a reason of its own, beside one that can."""

    def __init__(self) -> None:
        super().__init__()
        self.cut, self.tied, self.small = nn.Embedding(50, 8), nn.Embedding(40, 8), nn.Embedding(2, 8)
        self.largest, self.chosen = nn.EmbeddingBag(40, 8, mode="max"), nn.Embedding(40, 8)

    def forward(self, ids: Tensor) -> Tensor:
        vectors = self.cut(ids[:, 0]) + self.tied(ids[:, 1]) + self.small(ids[:, 2] % 2) + self.largest(ids)
        best = (vectors @ self.tied.weight.T).argmax(1)
        return vectors + self.chosen(best)


class Picked(nn.Module):
    """Which of a row's ids count is another input's to say."""

    def __init__(self) -> None:
        super().__init__()
        self.vectors = nn.Embedding(60, 4)
        self.bags = nn.EmbeddingBag(50, 4, mode="sum")
        self.score = nn.Linear(4, 1)

    def forward(self, history: Tensor, place: Tensor) -> Tensor:
        one = self.vectors(history[:, place])
        some = self.bags(history[:, place + torch.arange(2)] % 50)
        return self.score(one + some)


class Longest(nn.Module):
    """All of a row's ids, and the first of it, of histories that may be no longer than the example's."""

    def __init__(self) -> None:
        super().__init__()
        self.bags = nn.EmbeddingBag(60, 4, mode="mean")
        self.vectors = nn.Embedding(60, 4)
        self.score = nn.Linear(4, 1)

    def forward(self, history: Tensor) -> Tensor:
        return self.score(self.bags(history) + self.vectors(history[:, 0]))


def integers(rng: np.random.Generator, high: int, *shape: int) -> NDArray[np.int64]:
    return rng.integers(0, high, shape)


CASES = {
    "deepfm": Case(
        DeepFm,
        lambda rows, rng: {
            "dense": rng.random((rows, 4), np.float32),
            "user": integers(rng, 60, rows),
            "item": integers(rng, 70, rows),
        },
    ),
    "bags": Case(Bags, bags_query, BAGS_SHAPES),
    "bags_decomposed": Case(Bags, bags_query, BAGS_SHAPES, decompose=True),
    "computed": Case(Computed, computed_query),
    "fields": Case(
        Fields,
        lambda rows, rng: {
            "ids": integers(rng, 30, rows, 10).astype(np.int32),
            "scale": np.asarray(rng.random(), np.float32),
        },
        {"ids": {0: Dim.AUTO}, "scale": None},
    ),
    "sasrec": Case(
        SasRec, lambda rows, rng: {"history": integers(rng, 60, rows, 6), "candidate": integers(rng, 60, rows)}
    ),
    "din": Case(
        Din,
        lambda rows, rng: {
            "item": integers(rng, 60, rows),
            "shop": integers(rng, 50, rows),
            "items": integers(rng, 60, rows, 4 + rows % 3),
            "shops": integers(rng, 50, rows, 4 + rows % 3),
        },
        {"item": {0: Dim.AUTO}, "shop": {0: Dim.AUTO}}
        | {name: {0: Dim.AUTO, 1: Dim.AUTO} for name in ("items", "shops")},
    ),
    "candidates": Case(
        Candidates,
        lambda rows, rng: {
            "user": integers(rng, 40, 1),
            "history": integers(rng, 50, 1, rows + 2),
            "candidates": integers(rng, 50, rows),
            "scale": np.asarray(rng.random(), np.float32),
        },
        {"user": None, "history": {1: Dim.AUTO}, "candidates": {0: Dim.AUTO}, "scale": None},
    ),
    "keyed": Case(Keyed, keyed_query),
    "halves": Case(Halves, lambda rows, rng: {"ids": integers(rng, 30, rows)}),
    "bfloat16": Case(
        Bfloat16,
        lambda rows, rng: {
            "ids": integers(rng, 60, rows),
            "seen": integers(rng, 50, rows, 3),
            "numbers": rng.random((rows, 4), np.float32),
        },
    ),
    "branches": Case(
        Branches,
        lambda rows, rng: {
            "ids": integers(rng, 60, rows),
            "numbers": (rng.standard_normal((rows, 4)) + (1 if rows % 2 else -1)).astype(np.float32),
        },
    ),
    "in_place": Case(InPlace, lambda rows, rng: {"ids": integers(rng, 28, rows, 3)}),
    "kept": Case(Kept, lambda rows, rng: {"ids": integers(rng, 40, rows, 3)}),
    "picked": Case(
        Picked,
        lambda rows, rng: {"history": integers(rng, 60, rows, 9), "place": np.asarray(0 if rows == 3 else rows)},
        {"history": {0: Dim.AUTO}, "place": None},
    ),
    "longest": Case(
        Longest,
        lambda rows, rng: {"history": integers(rng, 60, rows, 8 if rows == 3 else 4)},
        {"history": {0: Dim("rows", max=64), 1: Dim("length", max=8)}},
    ),
}
