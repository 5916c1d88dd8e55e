"""The native embedding shard, called as Triton calls it, against the Python one."""

import ctypes
import json
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.triton_backends.fake_triton import GPU, Asked, Backend, BackendError, Given, Model
from triton_backends.embedding_shard.shard import EmbeddingShard, Held, HeldGroup, HeldMatrix, HeldUnit
from triton_backends.kernels.row_formats import ROW_DTYPES, encode_rows

ROWS, DIM, TABLES, COLUMNS, MAX_BATCH_ROWS = 50, 6, 2, 9, 16

NO_DTYPE = "shard.json: dtype of rows: expected one of fp32, fp16, bf16, int8, int8_half, int4"


@pytest.fixture(scope="module")
def backend(fake: ctypes.CDLL) -> Backend:
    loaded = Backend(fake, "elasticrec_shard")
    loaded.initialize()
    return loaded


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("shard"))


def write(folder: Path, max_batch_rows: int = MAX_BATCH_ROWS) -> Path:
    (folder / "1").mkdir()
    weights = np.random.default_rng(0).standard_normal((ROWS, DIM)).astype(np.float32)
    weights.tofile(folder / "1/weights.bin")
    held = Held([HeldMatrix(ROWS, DIM)], [HeldGroup(0, max_batch_rows, [HeldUnit(0, TABLES, COLUMNS)])])
    (folder / "1/shard.json").write_text(json.dumps(held.document(), indent=1) + "\n")
    return folder


def bags(seed: int, batch: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, 5, (1, batch * TABLES)).astype(np.int32)
    return {"ids": rng.integers(0, ROWS, (1, int(lengths.sum()))).astype(np.int32), "lengths": lengths}


@settings(deadline=None)
@given(
    seed=st.integers(0, 10_000),
    batches=st.lists(st.integers(0, 9), min_size=1, max_size=5),
    pieces=st.integers(1, 3),
    offset=st.integers(0, 3),
)
def test_it_sums_as_the_python_shard(
    backend: Backend, folder: Path, seed: int, batches: list[int], pieces: int, offset: int
) -> None:
    """Several queries a call, each of its own size, however their tensors lie."""
    queries = [bags(seed + i, batch) for i, batch in enumerate(batches)]
    shard = EmbeddingShard.open(folder / "1")
    with Model(backend, folder) as model:
        answers = model.infer_all(
            [{name: Given(array, pieces, offset) for name, array in query.items()} for query in queries],
            Asked(offset=offset),
        )
        assert (model.instance.good, model.instance.executions) == (len(batches), 1)
        assert model.instance.executed == len(batches)
    for query, batch, answer in zip(queries, batches, answers, strict=True):
        assert not isinstance(answer, BackendError)
        assert answer["sums"].shape == (batch, TABLES * DIM)
        np.testing.assert_array_equal(answer["sums"], shard.answer(query)["sums"])


@pytest.mark.parametrize("dim", [1, 7, 32, 33])
def test_rows_of_any_dtype_are_answered_as_by_the_python_shard(backend: Backend, tmp_path: Path, dim: int) -> None:
    """A matrix a dtype, in one file; each summed, summed with weights, and answered as it is."""
    rng = np.random.default_rng(dim)
    pages = b""
    for dtype in ROW_DTYPES:
        pages += bytes(-len(pages) % 64) + encode_rows(rng.standard_normal((50, dim), np.float32), dtype).tobytes()
    (tmp_path / "1").mkdir()
    (tmp_path / "1/weights.bin").write_bytes(pages)
    each = range(len(ROW_DTYPES))
    units = [HeldUnit(m, b, 9, w) for m in each for b, w in ((2, 0), (1, 1), (0, 0))]
    held = Held([HeldMatrix(50, dim, dtype) for dtype in ROW_DTYPES], [HeldGroup(0, 16, units)])
    (tmp_path / "1/shard.json").write_text(json.dumps(held.document()))
    lengths = rng.integers(0, 4, (len(each), 3 * 3 + 1)).astype(np.int32)  # three rows of three bags, and rows
    ids = rng.integers(0, 50, (1, int(lengths.sum()))).astype(np.int32)
    weights = rng.standard_normal((1, int(lengths[:, 6:9].sum())), np.float32)
    query = {"ids": ids, "lengths": lengths.reshape(1, -1), "weights": weights}
    with Model(backend, tmp_path) as model:
        answer = model.infer(query)
    expected = EmbeddingShard.open(tmp_path / "1").answer(query)
    assert expected["sums"].shape == (3, len(each) * 3 * dim) and expected["rows"].size == lengths[:, 9].sum() * dim
    for name in ("sums", "rows"):
        np.testing.assert_array_equal(answer[name], expected[name])


