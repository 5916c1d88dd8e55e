"""What is told of arrays that are no query of a model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from repo_builder.model.queries import query_problems
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
