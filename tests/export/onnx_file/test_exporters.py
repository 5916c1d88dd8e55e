"""Files as torch's two exporters write them."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from repo_builder.errors import ModelFileError
from repo_builder.export.onnx_file import open_onnx
from repo_builder.model.types import BATCH, Columns, Ragged
from tests.export.onnx_file.cutting import prove


class Ranker(nn.Module):
    """Three fields of a matrix, a history pooled over what is no padding, a user's tags, and dense numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.fields = nn.ModuleList(nn.Embedding(rows, 8) for rows in (300, 400, 5))
        self.items = nn.Embedding(500, 8, padding_idx=0)
        self.tags = nn.Embedding(200, 4)
        self.head = nn.Linear(3 * 8 + 8 + 3 * 4 + 4, 2)

    def forward(
        self, dense: torch.Tensor, sparse: torch.Tensor, history: torch.Tensor, tags: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        fields = [field(sparse[:, i]) for i, field in enumerate(self.fields)]  # (B, 8)
        mask = (history != 0).float()  # (B, L)
        seen = (self.items(history) * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)  # (B, 8)
        x = torch.cat([*fields, seen, self.tags(tags).flatten(1), dense], dim=1)
        return torch.sigmoid(self.head(x)), seen


def query(rows: int, length: int) -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(rows)
    return {
        "dense": rng.random((rows, 4), np.float32),
        "sparse": np.stack([rng.integers(0, high, rows) for high in (300, 400, 5)], axis=1),
        "history": rng.integers(0, 500, (rows, length)),
        "tags": rng.integers(0, 200, (rows, 3)),
    }


@contextmanager
def quiet() -> Iterator[None]:
    """torch's exporters warn of what they do themselves."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def export(module: nn.Module, inputs: Mapping[str, NDArray[Any]], path: Path, kind: str, dynamic: Any) -> None:
    """kind: `dynamo` or `torchscript`. dynamic: the axes that vary, {name: {axis: symbol}}."""
    args = tuple(torch.from_numpy(array) for array in inputs.values())
    outputs = ["score", "seen"][: 2 if isinstance(module, Ranker) else 1]
    with quiet():
        if kind == "torchscript":
            torch.onnx.export(
                module.eval(), args, str(path), dynamo=False, input_names=list(inputs), output_names=outputs,
                dynamic_axes=dynamic,
            )  # fmt: skip
            return
        dims = {name: torch.export.Dim(name) for axes in dynamic.values() for name in axes.values()}
        shapes = tuple({axis: dims[name] for axis, name in dynamic.get(each, {}).items()} for each in inputs)
        torch.onnx.export(
            module.eval(), args, str(path), dynamo=True, input_names=list(inputs), output_names=outputs,
            dynamic_shapes=shapes, verbose=False,
        )  # fmt: skip


@pytest.mark.parametrize("kind", ["dynamo", "torchscript"])
def test_a_ranker(kind: str, tmp_path: Path) -> None:
    path, rows = tmp_path / "model.onnx", {0: "rows"}
    torch.manual_seed(0)
    module = Ranker()
    dynamic = {"dense": rows, "sparse": rows, "history": {**rows, 1: "length"}, "tags": rows}
    export(module, query(3, 7), path, kind, dynamic)
    source = open_onnx(path, "toy", None, 1000, {})
    model = source.model
    found = {lookup.name: lookup for lookup in model.lookups}
    assert {name: (each.ids.layout, each.mode, each.count) for name, each in found.items()} == {
        "fields.0.weight": (Columns(0, 1, 3), "none", 1),
        "fields.1.weight": (Columns(1, 1, 3), "none", 1),
        "items.weight": (Columns(0, 0, None), "sum", 1),
        "tags.weight": (Columns(0, 1, 3), "none", 3),
    }
    assert found["items.weight"].ids.weights is None
    assert found["items.weight"].ids.padding == 0
    assert [kept.name for kept in model.kept] == ["fields.2.weight"]
    assert [group.rows for group in model.groups] == [BATCH]
    assert model.dense.batched
    assert model.dense.flops_per_row == 2 * 2 * (3 * 8 + 8 + 3 * 4 + 4)
    prove(source, path, [query(1, 1), query(2, 9), query(33, 4)], tmp_path)
    arrays = query(5, 6)
    expected = module(*(torch.from_numpy(array) for array in arrays.values()))
    for got, want in zip(source.answers(arrays).values(), expected, strict=True):
        np.testing.assert_allclose(got, want.detach().numpy(), rtol=1e-5, atol=1e-5)


class Bags(nn.Module):
    """EmbeddingBags: of as many ids each, from offsets, up to ends with a weight an id, and with a padding."""

    def __init__(self) -> None:
        super().__init__()
        self.fixed = nn.EmbeddingBag(300, 8, mode="sum")
        self.padded = nn.EmbeddingBag(200, 8, mode="mean", padding_idx=3)
        self.ragged = nn.EmbeddingBag(100, 4, mode="mean")
        self.weighted = nn.EmbeddingBag(50, 4, mode="sum", include_last_offset=True)
        self.head = nn.Linear(24, 1)

    def forward(
        self,
        fixed: torch.Tensor,
        padded: torch.Tensor,
        ids: torch.Tensor,
        offsets: torch.Tensor,
        friends: torch.Tensor,
        ends: torch.Tensor,
        closeness: torch.Tensor,
    ) -> torch.Tensor:
        bags = [self.fixed(fixed), self.padded(padded), self.ragged(ids, offsets)]
        x = torch.cat([*bags, self.weighted(friends, ends, per_sample_weights=closeness)], dim=1)
        return torch.sigmoid(self.head(x))


def bags_query(rows: int, seed: int = 0) -> dict[str, NDArray[Any]]:
    """Some bags hold nothing, some nothing but padding."""
    rng = np.random.default_rng(seed)
    sizes, friends = rng.integers(0, 4, rows), rng.integers(0, 4, rows)
    padded = rng.integers(0, 200, (rows, 3))
    padded[rng.random(padded.shape) < 0.5] = 3
    padded[0] = 3
    return {
        "fixed": rng.integers(0, 300, (rows, 5)),
        "padded": padded,
        "ids": rng.integers(0, 100, sizes.sum()),
        "offsets": np.cumsum([0, *sizes[:-1]]),
        "friends": rng.integers(0, 50, friends.sum()),
        "ends": np.cumsum([0, *friends]),
        "closeness": rng.random(friends.sum(), np.float32),
    }


@pytest.mark.slow
def test_loops_that_are_bags(tmp_path: Path) -> None:
    """torch writes EmbeddingBag as a loop over bags; look-ups are sums and means again, and no loop is left."""
    path = tmp_path / "model.onnx"
    torch.manual_seed(0)
    inputs, auto = bags_query(5), torch.export.Dim.AUTO
    with quiet():
        torch.onnx.export(
            Bags().eval(), tuple(torch.from_numpy(array) for array in inputs.values()), str(path), dynamo=True,
            input_names=list(inputs), output_names=["score"], dynamic_shapes=({0: auto},) * 7, verbose=False,
        )  # fmt: skip
    source = open_onnx(path, "toy", None, 0, {})
    model = source.model
    assert {lookup.name: (lookup.ids.layout, lookup.mode) for lookup in model.lookups} == {
        "fixed.weight": (Columns(0, 5, 5), "sum"),
        "padded.weight": (Columns(0, 3, 3), "mean"),
        "ragged.weight": (Ragged("offsets", "offsets"), "mean"),
        "weighted.weight": (Ragged("ends", "ends"), "sum"),
    }
    ids = {lookup.name: lookup.ids for lookup in model.lookups}
    assert [each.padding for each in ids.values()] == [None, 3, None, None]
    assert ids["weighted.weight"].weights == "closeness"
    assert [group.rows for group in model.groups] == [BATCH]
    assert model.ids_graph is None
    assert model.dense.inputs == ()
    assert model.dense.batched
    assert not source.notes
    prove(source, path, [bags_query(rows, rows) for rows in (1, 4, 9)], tmp_path)
    operators = {node.op_type for node in onnx.load(tmp_path / "shards_1" / "dense" / "model.onnx").graph.node}
    assert "Loop" not in operators


class Split(nn.Module):
    """Several features' ids in one tensor, split by the sum of their lengths, as TorchRec's collections have them."""

    def __init__(self) -> None:
        super().__init__()
        self.bags = nn.ModuleList(nn.EmbeddingBag(100 + i, 4, mode="sum", include_last_offset=True) for i in range(2))
        self.head = nn.Linear(8, 1)

    def forward(self, values: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        totals = lengths.sum(1).tolist()
        for total in totals:
            torch._check(total >= 0)  # type: ignore[no-untyped-call]  # torch has no types for it
        ends = torch.cat([lengths.new_zeros(2, 1), lengths.cumsum(1)], dim=1)  # (2, B + 1)
        parts = zip(self.bags, torch.split(values, totals), ends, strict=True)
        return torch.sigmoid(self.head(torch.cat([bag(part, end) for bag, part, end in parts], dim=1)))


def split_query(rows: int) -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(rows)
    lengths = rng.integers(0, 4, (2, rows))
    return {"values": rng.integers(0, 100, lengths.sum()), "lengths": lengths}


class OldBags(nn.Module):
    """What the older exporter can write of EmbeddingBags."""

    def __init__(self) -> None:
        super().__init__()
        self.fixed = nn.EmbeddingBag(300, 8, mode="sum")
        self.ragged = nn.EmbeddingBag(100, 4, mode="mean")
        self.head = nn.Linear(12, 1)

    def forward(self, fixed: torch.Tensor, ids: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(self.head(torch.cat([self.fixed(fixed), self.ragged(ids, offsets)], dim=1)))


def old_bags_query(rows: int) -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(rows)
    sizes = rng.integers(0, 4, rows)
    fixed, ids = rng.integers(0, 300, (rows, 5)), rng.integers(0, 100, sizes.sum())
    return {"fixed": fixed, "ids": ids, "offsets": np.cumsum([0, *sizes[:-1]])}


def test_look_ups_in_loops(tmp_path: Path) -> None:
    """The older exporter looks up a bag at a time in a loop, as DLRM's own script writes it."""
    path, rows = tmp_path / "model.onnx", {0: "batch"}
    dynamic = {"fixed": rows, "ids": {0: "ids"}, "offsets": rows}
    torch.manual_seed(0)
    export(OldBags(), old_bags_query(3), path, "torchscript", dynamic)
    source = open_onnx(path, "toy", None, 0, {})
    assert {lookup.name: (lookup.ids.layout, lookup.mode) for lookup in source.model.lookups} == {
        "fixed.weight": (Columns(0, 5, 5), "sum"),
        "ragged.weight": (Ragged("offsets", "offsets"), "mean"),
    }
    assert source.model.dense.batched
    prove(source, path, [old_bags_query(rows) for rows in (1, 4, 9)], tmp_path)


@pytest.mark.slow
def test_bags_of_several_features_in_one_tensor(tmp_path: Path) -> None:
    """Ids and ends come from an ids graph; what is drawn is no query of such a model, so samples are asked for."""
    path, inputs, auto = tmp_path / "model.onnx", split_query(5), torch.export.Dim.AUTO
    torch.manual_seed(0)
    with quiet():
        torch.onnx.export(
            Split().eval(), tuple(torch.from_numpy(array) for array in inputs.values()), str(path), dynamo=True,
            input_names=list(inputs), output_names=["score"], dynamic_shapes=({0: auto}, {1: auto}), verbose=False,
        )  # fmt: skip
    with pytest.raises(ModelFileError, match="give recorded ones: samples"):
        open_onnx(path, "toy", None, 0, {})
    np.savez(tmp_path / "samples.npz", **inputs)
    source = open_onnx(path, "toy", tmp_path / "samples.npz", 0, {})
    model = source.model
    assert [(lookup.mode, type(lookup.ids.layout)) for lookup in model.lookups] == [("sum", Ragged)] * 2
    assert [group.rows for group in model.groups] == [BATCH]
    assert model.ids_graph is not None
    assert len(model.ids_graph.outputs) == 4
    assert model.dense.batched
    prove(source, path, [split_query(rows) for rows in (2, 7)], tmp_path)