@pytest.mark.parametrize(
    ("ids", "lengths"),
    [
        ([50], [1, 0]),
        ([3, -1], [1, 1]),
        ([3], [1, 1]),
        ([3, 4], [1, 0]),
        ([3], [-1, 2]),
        ([3, 4, 5], [1, 1, 1]),
        ([3, 4], []),
        ([], [2**31 - 1, 2**31 - 1]),
        ([], [0] * (TABLES * MAX_BATCH_ROWS + TABLES)),
        ([], [0] * 3_000_000),
        ([7] * (COLUMNS * MAX_BATCH_ROWS + 1), [COLUMNS * MAX_BATCH_ROWS + 1, 0]),
    ],
)
def test_a_bad_query_is_told_as_by_the_python_shard_and_fails_alone(
    backend: Backend, folder: Path, ids: list[int], lengths: list[int]
) -> None:
    bad = {"ids": np.array([ids], np.int32), "lengths": np.array([lengths], np.int32)}
    with pytest.raises(ValueError, match="expected") as told:
        EmbeddingShard.open(folder / "1").answer(bad)
    with Model(backend, folder) as model:
        good, failed, also_good = model.infer_all([bags(1, 2), bad, bags(2, 3)])
        assert (model.instance.good, model.instance.bad, model.instance.executed) == (2, 1, 2)
    assert isinstance(failed, BackendError) and str(failed) == str(told.value)
    assert not isinstance(good, BackendError) and not isinstance(also_good, BackendError)
    assert (good["sums"].shape, also_good["sums"].shape) == ((2, TABLES * DIM), (3, TABLES * DIM))


def test_a_query_as_large_as_a_batch_may_be_is_summed(backend: Backend, folder: Path) -> None:
    lengths = np.repeat([[4, 5]], MAX_BATCH_ROWS, axis=1).astype(np.int32)
    with Model(backend, folder) as model:
        sums = model.infer({"ids": np.zeros((1, MAX_BATCH_ROWS * COLUMNS), np.int32), "lengths": lengths})["sums"]
    assert sums.shape == (MAX_BATCH_ROWS, TABLES * DIM) and sums.all()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda a: a.astype(np.int64), "lengths: expected INT32, got INT64"),
        (lambda a: a[0], "lengths: expected 2 dimensions, got 1"),
        (lambda a: Given(a, memory_type=GPU), "lengths: expected a tensor in CPU memory, got GPU memory"),
        (lambda a: Given(a, byte_size=4), "lengths: expected 4 bytes for each of 1 x 4 numbers, got 4 in all"),
    ],
)
def test_tensors_that_do_not_fit_are_told(backend: Backend, folder: Path, change: object, told: str) -> None:
    query = bags(0, 2)
    with Model(backend, folder) as model, pytest.raises(BackendError, match=f"^{re.escape(told)}$"):
        model.infer({**query, "lengths": change(query["lengths"])})


