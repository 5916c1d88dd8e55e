"""Traces: counts against plain counting, every mistake and where it stands, and a stream that stays small."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from repo_builder.access.load import load_hotness
from repo_builder.access.trace import load_trace
from repo_builder.errors import AccessError
from repo_builder.model.dlrm import DlrmTable
from tests.access.helpers import from_file, table


def problems_of(path: Path, *tables: DlrmTable) -> list[str]:
    with pytest.raises(AccessError) as caught:
        load_hotness(from_file("trace", path, *tables))
    for problem in caught.value.problems:
        assert "\n" not in problem and problem.startswith(f"{path}: ")
    return [problem.removeprefix(f"{path}: ") for problem in caught.value.problems]


def check(path: Path, ids: dict[str, Any], rows: int) -> None:
    """The hotness of a trace equals what np.unique counts in the flat ids."""
    tables = [table(name, rows) for name in ids]
    hotness = load_hotness(from_file("trace", path, *tables))
    for each in tables:
        counts = np.zeros(rows, int)
        seen, times = np.unique(ids[each.name], return_counts=True)
        counts[seen[seen >= 0]] = times[seen >= 0]
        assert np.array_equal(hotness.order(each), np.lexsort((np.arange(rows), -counts)))
        assert np.array_equal(hotness.cdf(each)[1:], np.cumsum(np.sort(counts)[::-1]) / counts.sum())


@pytest.mark.parametrize("shape", [(60,), (12, 5), (3, 4, 5), (1,), ()])
@pytest.mark.parametrize("dtype", ["i1", "u2", "i4", "i8", "u8", ">i8"])
def test_npz_of_any_shape_and_dtype(tmp_path: Path, shape: tuple[int, ...], dtype: str) -> None:
    rng = np.random.default_rng(0)
    ids = {"a": rng.integers(0, 20, shape).astype(dtype), "b": rng.integers(0, 9, 50).astype(dtype)}
    np.savez(tmp_path / "t.npz", **ids)
    check(tmp_path / "t.npz", ids, 20)


def test_npz_of_many_chunks_with_padding(tmp_path: Path) -> None:
    ids = {"a": np.random.default_rng(0).integers(-1, 1000, (350_000, 10))}
    np.savez_compressed(tmp_path / "t.npz", **ids)
    check(tmp_path / "t.npz", ids, 1000)


def test_fortran_order(tmp_path: Path) -> None:
    ids = {"a": np.asfortranarray([[0, 1, 2], [2, 2, 99]])}
    np.savez(tmp_path / "t.npz", **ids)
    check(tmp_path / "t.npz", ids, 100)
    (problem,) = problems_of(tmp_path / "t.npz", table("a", 5))
    assert problem.endswith("got 99 at [1, 2]")


def test_rows_never_seen_are_coldest_in_id_order(tmp_path: Path) -> None:
    np.savez(tmp_path / "t.npz", C=np.array([4, 4, 2, -1]))
    hotness = load_hotness(from_file("trace", tmp_path / "t.npz", table(rows=6)))
    assert hotness.order(table(rows=6)).tolist() == [4, 2, 0, 1, 3, 5]
    assert hotness.cdf(table(rows=6)).tolist() == pytest.approx([0, 2 / 3, 1, 1, 1, 1, 1])


@pytest.mark.parametrize("bad", [10, -2, 2**40])
def test_npz_id_out_of_range(tmp_path: Path, bad: int) -> None:
    ids = np.zeros((600_000, 2), np.int64)
    ids[599_999, 1] = bad
    np.savez(tmp_path / "t.npz", C=ids)
    assert problems_of(tmp_path / "t.npz", table()) == [
        f"C: expected ids from 0 to 9, or -1 (padding), got {bad} at [599999, 1]"
    ]


def test_npz_problems_of_all_tables_at_once(tmp_path: Path) -> None:
    np.savez(tmp_path / "t.npz", a=np.array([9, 0]), b=np.array([0.5]), c=np.array([3, -4]), x=np.array([1]))
    problems = problems_of(tmp_path / "t.npz", *(table(name, 3) for name in "abcd"))
    assert [problem.split(":")[0] for problem in problems] == ["d", "a", "b", "c"]
    assert problems[2] == "b: expected integer ids, got dtype float64"


@pytest.mark.parametrize("ids", [[-1, -1], []])
def test_a_table_without_any_access_is_uniform_and_told_once(tmp_path: Path, ids: list[int]) -> None:
    np.savez(tmp_path / "t.npz", a=np.array([3]), b=np.array(ids, np.int64), c=np.array(ids, np.int64))
    told: list[str] = []
    hotness = load_trace(tmp_path / "t.npz", [table(name, 4) for name in "abc"], tell=told.append)
    assert told == [f"{tmp_path / 't.npz'}: no access to b, c: all of their rows count as equally hot"]
    assert hotness.cdf(table("b", 4)).tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert hotness.order(table("b", 4)).tolist() == [0, 1, 2, 3]
    assert hotness.order(table("a", 4)).tolist() == [3, 0, 1, 2]


def test_npz_objects_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "t.npz", C=np.array([{}], object))
    assert "never loaded" in problems_of(tmp_path / "t.npz", table())[0]


def test_unknown_kind_of_file(tmp_path: Path) -> None:
    assert problems_of(tmp_path / "t.csv", table()) == [
        "expected a trace in a .npz, .npy, .parquet file, or a folder of .parquet parts, got .csv"
    ]


@pytest.mark.parametrize("name", ["no.npz", "no.npy", "no.parquet"])
def test_missing_file(tmp_path: Path, name: str) -> None:
    (problem,) = problems_of(tmp_path / name, table())
    assert "found none; check access.path" in problem


@pytest.mark.parametrize("kind", [pa.list_(pa.int64()), pa.large_list(pa.int32()), pa.list_(pa.uint16(), 3)])
def test_parquet_of_lists(tmp_path: Path, kind: pa.DataType) -> None:
    rng = np.random.default_rng(2)
    bags = [rng.integers(0, 30, 3).tolist() for _ in range(700)]
    other = rng.integers(0, 30, 700)
    if not pa.types.is_fixed_size_list(kind):  # pyarrow itself cannot read a null among those
        bags[5] = bags[699] = None
    pq.write_table(
        pa.table({"b": pa.array(other), "a": pa.array(bags, kind)}), tmp_path / "t.parquet", row_group_size=100
    )
    flat = np.array([i for bag in bags if bag is not None for i in bag])
    check(tmp_path / "t.parquet", {"a": flat, "b": other}, 30)


def test_parquet_nulls_padding_and_empty_bags_count_for_nothing(tmp_path: Path) -> None:
    bags = pa.array([[1, None, -1], None, [], [2, 2]], pa.list_(pa.int32()))
    plain = pa.array([0, None, -1, 0], pa.int8())
    pq.write_table(pa.table({"a": bags, "b": plain}), tmp_path / "t.parquet")
    check(tmp_path / "t.parquet", {"a": np.array([1, 2, 2]), "b": np.array([0, 0])}, 4)


def test_parquet_id_out_of_range_names_its_row(tmp_path: Path) -> None:
    rows = 600_000  # more than one batch
    plain = np.zeros(rows, np.int64)
    plain[rows - 2] = 77
    bags = [[0]] * (rows - 3) + [None, [1, None], [None, 2, -5]]
    pq.write_table(pa.table({"a": plain, "b": pa.array(bags, pa.list_(pa.int64()))}), tmp_path / "t.parquet")
    assert problems_of(tmp_path / "t.parquet", table("a", 10), table("b", 10)) == [
        f"a: expected ids from 0 to 9, or -1 (padding), got 77 at row {rows - 2} of the file",
        f"b: expected ids from 0 to 9, or -1 (padding), got -5 at row {rows - 1} of the file",
    ]


def test_parquet_columns_missing_and_of_wrong_type(tmp_path: Path) -> None:
    columns = {"a": [1.5], "b": [["x"]], "c": [[[1]]], "d": [True], "e": [1]}
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    problems = problems_of(tmp_path / "t.parquet", *(table(name) for name in "abcdef"))
    assert problems[0] == "f: expected this column, got none"
    assert problems[1] == "a: expected a column of integer ids or lists of them, got double"
    assert [problem.split(":")[0] for problem in problems[1:]] == list("abcd")


def test_parquet_column_that_stands_there_twice(tmp_path: Path) -> None:
    pq.write_table(pa.table([[1], [2]], names=["C", "C"]), tmp_path / "t.parquet")
    assert problems_of(tmp_path / "t.parquet", table()) == ["C: expected this column once, got it 2 times"]


def test_parquet_that_is_truncated_or_damaged(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"C": list(range(10)) * 50}), path)
    whole = path.read_bytes()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        assert "expected a whole .parquet file" in problems_of(path, table())[0]


@pytest.mark.parametrize("suffix", ["npz", "parquet"])
def test_progress_rises_to_the_total(tmp_path: Path, suffix: str) -> None:
    path, ids = tmp_path / f"t.{suffix}", np.zeros(2_500_000, np.int64)
    if suffix == "npz":
        np.savez(path, C=ids)
    else:
        pq.write_table(pa.table({"C": ids}), path)
    seen: list[tuple[int, int]] = []
    load_hotness(from_file("trace", path, table()), lambda *step: seen.append(step))
    assert len(seen) >= 3 and seen == sorted(seen)
    assert seen[-1] == (2_500_000, 2_500_000) and {total for _, total in seen} == {2_500_000}


# VmHWM and not ru_maxrss: the latter outlives exec, so a child starts out with the peak of the process that started it
MEASURE = """
import re, sys
from pathlib import Path
import pyarrow.parquet
sys.path.insert(0, sys.argv[2])
from tests.access.helpers import from_file, table
from repo_builder.access.load import load_hotness
from repo_builder.access.trace import load_trace

