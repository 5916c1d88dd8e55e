"""Programs that look up rows of bytes by PyTorch's own operator: the rows are taken as they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import elasticrec
from repo_builder.errors import CheckpointError, ModelFileError
from repo_builder.export.exported import open_exported
from repo_builder.model.types import RowFormat
from repo_builder.repository.manifest import load_manifest
from tests.export.exported.programs import save

quantized = torch.ops.quantized


class Bytes(nn.Module):
    """Two features of rows of bytes, bags by offsets and weights and by columns, beside a table of numbers."""

    def __init__(self, last: bool = False) -> None:
        super().__init__()
        self.register_buffer("ragged", quantized.embedding_bag_byte_prepack(torch.randn(400, 16)))
        self.register_buffer("columns", quantized.embedding_bag_byte_prepack(torch.randn(300, 7)))
        self.plain = nn.Embedding(200, 4)
        self.top = nn.Linear(27, 1)
        self.last = last

    def forward(
        self, ids: torch.Tensor, bounds: torch.Tensor, weights: torch.Tensor, items: torch.Tensor, user: torch.Tensor
    ) -> torch.Tensor:
        read = quantized.embedding_bag_byte_rowwise_offsets
        one = read(self.ragged, ids, bounds, False, 0, False, weights, None, self.last)
        other = read(self.columns, items.reshape(-1), torch.arange(0, items.numel(), items.shape[1]))
        return torch.sigmoid(self.top(torch.cat([one, other, self.plain(user)], 1)))


def query(rows: int, last: bool) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(rows)
    bounds = np.concatenate([[0], np.sort(rng.integers(0, 3 * rows, rows - 1)), [3 * rows]])
    return {
        "ids": rng.integers(0, 400, 3 * rows),
        "bounds": bounds if last else bounds[:-1],
        "weights": rng.random(3 * rows, np.float32),
        "items": rng.integers(0, 300, (rows, 5)),
        "user": rng.integers(0, 200, rows),
    }


def saved(folder: Path, last: bool = False) -> Bytes:
    torch.manual_seed(0)
    model = Bytes(last)
    save(model, tuple(map(torch.from_numpy, query(5, last).values())), folder / "m.pt2")
    return model


SPEC = """\
name: m
model: {source: exported, path: m.pt2}
keep_under_bytes: 1000000
tables: [{name: plain, keep: shard}]
access: {source: powerlaw, locality: 0.9}
serving: {target_qps: 100, batch: 8}
"""


@pytest.mark.parametrize(("layout", "last"), [("single", False), ("fleet", True)])
def test_what_is_built_is_proven_with_rows_as_they_came(layout: str, last: bool, tmp_path: Path) -> None:
    """However small: ONNX has no such look-up, so they never stay dense."""
    model = saved(tmp_path, last)
    (tmp_path / "m.yaml").write_text(SPEC)
    spec = elasticrec.load_spec(tmp_path / "m.yaml")
    assert {table.name: table.format for table in spec.model.tables} == {
        "ragged": RowFormat(16, "int8"),
        "columns": RowFormat(7, "int8"),
        "plain": RowFormat(4),
    }
    source = spec.opened
    assert source is not None
    for table in spec.model.tables[:2]:
        rows = np.concatenate(list(source.table_chunks(table)))
        np.testing.assert_array_equal(rows, model.get_buffer(table.name).numpy())
    asked = query(9, last)
    expected = model(*map(torch.from_numpy, asked.values())).detach().numpy()
    (got,) = source.answers(asked).values()
    np.testing.assert_allclose(got, expected, atol=1e-6)
    plan = elasticrec.plan(spec, grouping="tiered", s_max=2, least_saving=0)
    elasticrec.build(spec, tmp_path / "built", plan, layout=layout, shard_backend="native")
    proof = load_manifest(tmp_path / "built").proof
    assert proof and proof.difference <= 1e-5 and proof.score_error is None


def test_what_would_keep_such_rows_dense_is_refused(tmp_path: Path) -> None:
    saved(tmp_path)
    with pytest.raises(ModelFileError, match=r"table ragged: its quantized rows cannot stay.*keep: dense") as caught:
        open_exported(tmp_path / "m.pt2", "m", None, 0, {"ragged": "dense"})
    assert len(caught.value.problems) == 1


def test_a_table_that_is_read_otherwise_too_is_refused(tmp_path: Path) -> None:
    class Other(Bytes):
        def forward(self, ids: torch.Tensor, user: torch.Tensor) -> torch.Tensor:
            offsets = torch.arange(0, ids.numel(), 2)
            bags = quantized.embedding_bag_byte_rowwise_offsets(self.ragged, ids.reshape(-1), offsets)
            return bags.sum(1) + self.ragged.float().mean() + self.plain(user).sum(1)

    save(Other(), (torch.ones(5, 2, dtype=torch.int64), torch.ones(5, dtype=torch.int64)), tmp_path / "m.pt2")
    with pytest.raises(ModelFileError, match=r"table ragged: .* reads it too, as a whole"):
        open_exported(tmp_path / "m.pt2", "m", None, 0, {})


def test_a_scale_that_is_no_number_is_refused(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Bytes()
    model.ragged[3, -8:-4] = torch.tensor([float("nan")]).view(torch.uint8)
    save(model, tuple(map(torch.from_numpy, query(5, False).values())), tmp_path / "m.pt2")
    source = open_exported(tmp_path / "m.pt2", "m", None, 0, {})
    with pytest.raises(CheckpointError, match="ragged: expected a finite scale and bias, got nan"):
        list(source.table_chunks(source.model.tables[0]))


def test_other_quantized_operators_are_refused_with_what_to_do(tmp_path: Path) -> None:
    import torch.ao.quantization.fx._decomposed  # it registers the operator

    class Decomposed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("w", torch.ones(50, 16, dtype=torch.int8))
            self.register_buffer("s", torch.rand(50))
            self.register_buffer("z", torch.zeros(50, dtype=torch.int64))

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            decomposed = torch.ops.quantized_decomposed.dequantize_per_channel
            rows = decomposed(self.w, self.s, self.z, 0, -128, 127, torch.int8)
            return nn.functional.embedding(ids, rows).sum(1)

    save(Decomposed(), (torch.ones(5, 2, dtype=torch.int64),), tmp_path / "m.pt2")
    with pytest.raises(ModelFileError, match="export the float model and say rows: int8") as caught:
        open_exported(tmp_path / "m.pt2", "m", None, 0, {})
    assert len(caught.value.problems) == 1
