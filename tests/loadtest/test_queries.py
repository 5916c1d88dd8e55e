"""A workload's queries, and what is found wrong with an answer."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loadtest.queries import Queries, answer_bytes, load_queries
from repo_builder.access.query_file import QueryFile
from repo_builder.errors import InputError
from repo_builder.model.types import Tensor
from tests.hand_models import DLRM, RANKER

DENSE, INDICES = np.zeros((7, 5), np.float32), np.zeros((7, 6), np.int64)
SCORES = np.array([[[0.1], [0.2]]], np.float32)
QUERIES = Queries(QueryFile({"dense": DENSE, "indices": INDICES}, expected={"score": SCORES}), 2, DLRM.outputs)
OF = (DLRM.inputs, DLRM.outputs)


def test_whole_queries_only(tmp_path: Path) -> None:
    np.savez(tmp_path / "w.npz", dense=DENSE, indices=INDICES)
    queries = load_queries(tmp_path / "w.npz", 2, *OF)
    assert len(queries) == 3 and queries.query(2)["indices"].shape == (2, 6)
    assert queries.wrong(0, {"score": np.array([[0.9], [0.8]], np.float32)}) is None  # nothing to compare with


@pytest.mark.parametrize(
    ("number", "answer", "problem"),
    [
        (0, [[0.1], [0.2]], None),
        (0, [[0.100001], [0.2]], None),
        (0, [[0.1], [0.2001]], "wrong score: off by 0.0001"),
        (1, [[0.9], [0.9]], None),
        (1, [[0.9], [np.nan]], "wrong score: not finite"),
        (0, [0.1, 0.2], "wrong score: expected shape [2, 1], got [2]"),
        (0, [[0.1]], "wrong score: expected shape [2, 1], got [1, 1]"),
    ],
)
def test_answers(number: int, answer: list, problem: str | None) -> None:
    assert QUERIES.wrong(number, {"score": np.array(answer, np.float32)}) == problem


def test_no_answer_is_wrong() -> None:
    assert QUERIES.wrong(0, {}) == "wrong score: expected shape [2, 1], got none"


OUTPUTS = (
    Tensor("click", "FP32", ("batch", 1)),
    Tensor("user_vector", "FP16", (1, 3)),
    Tensor("ranks", "INT64", ("batch", "top")),
    Tensor("total", "FP32", ()),
)
RIGHT: dict[str, Any] = {
    "click": np.array([[0.5], [0.25]], np.float32),
    "user_vector": np.array([[1, 2, 300]], np.float16),
    "ranks": np.array([[7, 8, 9], [1, 2, 3]]),
    "total": np.array(1000, np.float32),
}


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({}, None),
        ({"total": np.float32(1000.005)}, None),  # of a thousand: 1e-5 of each 1
        ({"total": np.float32(1001)}, "wrong total: off by 1"),
        ({"user_vector": np.array([[1.001, 2, 300.25]], np.float16)}, None),  # as close as 16 bits are
        ({"user_vector": np.array([[1, 2.1, 300]], np.float16)}, "wrong user_vector: off by 0.1"),
        ({"ranks": np.array([[7, 8, 9], [1, 3, 2]])}, "wrong ranks: off by 1"),
        ({"ranks": np.array([[7, 8], [1, 2]])}, "wrong ranks: expected shape [2, 3], got [2, 2]"),
        ({"user_vector": np.zeros((2, 3), np.float16)}, "wrong user_vector: expected shape [1, 3], got [2, 3]"),
    ],
)
def test_every_output_is_compared(changed: dict[str, Any], problem: str | None) -> None:
    file = QueryFile({"x": np.zeros((2, 1))}, expected={name: np.stack([each]) for name, each in RIGHT.items()})
    found = Queries(file, 2, OUTPUTS).wrong(0, {**RIGHT, **changed})
    assert found == problem or (problem is not None and found is not None and found.startswith(problem))


def test_an_answers_bytes() -> None:
    assert answer_bytes(DLRM.outputs, 8) == 32 and answer_bytes(RANKER.outputs, 8) == 32 + 2 * 16


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"dense": DENSE}, "indices: expected this array, got none; write one with elasticrec workload"),
        ({"dense": DENSE[:1], "indices": INDICES[:1]}, "expected at least 2 rows, those of one query, got 1 row"),
        ({"dense": DENSE, "indices": INDICES, "scores": DENSE[:, 0]}, "scores: expected an input of the model"),
        ({"dense": DENSE, "indices": INDICES, "expected/x": SCORES}, "expected/x: expected an output of the model"),
    ],
)
def test_files_that_are_no_workload(arrays: dict[str, np.ndarray], message: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "w.npz", **arrays)
    with pytest.raises(InputError, match=message):
        load_queries(tmp_path / "w.npz", 2, *OF)


def test_a_missing_or_broken_file(tmp_path: Path) -> None:
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04 and no more")
    for name in ("none.npz", "broken.npz"):
        with pytest.raises(InputError, match=f"{name}: expected a workload in .npz, but .*; write one with elasticrec"):
            load_queries(tmp_path / name, 2, *OF)
