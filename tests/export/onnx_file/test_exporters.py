"""Files as torch's two exporters write them."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from repo_builder.export.onnx_file import open_onnx
from repo_builder.model.types import BATCH, Columns
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
        "items.weight": (Columns(0, -1, None), "sum", 1),
        "tags.weight": (Columns(0, 1, 3), "none", 3),
    }
    assert found["items.weight"].ids.weights is not None
    assert [kept.name for kept in model.kept] == ["fields.2.weight"]
    assert [group.rows for group in model.groups] == [BATCH]
    assert model.dense.batched
    assert model.dense.flops_per_row == 2 * 2 * (3 * 8 + 8 + 3 * 4 + 4)
    prove(source, path, [query(1, 1), query(2, 9), query(33, 4)], tmp_path)
    arrays = query(5, 6)
    expected = module(*(torch.from_numpy(array) for array in arrays.values()))
    for got, want in zip(source.answers(arrays).values(), expected, strict=True):
        np.testing.assert_allclose(got, want.detach().numpy(), rtol=1e-5, atol=1e-5)
