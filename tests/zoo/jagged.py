"""TorchRec's models behind a module of tensors: a KeyedJaggedTensor is made inside, as its owners export it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import nn
from torchrec import EmbeddingBagCollection, EmbeddingBagConfig, KeyedJaggedTensor, PoolingType
from torchrec.models.dlrm import DLRM, DLRM_DCN, DLRM_Projection

from tests.zoo.example import Example, Query, settled

DENSE, DIM = 13, 16
ROWS = {"user": 30_000, "item": 50_000, "shop": 20_000, "day": 7}
MOST_IDS = 6


class Scorer(nn.Module):
    """A model of TorchRec's three: dense [B, F], the ids of all features (key by key), lengths [features, B].

    Lengths are a matrix: so the batch is an axis by itself, and a batch of one row is not refused by the program, as it
    is where lengths are one axis of features * B.
    """

    def __init__(self, model: DLRM, keys: Sequence[str]) -> None:
        super().__init__()
        self.model, self.keys = model, list(keys)

    def forward(self, dense: torch.Tensor, values: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        return self.model(dense, KeyedJaggedTensor(self.keys, values, lengths=lengths.reshape(-1)))


class Collected(nn.Module):
    """A collection of one's own, summed, averaged and weighted features, two of them on one table; a linear head."""

    def __init__(self) -> None:
        super().__init__()
        user = EmbeddingBagConfig(name="t_user", embedding_dim=12, num_embeddings=ROWS["user"], feature_names=["user"])
        item = EmbeddingBagConfig(
            name="t_item",
            embedding_dim=16,
            num_embeddings=ROWS["item"],
            feature_names=["item", "seen_items"],
            pooling=PoolingType.MEAN,
        )
        tag = EmbeddingBagConfig(name="t_tag", embedding_dim=16, num_embeddings=ROWS["shop"], feature_names=["tag"])
        self.plain = EmbeddingBagCollection(tables=[user, item])
        self.weighted = EmbeddingBagCollection(tables=[tag], is_weighted=True)
        self.head = nn.Linear(12 + 16 + 16 + 16, 2)

    def forward(
        self,
        values: torch.Tensor,
        lengths: torch.Tensor,
        tags: torch.Tensor,
        tag_lengths: torch.Tensor,
        tag_weights: torch.Tensor,
    ) -> torch.Tensor:
        plain = self.plain(KeyedJaggedTensor(["user", "item", "seen_items"], values, lengths=lengths.reshape(-1)))
        weighted = self.weighted(KeyedJaggedTensor(["tag"], tags, weights=tag_weights, lengths=tag_lengths))
        return self.head(torch.cat([plain.values(), weighted.values()], dim=1))


def bags(numbers: np.random.Generator, rows: Sequence[int], batch: int) -> tuple[np.ndarray, np.ndarray]:
    """values [n], key by key, and lengths [features, B]; some bags are empty."""
    lengths = numbers.integers(0, MOST_IDS + 1, (len(rows), batch))
    values = [numbers.integers(0, size, own.sum()) for size, own in zip(rows, lengths, strict=True)]
    return np.concatenate(values), lengths


def scorer(model: DLRM) -> Example:
    """Of all four tables one is so small that it stays in the dense graph."""

    def draw(numbers: np.random.Generator, batch: int) -> Query:
        dense = numbers.standard_normal((batch, DENSE)).astype(np.float32)
        values, lengths = bags(numbers, list(ROWS.values()), batch)
        return {"dense": dense, "values": values, "lengths": lengths}

    return Example(settled(Scorer(model, list(ROWS))), draw, ("logits",), {"lengths": (1,)})


def collection() -> EmbeddingBagCollection:
    """A table a feature, all of one dim, as these models want them."""
    return EmbeddingBagCollection(
        tables=[
            EmbeddingBagConfig(name=f"t_{key}", embedding_dim=DIM, num_embeddings=rows, feature_names=[key])
            for key, rows in ROWS.items()
        ]
    )


def dlrm() -> Example:
    torch.manual_seed(10)
    return scorer(DLRM(collection(), DENSE, [32, DIM], [32, 1]))


def dlrm_dcn() -> Example:
    torch.manual_seed(11)
    return scorer(DLRM_DCN(collection(), DENSE, [32, DIM], [32, 1], dcn_num_layers=2, dcn_low_rank_dim=8))


def dlrm_projection() -> Example:
    torch.manual_seed(12)
    return scorer(DLRM_Projection(collection(), DENSE, [32, DIM], [32, 1], [2 * DIM], [2 * DIM]))


def own_collection() -> Example:
    torch.manual_seed(13)

    def draw(numbers: np.random.Generator, batch: int) -> Query:
        values, lengths = bags(numbers, [ROWS["user"], ROWS["item"], ROWS["item"]], batch)
        tags, tag_lengths = bags(numbers, [ROWS["shop"]], batch)
        tag_lengths = tag_lengths[0]
        weights = numbers.random(len(tags)).astype(np.float32)
        return {
            "values": values, "lengths": lengths, "tags": tags, "tag_lengths": tag_lengths, "tag_weights": weights,
        }  # fmt: skip

    return Example(settled(Collected()), draw, ("scores",), {"lengths": (1,)})


class Flat(nn.Module):
    """A scorer called as TorchRec lays it out: lengths [features * B]. Its exported program refuses a single row."""

    def __init__(self, scorer: nn.Module) -> None:
        super().__init__()
        self.scorer = scorer

    def forward(self, dense: torch.Tensor, values: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        return self.scorer(dense, values, lengths)


def dlrm_flat() -> Example:
    matrix = dlrm()

    def draw(numbers: np.random.Generator, batch: int) -> Query:
        query = dict(matrix.draw(numbers, batch))
        return query | {"lengths": query["lengths"].reshape(-1)}

    return replace(matrix, module=Flat(matrix.module).eval(), draw=draw, varying={})
