"""Files of queries: how they are cut, and what keeps them from it."""

from pathlib import Path

import numpy as np
import pytest

from repo_builder.access.query_file import QueryFile, read_query_file
from repo_builder.errors import InputError
from repo_builder.model.types import Tensor

INPUTS = (
    Tensor("dense", "FP32", ("batch", 2)),
    Tensor("user", "INT64", (1, 3)),
    Tensor("tags", "INT32", ("tags",)),
    Tensor("ends/odd", "BOOL", ()),
)
FILE = QueryFile(
    {
        "dense": np.arange(8, dtype=np.float32).reshape(4, 2),
        "user": np.arange(6).reshape(2, 3),
        "tags": np.arange(5, dtype=np.int32),
        "ends/odd": np.array(True),
    },
    {"user": np.array([1, 2]), "tags": np.array([4, 5])},
    {"score": np.arange(2.0).reshape(1, 2, 1)},
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "w.npz").write_bytes(FILE.to_bytes())
    return tmp_path / "w.npz"


def test_queries_are_read_as_they_were_written(path: Path) -> None:
    """Rows by the batch, the others by their ends, a scalar in each; also where an input is named like an end."""
    found = read_query_file(path, INPUTS)
    assert (found.rows, found.queries(2)) == (4, 2)
    first, second = found.query(0, 2), found.query(1, 2)
    assert first["dense"].tolist() == [[0, 1], [2, 3]] and second["dense"].tolist() == [[4, 5], [6, 7]]
    assert first["user"].tolist() == [[0, 1, 2]] and second["user"].tolist() == [[3, 4, 5]]
    assert first["tags"].tolist() == [0, 1, 2, 3] and second["tags"].tolist() == [4]
    assert first["ends/odd"].shape == () and bool(second["ends/odd"])
    assert found.expected["score"].tolist() == [[[0.0], [1.0]]]
    assert found.first(1)["dense"].tolist() == first["dense"].tolist()  # its tags are of both rows


def test_the_first_queries_alone() -> None:
    head = FILE.head(1, 2)
    assert {name: array.tolist() for name, array in head.query(0, 2).items()} == {
        name: array.tolist() for name, array in FILE.query(0, 2).items()
    }
    assert (head.rows, head.queries(2), len(head.inputs["tags"]), head.expected) == (2, 1, 4, {})


def test_rows_alone_are_cut_as_one_likes() -> None:
    file = QueryFile({"dense": np.arange(7)})
    assert [file.queries(batch) for batch in (1, 2, 3, 7, 8)] == [7, 3, 2, 1, 0]
    assert file.query(1, 3)["dense"].tolist() == [3, 4, 5] and file.first(2)["dense"].tolist() == [0, 1]
    assert QueryFile({"flag": np.array(True)}).queries(5) == 1


@pytest.mark.parametrize(
    ("ends", "told"),
    [
        ({}, "ends/user: expected where each query's part of user ends"),
        ({"user": [1, 2]}, "ends/tags: expected where"),
        ({"user": [1.0, 2.0], "tags": [4, 5]}, "ends/user: expected where"),
        ({"user": [0, 2], "tags": [4, 5]}, "ends/user: expected parts of user"),
        ({"user": [1, 2], "tags": [4, 4]}, "ends/tags: expected parts of tags from its begin to its end"),
        ({"user": [1, 2], "tags": [6, 5]}, "ends/tags: expected parts"),
        ({"user": [1, 2], "tags": [3, 4, 5]}, "ends/tags: expected as many queries as the other arrays have, got 3"),
        ({"user": [1, 2], "tags": [4, 5], "dense": [2, 4]}, "ends/dense: expected this beside an input without rows"),
    ],
)
def test_parts_that_do_not_fit(ends: dict[str, list], told: str, tmp_path: Path) -> None:
    file = QueryFile(FILE.inputs, {name: np.array(each) for name, each in ends.items()})
    (tmp_path / "w.npz").write_bytes(file.to_bytes())
    with pytest.raises(InputError, match=told) as caught:
        read_query_file(tmp_path / "w.npz", INPUTS)
    assert all(problem.startswith(f"{tmp_path}/w.npz: ends/") for problem in caught.value.problems)
