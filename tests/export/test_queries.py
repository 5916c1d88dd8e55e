"""Queries of a model file: what is told of those that are none of the model's."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from repo_builder.errors import ModelFileError
from repo_builder.export.queries import read_samples, refuse_ids, refused_samples
from repo_builder.model.types import BATCH, Columns, Ids, Lookup, Ragged, RowFormat, Table, Tensor

INPUTS = (
    Tensor("user", "FP32", (BATCH,)),
    Tensor("items", "INT64", (BATCH,)),
    Tensor("hist", "INT64", (BATCH, "hist_1")),
)
QUERY = {"user": np.zeros(5, np.float32), "items": np.arange(5), "hist": np.zeros((5, 3), np.int64)}


def refused(path: Path) -> str:
    with pytest.raises(ModelFileError) as refusal:
        read_samples(path, INPUTS)
    return str(refusal.value)


def test_samples_without_rows_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "samples.npz"
    np.savez(path, **{name: array[:0] for name, array in QUERY.items()})
    assert refused(path) == f"{path}: expected at least one row, got 0"


def test_samples_that_are_not_there_are_told_with_their_field(tmp_path: Path) -> None:
    path = tmp_path / "samples.npz"
    assert refused(path) == f"{path}: expected a file of samples, found none; check samples in the spec"


TABLES = (Table("item", 9, RowFormat(2)), Table("tag", 4, RowFormat(2)))
HIST = Lookup("item", 0, 0, Ids("hist", Columns(0, 3, 3), "weights"), "sum", 1, (BATCH, 2), 3.0)
FROM_END = replace(HIST, ids=replace(HIST.ids, from_end=True, padding=-99))
TAGS = Lookup("tag", 1, 0, Ids("tags", Ragged("ends", "offsets")), "sum", 1, (BATCH, 2), 1.0)
COMPUTED = replace(HIST, ids=replace(HIST.ids, tensor="computed"))
GOOD = {"hist": np.array([[0, 1, 2], [3, 8, 4]]), "tags": np.array([1, 3]), "ends": np.array([0, 2])}


@pytest.mark.parametrize(
    ("lookup", "change", "problem"),
    [
        (HIST, {"hist": GOOD["hist"] + 1}, "hist: expected ids of table item, from 0 to 8, got 9 in row 1"),
        (HIST, {"hist": GOOD["hist"] - 1}, "hist: expected ids of table item, from 0 to 8, got -1 in row 0"),
        (FROM_END, {"hist": GOOD["hist"] - 10}, "hist: expected ids of table item, from -9 to 8, got -10 in row 0"),
        (FROM_END, {"hist": np.array([[-9, 8, -99]])}, None),
        (COMPUTED, {"hist": GOOD["hist"] + 1}, None),
        (TAGS, {"tags": np.array([1, 4])}, "tags: expected ids of table tag, from 0 to 3, got 4 in row 0"),
        (TAGS, {"ends": np.array([0, 5])}, "ends: expected bounds of bags within the 2 ids of tags"),
    ],
)
def test_ids_of_samples_outside_their_table_are_told(lookup: Lookup, change: Any, problem: str | None) -> None:
    path = Path("samples.npz")
    refuse_ids(path, [lookup], TABLES, GOOD)
    if problem is None:
        refuse_ids(path, [lookup], TABLES, {**GOOD, **change})
        return
    with pytest.raises(ModelFileError, match=f"^{re.escape(f'{path}: {problem}')}"):
        refuse_ids(path, [lookup], TABLES, {**GOOD, **change})


def test_what_is_not_finite_in_refused_samples_is_told() -> None:
    error = refused_samples(Path("s.npz"), {"a": np.array([1.0, np.nan]), "b": np.zeros(2)}, "an id is out of bounds")
    assert str(error) == (
        "s.npz: expected samples that the model takes, got others: an id is out of bounds; not all finite: a"
    )