@pytest.mark.parametrize("name", ["weights.bin", "shard.json"])
def test_a_file_cut_anywhere_is_refused(backend: Backend, tmp_path: Path, name: str) -> None:
    path = write(tmp_path) / "1" / name
    whole = path.read_bytes().rstrip()
    for size in range(0, len(whole), 1 + len(whole) // 100):
        path.write_bytes(whole[:size])
        with pytest.raises(BackendError, match=f"{name}: expected"), Model(backend, tmp_path):
            pass


def test_a_truncated_matrix_is_told_as_by_the_python_shard(backend: Backend, tmp_path: Path) -> None:
    path = write(tmp_path) / "1/weights.bin"
    path.write_bytes(path.read_bytes()[:-4])
    told = r"weights.bin: expected 1200 bytes \(50 rows of 6\), got 1196"
    with pytest.raises(BackendError, match=told), Model(backend, tmp_path):
        pass
    with pytest.raises(ValueError, match=told):
        EmbeddingShard.open(tmp_path / "1")


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('"rows": 50', '"rows": 0', "shard.json: expected a number from 1 to 2147483647 at byte "),
        ('"dim": 6', '"dim": 1048577', "shard.json: expected a number from 1 to 1048576 at byte "),
        ('"dim": 6', '"dim": 7', "weights.bin: expected 1400 bytes (50 rows of 7), got 1200"),
        ('"matrix": 0', '"matrix": 1', "shard.json: expected a number from 0 to 0 at byte "),
        ('"matrix": 0', '"matrix": -1', "shard.json: expected a number from 0 to 0 at byte "),
        ('"bags": 2', '"bags": 1048576', None),  # times 6 is within 2^24
        ('"bags": 2', '"bags": 2796203', "shard.json: expected a number from 0 to 1048576 at byte "),
        ('"columns": 9', '"columns": -2', "shard.json: expected a number from -1 to 16777216 at byte "),
        ('"weighted": 0', '"weighted": 2', "shard.json: expected a number from 0 to 1 at byte "),
        ('"max_rows": 16', '"max_rows": 16777217', "shard.json: expected a number from 1 to 16777216 at byte "),
        ('"group": 0', '"group": -1', "shard.json: expected a number from 0 to 65536 at byte "),
        ('"fp32"', '"int8"', "weights.bin: expected 700 bytes (50 rows of 6), got 1200"),
        ('"fp32"', '"int4"', "weights.bin: expected 350 bytes (50 rows of 6), got 1200"),
        ('"fp32"', '"bf16"', "weights.bin: expected 600 bytes (50 rows of 6), got 1200"),
        ('"fp32"', '"int3"', f"{NO_DTYPE}, got 'int3'"),
        ('"fp32"', '"FP32"', f"{NO_DTYPE}, got 'FP32'"),
        ('"fp32"', '""', "shard.json: expected a name at byte "),
        ('"fp32"', "0", "shard.json: expected '\"' at byte "),
        ('"dtype": "fp32"', '"kind": "fp32"', "shard.json: expected dtype at byte "),
        (',\n   "dtype": "fp32"', "", "shard.json: expected ',' at byte "),
        (
            '[\n  {\n   "rows": 50,\n   "dim": 6,\n   "dtype": "fp32"\n  }\n ]',
            "[]",
            "shard.json: expected '{' at byte ",
        ),
    ],
)
def test_a_description_that_is_wrong_is_told(
    backend: Backend, tmp_path: Path, old: str, new: str, told: str | None
) -> None:
    path = write(tmp_path) / "1/shard.json"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))
    if told is None:
        with Model(backend, tmp_path):
            return
    with pytest.raises(BackendError, match=f"^{re.escape(told)}"), Model(backend, tmp_path):
        pass


def test_rows_too_wide_to_be_summed_are_told(backend: Backend, tmp_path: Path) -> None:
    """Their numbers times a query's rows must be within 64 bits."""
    path = write(tmp_path) / "1/shard.json"
    unit = HeldUnit(0, 1 << 20, COLUMNS)
    held = Held([HeldMatrix(ROWS, DIM)], [HeldGroup(0, MAX_BATCH_ROWS, [unit, unit, unit])])
    path.write_text(json.dumps(held.document()))
    told = "shard.json: expected at most 16777216 numbers a row, got 18874368"
    with pytest.raises(BackendError, match=told), Model(backend, tmp_path):
        pass


def test_several_matrices_of_another_size_are_told_as_by_the_python_shard(backend: Backend, tmp_path: Path) -> None:
    """Each begins at a multiple of 64 bytes: 1200 of the first, 16 of nothing, 40 of the second."""
    path = write(tmp_path) / "1/weights.bin"
    held = Held([HeldMatrix(ROWS, DIM), HeldMatrix(5, 2)], [HeldGroup(0, 16, [HeldUnit(0, 1, 1), HeldUnit(1, 1, 1)])])
    path.with_name("shard.json").write_text(json.dumps(held.document()))
    told = r"weights.bin: expected 1256 bytes \(55 rows in 2 matrices\), got 1200"
    with pytest.raises(BackendError, match=told), Model(backend, tmp_path):
        pass
    with pytest.raises(ValueError, match=told):
        EmbeddingShard.open(tmp_path / "1")
    path.write_bytes(path.read_bytes() + bytes(56))
    with Model(backend, tmp_path):
        pass