def peak_kib():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])

spec = from_file("trace", Path(sys.argv[1]), table("C", 2_000_000, pooling=20))
pyarrow.array([1.5, None]).to_numpy(zero_copy_only=False)  # it imports pandas where that is installed
before = peak_kib()
hotness = load_hotness(spec)
print(peak_kib() - before)
"""


@pytest.mark.parametrize("suffix", ["npz", "parquet"])
def test_long_traces_are_counted_in_little_memory(tmp_path: Path, suffix: str) -> None:
    """40 M ids (320 MB) and 8 MB of counts: the peak may grow by less than a quarter of the trace."""
    path = tmp_path / f"t.{suffix}"
    ids = np.random.default_rng(0).integers(0, 2_000_000, (2_000_000, 20))
    if suffix == "npz":
        np.savez(path, C=ids)
    else:
        bags = pa.FixedSizeListArray.from_arrays(pa.array(ids.ravel()), 20)
        pq.write_table(pa.table({"C": bags}), path, row_group_size=100_000, use_dictionary=False)
    command = [sys.executable, "-c", MEASURE, str(path), str(Path(__file__).parents[2])]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    grown_kib = int(done.stdout)
    assert 4 * 1024 < grown_kib < 80 * 1024, f"peak memory grew by {grown_kib} KiB"


LOG = {"label": [0, 1, 1], "user": ["u", "v", "w"], "time": [0.5, 1.5, 2.5], "b": [1, 1, 0], "a": [[2], [2, 0], []]}


def test_other_columns_of_a_log_are_left_alone_and_told_once(tmp_path: Path) -> None:
    pq.write_table(pa.table(LOG), tmp_path / "t.parquet")
    np.savez(tmp_path / "t.npz", label=np.array([0.5]), a=np.array([2, 2, 0]), user=np.array(["u"]), b=np.array([1]))
    for name, others in (("t.parquet", "3 more that no table of the spec is named after: label, user, time"),
                         ("t.npz", "2 more that no table of the spec is named after: label, user")):  # fmt: skip
        told: list[str] = []
        hotness = load_trace(tmp_path / name, [table("a", 3), table("b", 2)], tell=told.append)
        assert told == [f"{tmp_path / name}: {others}"]
        assert hotness.order(table("a", 3)).tolist() == [2, 0, 1]


def test_columns_that_no_table_names_are_not_even_read(tmp_path: Path) -> None:
    """A log's other columns may be as broken as they like: they cost nothing."""
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"a": [1, 1, 2], "text": ["x" * 1000] * 3}), path, compression=None, use_dictionary=False)
    data = path.read_bytes()
    at = pq.ParquetFile(path).metadata.row_group(0).column(1).data_page_offset
    path.write_bytes(data[:at] + b"\xff" * 8 + data[at + 8 :])
    with pytest.raises(OSError, match=r"deserialize|page|[Tt]hrift"):
        pq.read_table(path)
    assert load_trace(path, [table("a", 3)]).order(table("a", 3)).tolist() == [1, 2, 0]


