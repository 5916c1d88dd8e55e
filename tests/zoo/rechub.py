"""Models of torch-rechub, with its own features and its own way of calling them: one dict of tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch_rechub.basic.features import DenseFeature, SequenceFeature, SparseFeature
from torch_rechub.models.matching import DSSM
from torch_rechub.models.multi_task import MMOE
from torch_rechub.models.ranking import BST, DCN, DIN, AutoInt, DCNv2, DeepFM, WideDeep

from tests.zoo.example import Example, Query, settled

DIM = 16
HISTORY = 20
MLP = {"dims": [64, 32], "dropout": 0.2, "activation": "relu"}
PRICE, AGE = DenseFeature("price"), DenseFeature("age")
ROWS = {"user": 30_000, "item": 50_000, "shop": 20_000, "city": 40}


def sparse(*names: str, padding: int | None = None) -> list[SparseFeature]:
    """A feature of one id each, with a table of its own."""
    return [SparseFeature(name, ROWS[name], embed_dim=DIM, padding_idx=padding) for name in names]


def history(name: str, of: str, pooling: str = "concat", padding: int | None = None) -> SequenceFeature:
    """A feature of HISTORY ids that reads the table of another."""
    return SequenceFeature(name, ROWS[of], embed_dim=DIM, pooling=pooling, shared_with=of, padding_idx=padding)


NO_HISTORY: Mapping[str, str] = {}


def example(
    module: torch.nn.Module, ids: Sequence[str], dense: Sequence[str] = (), histories: Mapping[str, str] = NO_HISTORY
) -> Example:
    """histories: feature -> whose table it reads; they are padded at their ends with id 0."""

    def draw(numbers: np.random.Generator, batch: int) -> Query:
        query = {name: numbers.integers(0, ROWS[name], batch) for name in ids}
        query |= {name: numbers.standard_normal(batch).astype(np.float32) for name in dense}
        for name, of in histories.items():
            query[name] = numbers.integers(1, ROWS[of], (batch, HISTORY))
            filled = numbers.integers(1, HISTORY + 1, (batch, 1))
            query[name][np.arange(HISTORY) >= filled] = 0
        return query

    return Example(settled(module), draw, ("score",), {}, as_dict=True)


def wide_deep() -> Example:
    torch.manual_seed(0)
    wide = sparse("user", "item", "shop", "city")
    return example(WideDeep(wide, [*wide, PRICE, AGE], MLP), ["user", "item", "shop", "city"], ["price", "age"])


def deepfm() -> Example:
    torch.manual_seed(1)
    deep = [PRICE, AGE, *sparse("user", "item", "shop", "city")]
    return example(DeepFM(deep, deep[2:], MLP), ["user", "item", "shop", "city"], ["price", "age"])


def dcn() -> Example:
    torch.manual_seed(2)
    module = DCN([PRICE, *sparse("user", "item", "shop", "city")], n_cross_layers=3, mlp_params=MLP)
    return example(module, ["user", "item", "shop", "city"], ["price"])


def dcn_v2() -> Example:
    """With full-rank crosses: the library's mixture of low-rank ones squeezes a batch of one row away."""
    torch.manual_seed(3)
    features = [PRICE, AGE, *sparse("user", "item", "shop", "city")]
    module = DCNv2(features, n_cross_layers=3, mlp_params=MLP, use_low_rank_mixture=False)
    return example(module, ["user", "item", "shop", "city"], ["price", "age"])


def autoint() -> Example:
    torch.manual_seed(4)
    module = AutoInt(sparse("user", "item", "shop", "city"), [PRICE, AGE], num_layers=2, mlp_params=MLP)
    return example(module, ["user", "item", "shop", "city"], ["price", "age"])


def din() -> Example:
    torch.manual_seed(5)
    module = DIN(
        features=sparse("user", "city"),
        history_features=[history("seen_items", "item"), history("seen_shops", "shop")],
        target_features=sparse("item", "shop"),
        mlp_params={"dims": [64, 32]},
        attention_mlp_params={"dims": [32]},
    )
    return example(module, ["user", "city", "item", "shop"], histories={"seen_items": "item", "seen_shops": "shop"})


def bst() -> Example:
    torch.manual_seed(6)
    module = BST(
        features=sparse("user", "city"),
        history_features=[history("seen_items", "item", padding=0)],
        target_features=sparse("item", padding=0),
        mlp_params=MLP,
        nhead=4,
        max_seq_len=HISTORY + 1,
    )
    return example(module, ["user", "city", "item"], histories={"seen_items": "item"})


def mmoe() -> Example:
    """Two tasks; the history is pooled by a product with its mask."""
    torch.manual_seed(7)
    tower = {"dims": [16]}
    module = MMOE(
        [PRICE, *sparse("user", "item", "city"), history("seen_items", "item", "mean", padding=0)],
        task_types=["classification", "regression"],
        n_expert=3,
        expert_params={"dims": [32]},
        tower_params_list=[tower, tower],
    )
    return example(module, ["user", "item", "city"], ["price"], {"seen_items": "item"})


def two_tower() -> Example:
    torch.manual_seed(8)
    tower = {"dims": [64, 32]}
    user = [*sparse("user", "city"), history("seen_items", "item", "mean", padding=0)]
    module = DSSM(user, sparse("item", "shop"), tower, tower)
    return example(module, ["user", "city", "item", "shop"], histories={"seen_items": "item"})
