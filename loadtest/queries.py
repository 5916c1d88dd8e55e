"""The queries that a load test sends, and whether an answer to one of them is right."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repo_builder.errors import InputError
from repo_builder.words import count

TOLERANCE = 1e-5


@dataclass(frozen=True, slots=True)
class Queries:
    """Queries of `batch` rows each: dense (N * batch, F) float32, indices (N * batch, columns), and the expected
    scores of the first of them, (M * batch,) float32 with M <= N.
    """

    batch: int
    dense: NDArray[np.float32]
    indices: NDArray[Any]
    scores: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.dense) // self.batch

    def query(self, number: int) -> tuple[NDArray[np.float32], NDArray[Any]]:
        """`dense` (batch, F) and `indices` (batch, columns) of one query."""
        rows = slice(number * self.batch, (number + 1) * self.batch)
        return self.dense[rows], self.indices[rows]

    def wrong(self, number: int, answer: NDArray[np.float32] | None) -> str | None:
        """What is wrong with an answer to query `number`; None where nothing is."""
        if answer is None or answer.shape != (self.batch, 1):
            return f"wrong shape: expected ({self.batch}, 1), got {None if answer is None else answer.shape}"
        if not np.isfinite(answer).all():
            return "scores are not finite"
        expected = self.scores[number * self.batch : (number + 1) * self.batch]
        if len(expected) == self.batch and (error := np.abs(answer[:, 0] - expected).max()) > TOLERANCE:
            return f"wrong score: off by {error:.2g}"
        return None


def load_queries(path: Path, batch: int) -> Queries:
    """Read a workload's `.npz` (`elasticrec workload`) or a repository's `queries.npz`, in queries of `batch` rows.

    Raises InputError where it is none, or holds no whole query.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            dense, indices = arrays["dense"], arrays["indices"]
            scores = arrays["scores"] if "scores" in arrays else np.empty(0, np.float32)
    except (OSError, ValueError, LookupError, EOFError, zipfile.BadZipFile) as exc:
        raise InputError(f"{path}: expected a workload in .npz, but {exc}; write one with elasticrec workload") from exc
    if len(dense) != len(indices) or len(dense) < batch:
        raise InputError(f"{path}: expected at least {count(batch, 'row')}, those of one query, got {len(dense)}")
    return Queries(batch, dense, indices, scores)