def test_a_folder_of_parquet_parts(tmp_path: Path) -> None:
    """Parts below parts, and what Spark leaves beside them."""
    (tmp_path / "day=2").mkdir()
    pq.write_table(pa.table({"a": [1, 1, 1]}), tmp_path / "day=2" / "part-0.parquet")
    pq.write_table(pa.table({"x": [0.5], "a": [[2, 2]]}), tmp_path / "part-1.parquet")
    (tmp_path / "_SUCCESS").write_bytes(b"")
    (tmp_path / "_metadata.parquet").write_bytes(b"no data")
    told: list[str] = []
    seen: list[tuple[int, int]] = []
    hotness = load_trace(tmp_path, [table("a", 4)], lambda done, total: seen.append((done, total)), told.append)
    assert hotness.order(table("a", 4)).tolist() == [1, 2, 0, 3]
    assert hotness.cdf(table("a", 4)).tolist() == pytest.approx([0, 0.6, 1, 1, 1])
    assert seen == [(3, 4), (4, 4)] and len(told) == 1 and told[0].endswith("named after: x")


def test_a_part_that_lacks_a_column_is_named(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [1]}), tmp_path / "0.parquet")
    pq.write_table(pa.table({"b": [1]}), tmp_path / "1.parquet")
    with pytest.raises(AccessError, match=r"1\.parquet: a: expected this column, got none"):
        load_trace(tmp_path, [table("a", 4)])


