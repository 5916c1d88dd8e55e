"""A workload's queries, and what is found wrong with an answer."""

from pathlib import Path

import numpy as np
import pytest

from loadtest.queries import Queries, load_queries
from repo_builder.errors import InputError

DENSE, INDICES = np.zeros((7, 2), np.float32), np.zeros((7, 3), np.int64)
QUERIES = Queries(2, DENSE, INDICES, np.array([0.1, 0.2], np.float32))


def test_whole_queries_only(tmp_path: Path) -> None:
    np.savez(tmp_path / "w.npz", dense=DENSE, indices=INDICES)
    queries = load_queries(tmp_path / "w.npz", 2)
    assert len(queries) == 3 and queries.query(2)[1].shape == (2, 3)
    assert queries.wrong(0, np.array([[0.9], [0.8]], np.float32)) is None  # no expected scores: nothing to compare


@pytest.mark.parametrize(
    ("number", "answer", "problem"),
    [
        (0, [[0.1], [0.2]], None),
        (0, [[0.100001], [0.2]], None),
        (0, [[0.1], [0.2001]], "wrong score: off by 0.0001"),
        (1, [[0.9], [0.9]], None),
        (1, [[0.9], [np.nan]], "scores are not finite"),
        (0, [0.1, 0.2], "wrong shape: expected (2, 1), got (2,)"),
        (0, [[0.1]], "wrong shape: expected (2, 1), got (1, 1)"),
    ],
)
def test_answers(number: int, answer: list, problem: str | None) -> None:
    assert QUERIES.wrong(number, np.array(answer, np.float32)) == problem


def test_no_answer_is_wrong() -> None:
    assert QUERIES.wrong(0, None) == "wrong shape: expected (2, 1), got None"


@pytest.mark.parametrize(
    ("arrays", "message"),
    [({"dense": DENSE}, "indices"), ({"dense": DENSE[:1], "indices": INDICES[:1]}, "at least 2 rows")],
)
def test_files_that_are_no_workload(arrays: dict[str, np.ndarray], message: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "w.npz", **arrays)
    with pytest.raises(InputError, match=message):
        load_queries(tmp_path / "w.npz", 2)


def test_a_missing_or_broken_file(tmp_path: Path) -> None:
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04 and no more")
    for name in ("none.npz", "broken.npz"):
        with pytest.raises(InputError, match=f"{name}: expected a workload"):
            load_queries(tmp_path / name, 2)
