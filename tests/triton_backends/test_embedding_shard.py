"""A shard's file, its sums, and the GPU variant (on a CPU device) against them."""

import json
from pathlib import Path

import numpy as np
import pytest

from triton_backends.embedding_shard.shard import Shard, open_shard
from triton_backends.embedding_shard.torch_shard import TorchShard

DESCRIPTION = {"rows": 50, "dim": 6, "tables": 2, "columns": 9, "max_batch_rows": 16}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    weights = np.random.default_rng(0).standard_normal((50, 6)).astype(np.float32)
    weights.tofile(tmp_path / "weights.bin")
    (tmp_path / "shard.json").write_text(json.dumps(DESCRIPTION))
    return tmp_path


def test_sums_come_query_row_by_query_row(folder: Path) -> None:
    weights = np.fromfile(folder / "weights.bin", np.float32).reshape(50, 6)
    ids = np.array([[3, 3, 10, 49]], np.int32)
    lengths = np.array([[2, 1, 0, 1]], np.int32)  # two query rows of two tables
    sums = open_shard(folder, None).sums(ids, lengths)
    expected = np.vstack([weights[[3, 3]].sum(0), weights[10], np.zeros(6), weights[49]]).reshape(2, 12)
    np.testing.assert_allclose(sums, expected, rtol=1e-6)


def test_the_torch_shard_gives_the_same_sums(folder: Path) -> None:
    shard = Shard.open(folder)
    rng = np.random.default_rng(1)
    lengths = rng.integers(0, 5, (1, 20)).astype(np.int32)
    ids = rng.integers(0, 50, (1, int(lengths.sum()))).astype(np.int32)
    other = TorchShard(shard, "cpu")
    np.testing.assert_allclose(other.sums(ids, lengths), shard.sums(ids, lengths), atol=1e-5)
    with pytest.raises(ValueError, match="got 50 at place 0"):
        other.sums(np.array([[50]], np.int32), np.array([[1, 0]], np.int32))


def test_lengths_must_fit_the_tables(folder: Path) -> None:
    with pytest.raises(ValueError, match="expected a multiple of 2, the tables held here, got 3"):
        Shard.open(folder).sums(np.zeros((1, 3), np.int32), np.ones((1, 3), np.int32))


def test_a_query_of_more_than_a_batch_is_refused_before_its_sums_have_room(folder: Path) -> None:
    """16 rows are as much as the model takes: 32 lengths of 2 tables, 144 ids of 9 columns."""
    shard = Shard.open(folder)
    for each in (shard, TorchShard(shard, "cpu")):
        most = each.sums(np.zeros((1, 144), np.int32), np.repeat([[4, 5]], 16, axis=1).astype(np.int32))
        assert most.shape == (16, 12)
        with pytest.raises(ValueError, match=r"^lengths: expected at most 32 \(16 rows of 2 tables\), got 3000000$"):
            each.sums(np.zeros((1, 0), np.int32), np.zeros((1, 3_000_000), np.int32))
        with pytest.raises(ValueError, match=r"^ids: expected at most 144 \(16 rows of 9 columns\), got 145$"):
            each.sums(np.zeros((1, 145), np.int32), np.array([[145, 0]], np.int32))


def test_a_truncated_file_is_refused(folder: Path) -> None:
    (folder / "weights.bin").write_bytes((folder / "weights.bin").read_bytes()[:-4])
    with pytest.raises(ValueError, match=r"expected 1200 bytes \(50 rows of 6\), got 1196"):
        Shard.open(folder)
