"""A shard's file, its sums, and the GPU variant (on a CPU device) against them."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from triton_backends.embedding_shard.shard import EmbeddingShard, Held, HeldGroup, HeldMatrix, HeldUnit, open_shard
from triton_backends.embedding_shard.torch_shard import TorchShard
from triton_backends.kernels.row_formats import ROW_DTYPES, decode_rows, encode_rows

HELD = Held([HeldMatrix(50, 6)], [HeldGroup(0, 16, [HeldUnit(0, 2, 9)])])


def query(ids: object, lengths: object) -> dict[str, np.ndarray]:
    """Of one group, unweighted."""
    return {"ids": np.asarray(ids, np.int32).reshape(1, -1), "lengths": np.asarray(lengths, np.int32).reshape(1, -1)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    weights = np.random.default_rng(0).standard_normal((50, 6)).astype(np.float32)
    weights.tofile(tmp_path / "weights.bin")
    (tmp_path / "shard.json").write_text(json.dumps(HELD.document()))
    return tmp_path


def test_sums_come_query_row_by_query_row(folder: Path) -> None:
    weights = np.fromfile(folder / "weights.bin", np.float32).reshape(50, 6)
    sums = open_shard(folder, None).answer(query([3, 3, 10, 49], [2, 1, 0, 1]))["sums"]  # two query rows of two tables
    expected = np.vstack([weights[[3, 3]].sum(0), weights[10], np.zeros(6), weights[49]]).reshape(2, 12)
    np.testing.assert_allclose(sums, expected, rtol=1e-6)


def test_the_torch_shard_gives_the_same_sums(folder: Path) -> None:
    shard = EmbeddingShard.open(folder)
    rng = np.random.default_rng(1)
    lengths = rng.integers(0, 5, (1, 20)).astype(np.int32)
    ids = rng.integers(0, 50, (1, int(lengths.sum()))).astype(np.int32)
    other = TorchShard(shard, "cpu")
    asked = query(ids, lengths)
    np.testing.assert_allclose(other.answer(asked)["sums"], shard.answer(asked)["sums"], atol=1e-5)
    with pytest.raises(ValueError, match="got 50 at index 0"):
        other.answer(query([50], [1, 0]))


UNITS = [HeldUnit(0, 2, 9), HeldUnit(0, 1, 9, weighted=1), HeldUnit(0, 0, 9)]  # sums, weighted ones, rows as they are


def write_rows(folder: Path, dtype: str, dim: int) -> np.ndarray:
    """50 rows of a dtype; returns their numbers."""
    stored = encode_rows(np.random.default_rng(dim).standard_normal((50, dim)).astype(np.float32), dtype)
    stored.tofile(folder / "weights.bin")
    held = Held([HeldMatrix(50, dim, dtype)], [HeldGroup(0, 16, UNITS)])
    (folder / "shard.json").write_text(json.dumps(held.document()))
    return decode_rows(stored, dim, dtype)


@pytest.mark.parametrize("dtype", ROW_DTYPES)
@pytest.mark.parametrize("dim", [1, 7, 16, 33])
def test_rows_of_any_dtype_are_answered_as_their_numbers(tmp_path: Path, dtype: str, dim: int) -> None:
    numbers = write_rows(tmp_path, dtype, dim)
    shard = EmbeddingShard.open(tmp_path)
    asked = query([3, 3, 10, 49, 7, 8, 8, 0], [2, 1, 3, 2])  # a row of two bags, its weighted bag, two rows
    asked["weights"] = np.array([[2, -1, 0.5]], np.float32)
    for each, exact in ((shard, True), (TorchShard(shard, "cpu"), False)):
        got = each.answer(asked)
        weighted = 2 * numbers[49] - numbers[7] + np.float32(0.5) * numbers[8]
        sums = np.concatenate([numbers[3] + numbers[3], numbers[10], weighted])
        assert got["sums"].dtype == got["rows"].dtype == np.float32
        np.testing.assert_allclose(got["sums"][0], sums, rtol=0, atol=0 if exact else 1e-5)
        np.testing.assert_array_equal(got["rows"][0], numbers[[8, 0]].reshape(-1))


def test_a_dtype_that_there_is_not_is_refused(folder: Path) -> None:
    text = (folder / "shard.json").read_text()
    (folder / "shard.json").write_text(text.replace('"fp32"', '"int3"'))
    with pytest.raises(
        ValueError, match=r"dtype of rows: expected one of fp32, fp16, bf16, int8, int8_half, int4, got 'int3'"
    ):
        EmbeddingShard.open(folder)


@pytest.mark.parametrize(
    ("dtype", "size"), [("fp16", 2 * 7), ("bf16", 2 * 7), ("int8", 7 + 8), ("int8_half", 7 + 4), ("int4", 4 + 4)]
)
def test_a_file_of_another_size_than_its_dtype_says_is_refused(tmp_path: Path, dtype: str, size: int) -> None:
    write_rows(tmp_path, dtype, 7)
    (tmp_path / "weights.bin").write_bytes((tmp_path / "weights.bin").read_bytes()[:-1])
    told = rf"weights.bin: expected {50 * size} bytes \(50 rows of 7\), got {50 * size - 1}"
    with pytest.raises(ValueError, match=told):
        EmbeddingShard.open(tmp_path)


def test_lengths_must_fit_the_bags(folder: Path) -> None:
    with pytest.raises(ValueError, match="expected a multiple of 2, the bags of a row, got 3"):
        EmbeddingShard.open(folder).answer(query([0, 0, 0], [1, 1, 1]))


def test_a_query_of_more_than_a_batch_is_refused_before_its_sums_have_room(folder: Path) -> None:
    """16 rows are as much as the model takes: 32 lengths of 2 tables, 144 ids of 9 columns."""
    shard = EmbeddingShard.open(folder)
    for each in (shard, TorchShard(shard, "cpu")):
        most = each.answer(query(np.zeros(144), np.repeat([[4, 5]], 16, axis=1)))["sums"]
        assert most.shape == (16, 12)
        with pytest.raises(ValueError, match=r"^lengths: expected at most 32 \(16 rows of 2 bags\), got 3000000$"):
            each.answer(query([], np.zeros(3_000_000)))
        with pytest.raises(ValueError, match=r"^ids: expected at most 144 in 16 rows, got 145$"):
            each.answer(query(np.zeros(145), [145, 0]))


def test_a_truncated_file_is_refused(folder: Path) -> None:
    (folder / "weights.bin").write_bytes((folder / "weights.bin").read_bytes()[:-4])
    with pytest.raises(ValueError, match=r"expected 1200 bytes \(50 rows of 6\), got 1196"):
        EmbeddingShard.open(folder)


@pytest.mark.parametrize("torch", ["0 GPUs", None])
def test_rows_on_a_gpu_are_never_served_by_the_cpu_instead(
    folder: Path, torch: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By torch without a GPU of this number, and where there is no torch."""
    if torch is None:
        monkeypatch.setitem(sys.modules, "torch", None)
    told = rf"^GPU 99: rows .* but {'torch .* sees [0-9]+ GPUs' if torch else 'import of torch .*'}; .* --cpu-only$"
    with pytest.raises(RuntimeError, match=told):
        open_shard(folder, 99)
