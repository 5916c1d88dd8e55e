"""Traces as queries: lists as bags, ids one after another, and what is wrong with a trace."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from repo_builder.access.replay import replay_queries
from repo_builder.errors import AccessError, InputError
from repo_builder.model.dlrm import Dlrm, DlrmTable, IndexDtype, Weights, dlrm_model
from repo_builder.model.lookups import ids_read
from tests.hand_models import RANKER

TABLES = [DlrmTable("A", 10, 4, 2), DlrmTable("B", 5, 4, 3)]


def replay_trace(path: Path, tables: list[DlrmTable], index_dtype: IndexDtype, rows: int) -> np.ndarray:
    """The ids of a DLRM's queries of one row each."""
    model = dlrm_model("m", Dlrm(2, (4,), (1,), tuple(tables), index_dtype, Weights("random")))
    return replay_queries(model, path, rows, 1, seed=0).inputs["indices"]


def test_lists_are_bags_cut_off_and_padded(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    columns = {"A": [[1, 2, 3], [], None, [4]], "B": [[0], [1, None, 2], [3, 3, 3], [4, 4]]}
    pq.write_table(pa.table({name: pa.array(bags, pa.list_(pa.int64())) for name, bags in columns.items()}), path)
    indices = replay_trace(path, TABLES, "int32", 3)
    assert indices.dtype == np.int32
    assert indices.tolist() == [[1, 2, 0, -1, -1], [-1, -1, 1, 2, -1], [-1, -1, 3, 3, 3]]


@pytest.mark.parametrize("suffix", ["npz", "parquet"])
def test_ids_one_after_another_fill_the_bags(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"t.{suffix}"
    ids = {"A": np.arange(8), "B": np.arange(12) % 5}
    if suffix == "npz":
        np.savez(path, A=ids["A"].reshape(4, 2), B=ids["B"])
    else:
        pq.write_table(pa.table({"A": [0, 1, None, 3, 4, 5, 6, 7]}).append_column("B", [ids["B"][:8]]), path)
    indices = replay_trace(path, TABLES, "int64", 2)
    expected = [[0, 1, 0, 1, 2], [2 if suffix == "npz" else -1, 3, 3, 4, 0]]
    assert indices.tolist() == expected


@pytest.mark.parametrize(
    ("rows", "ids", "message"),
    [
        (3, [0, 1, 2, 3], "A: expected at least 3 rows, got 2; ask for fewer queries"),
        (2, [0, 1, 2, 10], r"A: expected ids from 0 to 9, or -1 \(padding\), got 10 in row 1"),
        (1, [-2, 1], "A: expected ids from 0 to 9, or -1"),
    ],
)
def test_what_is_wrong_with_a_trace(rows: int, ids: list[int], message: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "t.npz", A=np.array(ids), B=np.zeros(9, np.int64))
    with pytest.raises(AccessError, match=message):
        replay_trace(tmp_path / "t.npz", TABLES, "int64", rows)


def test_a_table_without_its_column(tmp_path: Path) -> None:
    np.savez(tmp_path / "t.npz", B=np.zeros(3, np.int64))
    pq.write_table(pa.table({"B": [1, 2, 3]}), tmp_path / "t.parquet")
    for name in ("t.npz", "t.parquet"):
        with pytest.raises(AccessError, match=f"{name}: A: expected"):
            replay_trace(tmp_path / name, TABLES, "int64", 1)


def test_matrices_and_parts_replay_as_arrays_do(tmp_path: Path) -> None:
    """One id a row and table; bags of two take two rows of their column."""
    tables = [DlrmTable("a", 50, 4, 1), DlrmTable("b", 50, 4, 2)]
    ids = np.arange(24, dtype=np.int32).reshape(12, 2)
    np.savez(tmp_path / "arrays.npz", a=ids[:, 0], b=ids[:, 1])
    np.savez(tmp_path / "matrix.npz", X_cat=np.asfortranarray(ids), y=np.zeros(12))
    np.save(tmp_path / "matrix.npy", ids)
    (tmp_path / "parts").mkdir()
    for part in range(4):
        rows = slice(3 * part, 3 * part + 3)
        pq.write_table(
            pa.table({"y": [0] * 3, "b": ids[rows, 1], "a": ids[rows, 0]}), tmp_path / f"parts/{part}.parquet"
        )
    expected = replay_trace(tmp_path / "arrays.npz", tables, "int64", 5)
    assert expected[1].tolist() == [2, 5, 7]
    for name in ("matrix.npz", "matrix.npy", "parts"):
        assert replay_trace(tmp_path / name, tables, "int64", 5).tolist() == expected.tolist(), name
    for name in ("arrays.npz", "matrix.npz", "matrix.npy", "parts"):
        with pytest.raises(AccessError, match="b: expected at least 7 rows, got 6"):
            replay_trace(tmp_path / name, tables, "int64", 7)


def test_bags_go_on_in_the_next_part(tmp_path: Path) -> None:
    for part in range(2):
        pq.write_table(pa.table({"a": [[part, 7], []]}), tmp_path / f"{part}.parquet")
    found = replay_trace(tmp_path, [DlrmTable("a", 9, 4, 3)], "int32", 3)
    assert found.tolist() == [[0, 7, -1], [-1, -1, -1], [1, 7, -1]]


LISTS = {
    "item": [[7], [8], [9], [10]],
    "seen": [[1, 2, 3, 4, 5, 6], [11], [], [12, 13, 14, 15, 16, 17, 18]],
    "tag": [[1, 2], [], [3], [4, 5, 6, 7]],
    "who": [[5, 6], [7, 8], [1, 2], [3, 4]],
}


def write_lists(path: Path, **changed: list) -> None:
    columns = {**LISTS, **changed}
    pq.write_table(pa.table({name: pa.array(bags, pa.list_(pa.int64())) for name, bags in columns.items()}), path)


def test_any_models_look_ups_are_filled_by_their_columns(tmp_path: Path) -> None:
    """Two queries of two rows and a user: what each look-up reads is its column, whatever the inputs' layouts."""
    write_lists(tmp_path / "t.parquet")
    file = replay_queries(RANKER, tmp_path / "t.parquet", 2, 2, seed=0)
    expected = {
        "item": [[7, 8], [9, 10]],
        "seen": [[1, 2, 3, 4, 5, 6, 11], [12, 13, 14, 15, 16, 17]],  # cut off, and filled up with its padding, 0
        "tag": [[1, 2], [3, 4, 5, 6, 7]],
        "who": [[5, 6], [7, 8]],  # a row per query
    }
    for lookup in RANKER.lookups:
        read = [ids_read(RANKER, lookup, file.query(number, 2)).tolist() for number in range(2)]
        assert read == expected[lookup.name], lookup.name
    assert file.query(1, 2)["tag_lengths"].tolist() == [0, 0, 1, 4]
    assert file.inputs["dense"].shape == (4, 3) and file.inputs["dense"].std() > 0.1


def test_a_look_up_without_a_padding_needs_its_bags_full(tmp_path: Path) -> None:
    write_lists(tmp_path / "t.parquet", item=[[7], [], [9], [10]])
    with pytest.raises(AccessError, match=r"t\.parquet: item: expected 1 id in each row, for it has no padding"):
        replay_queries(RANKER, tmp_path / "t.parquet", 2, 2, seed=0)


def test_an_id_in_a_ragged_bag_that_its_table_has_not(tmp_path: Path) -> None:
    write_lists(tmp_path / "t.parquet", tag=[[1], [40], [], []])
    with pytest.raises(AccessError, match="tag: expected ids from 0 to 39, or -1"):
        replay_queries(RANKER, tmp_path / "t.parquet", 2, 2, seed=0)


def test_a_file_of_queries_is_replayed_as_it_is(tmp_path: Path) -> None:
    """All inputs by their names: a workload is a trace too."""
    write_lists(tmp_path / "t.parquet")
    file = replay_queries(RANKER, tmp_path / "t.parquet", 2, 2, seed=0)
    (tmp_path / "w.npz").write_bytes(file.to_bytes())
    again = replay_queries(RANKER, tmp_path / "w.npz", 1, 2, seed=9)
    assert again.queries(2) == 1
    for name, array in file.query(0, 2).items():
        np.testing.assert_array_equal(again.query(0, 2)[name], array)
    with pytest.raises(InputError, match=r"w\.npz: expected at least 3 queries, got 2"):
        replay_queries(RANKER, tmp_path / "w.npz", 3, 2, seed=0)
