"""Queries of a model file: what is told of those that are none of the model's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from repo_builder.errors import ModelFileError
from repo_builder.export.queries import query_problems, read_samples
from repo_builder.model.types import BATCH, Tensor

INPUTS = (
    Tensor("user", "FP32", (BATCH,)),
    Tensor("items", "INT64", (BATCH,)),
    Tensor("hist", "INT64", (BATCH, "hist_1")),
)
QUERY = {"user": np.zeros(5, np.float32), "items": np.arange(5), "hist": np.zeros((5, 3), np.int64)}


@pytest.mark.parametrize(
    ("change", "problems"),
    [
        ({}, []),
        ({"items": np.arange(4)}, ["items: expected INT64 [batch = 5], got [4]"]),
        (
            {"items": np.arange(4), "hist": np.zeros((4, 3), np.int64)},
            [
                "items: expected INT64 [batch = 5], got [4]",
                "hist: expected INT64 [batch = 5, hist_1 = 3], got [4, 3]",
            ],
        ),
        (
            {"user": np.zeros(5), "items": np.arange(4)},
            ["user: expected FP32 [batch], got float64 [5]", "items: expected INT64 [batch = 5], got [4]"],
        ),
    ],
)
def test_inputs_that_disagree_on_a_size_are_each_told(change: Any, problems: list[str]) -> None:
    """Though a later axis of one that is told varies too, and though the first is of another type."""
    assert list(query_problems(INPUTS, {**QUERY, **change})) == problems


def refused(path: Path) -> str:
    with pytest.raises(ModelFileError) as refusal:
        read_samples(path, INPUTS)
    return str(refusal.value)


def test_samples_without_rows_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "samples.npz"
    np.savez(path, **{name: array[:0] for name, array in QUERY.items()})
    assert refused(path) == f"{path}: expected at least one row, got 0"