def test_a_folder_without_parts(tmp_path: Path) -> None:
    assert "expected .parquet parts in this folder, found none" in problems_of(tmp_path, table())[0]


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["int32", "uint64"])
@pytest.mark.parametrize("rows", [5, 700_000])
def test_matrices(tmp_path: Path, order: str, dtype: str, rows: int) -> None:
    """DLRM's X_cat beside X_int and y, and a matrix alone: columns in the order of the tables, in any memory order."""
    rng = np.random.default_rng(0)
    tables = [table("a", 50), table("b", 7), table("c", 900)]
    ids = np.stack([rng.integers(0, each.rows, rows) for each in tables], 1).astype(dtype)
    ids = np.asarray(ids, order=order)
    np.savez_compressed(tmp_path / "t.npz", X_cat=ids, X_int=np.zeros((rows, 2)), y=np.zeros(rows), counts=[50, 7, 900])
    np.save(tmp_path / "t.npy", ids)
    for name, lines in (("t.npz", 1), ("t.npy", 0)):
        told: list[str] = []
        hotness = load_trace(tmp_path / name, tables, tell=told.append)
        for column, each in enumerate(tables):
            seen = np.bincount(ids[:, column].astype(np.int64), minlength=each.rows)
            expected = np.argsort(-seen, kind="stable")
            assert hotness.order(each).tolist() == expected.tolist()
        assert len([line for line in told if "more that no table" in line]) == lines


@pytest.mark.parametrize(
    ("ids", "told"),
    [
        (
            np.zeros((4, 3), np.int32),
            "expected a matrix with 2 columns, one per table in the spec's order, got shape",
        ),
        (np.zeros(4, np.int32), "got shape (4,)"),
        (np.zeros((4, 2)), "expected integer ids, got dtype float64"),
        (np.array([[0, 0], [1, 9]]), "b: expected ids from 0 to 3, or -1 (padding), got 9 at [1, 1] of X_cat"),
        (np.asfortranarray([[0, 0], [1, 9]]), "b: expected ids from 0 to 3, or -1 (padding), got 9 at [1, 1] of X_cat"),
    ],
)
def test_matrices_that_do_not_fit(tmp_path: Path, ids: np.ndarray, told: str) -> None:
    np.savez(tmp_path / "t.npz", X_cat=ids)
    (problem,) = problems_of(tmp_path / "t.npz", table("a", 4), table("b", 4))
    assert told in problem


@pytest.mark.parametrize("damage", [b"", b"\x93NUMPY", b"no numpy at all"])
def test_npy_that_is_none(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "t.npy").write_bytes(damage)
    assert "expected a whole numpy array" in problems_of(tmp_path / "t.npy", table())[0]
