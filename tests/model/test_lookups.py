"""The bags of look-ups, against PyTorch's own look-ups, and a loop over bags: whatever says where the ids are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from repo_builder.errors import InputError
from repo_builder.model.lookups import ids_read, read_bags
from repo_builder.model.types import BATCH, Columns, Dense, Group, Ids, Lookup, Mode, Model, Ragged, RowFormat, Table

ROWS = 7
DENSE = Dense((), 0, 0, batched=True)


def model(ids: Ids, count: int = 1, mode: Mode = "sum") -> Model:
    lookup = Lookup("l", 0, 0, ids, mode, count, ("batch", 2), 1.0)
    return Model("m", (), (), (Table("t", ROWS, RowFormat(2)),), (Group("batch"),), (lookup,), DENSE)


def summed(ids: np.ndarray) -> np.ndarray:
    """All rows that ids name, added up: what a look-up reads, whatever its bags."""
    return np.bincount(ids, minlength=ROWS)


def read(cut: Model, **tensors: np.ndarray) -> np.ndarray:
    return ids_read(cut, cut.lookups[0], tensors)


def test_columns_are_taken_out_of_each_row_of_any_rank() -> None:
    values = np.arange(24).reshape(2, 3, 4) % ROWS
    got = read(model(Ids("x", Columns(begin=5, bag=2, width=12)), count=2), x=values)
    assert got.tolist() == [*values.reshape(2, 12)[0, 5:9], *values.reshape(2, 12)[1, 5:9]]


def test_a_width_that_varies_is_the_last_dimension() -> None:
    values = np.array([[1, 2, 3], [4, 5, 6]])
    assert read(model(Ids("x", Columns(0, 1, None))), x=values).tolist() == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("last", [False, True])
def test_ragged_bags_are_those_of_torchs_embedding_bag(last: bool) -> None:
    values, offsets = np.array([3, 3, 6, 0, 1]), np.array([0, 2, 2, 5][: 4 if last else 3])
    layout = Ragged("o", "ends" if last else "offsets")
    weight = torch.eye(ROWS)
    torchs = torch.nn.functional.embedding_bag(
        torch.from_numpy(values), weight, torch.from_numpy(offsets), mode="sum", include_last_offset=last
    )
    got = read(model(Ids("x", layout)), x=values, o=offsets)
    assert summed(got).tolist() == torchs.sum(0).tolist()


def test_blocks_of_lengths_are_one_look_ups_each() -> None:
    values, lengths = np.array([1, 2, 3, 4, 5, 6]), np.array([2, 0, 1, 3], np.int32)
    found = [read(model(Ids("x", Ragged("n", "lengths", block, 2))), x=values, n=lengths).tolist() for block in (0, 1)]
    assert found == [[1, 2], [3, 4, 5, 6]]


def test_padding_is_left_out_and_ids_from_the_end_count_from_the_start() -> None:
    values = np.array([[0, 2], [-1, 0]], np.int32)
    cut = model(Ids("x", Columns(0, 2, 2), padding=0, from_end=True))
    assert read(cut, x=values).tolist() == [2, ROWS - 1]


def test_bounds_that_do_not_fit_are_refused() -> None:
    for bounds in ([1, 2], [0, 9], [0, 3, 2]):
        with pytest.raises(InputError, match="o: expected bounds"):
            read(model(Ids("x", Ragged("o", "ends"))), x=np.arange(4), o=np.array(bounds))


FORTY = Table("tags", 40, RowFormat(4))
RNG = np.random.default_rng(2)
QUERY: dict[str, NDArray[Any]] = {
    "columns": RNG.integers(-1, 40, (3, 8)),
    "cube": RNG.integers(0, 40, (2, 3, 4)).astype(np.int32),
    "flat": np.array([5, 6, 7, 8, 9, 7]),
    "ends": np.array([0, 2, 2, 5, 6]),
    "offsets": np.array([0, 2, 2, 5]),
    "lengths": np.array([2, 0, 3, 1]),
    "last": np.array([[3, -40, 39]]),
}


def bags(ids: Ids, count: int = 1) -> list[list[int]]:
    """The ids of each bag."""
    found = read_bags(Lookup("l", 0, 0, ids, "sum", count, (BATCH, 4), 1.0), FORTY, QUERY)
    return [found.ids[found.bag == bag].tolist() for bag in range(found.bags)]


def test_columns() -> None:
    columns = QUERY["columns"]
    expected = [[i for i in columns[row, begin : begin + 3] if i != -1] for row in range(3) for begin in (1, 4)]
    assert bags(Ids("columns", Columns(1, 3, 8), padding=-1), count=2) == expected
    assert bags(Ids("cube", Columns(0, 12, 12))) == [row.reshape(-1).tolist() for row in QUERY["cube"]]
    assert bags(Ids("cube", Columns(0, 0, None))) == QUERY["cube"].reshape(-1, 4).tolist()


@pytest.mark.parametrize("kind", ["offsets", "ends", "lengths"])
def test_ragged(kind: Any) -> None:
    assert bags(Ids("flat", Ragged(kind, kind))) == [[5, 6], [], [7, 8, 9], [7]]
    assert bags(Ids("flat", Ragged(kind, kind, block=1, blocks=2), padding=8)) == [[7, 9], [7]]
    assert bags(Ids("flat", Ragged(kind, kind, block=0, blocks=2))) == [[5, 6], []]


def test_ids_counted_from_the_end() -> None:
    assert bags(Ids("last", Columns(0, 3, 3), from_end=True)) == [[3, 0, 39]]
    assert bags(Ids("last", Columns(0, 3, 3))) == [[3, -40, 39]]


@pytest.mark.parametrize("weighted", [False, True])
def test_sums_and_divisors_are_torchs(weighted: bool) -> None:
    """Empty bags first, amid and last."""
    rng = np.random.default_rng(4)
    rows, lengths = rng.standard_normal((12, 3)).astype(np.float32), np.array([0, 4, 0, 0, 7, 1, 0])
    weights = rng.standard_normal(12).astype(np.float32)
    ids = Ids("x", Ragged("n", "lengths"), weights="w" if weighted else None)
    lookup = Lookup("l", 0, 0, ids, "sum", 1, (BATCH, 3), 1.0)
    found = read_bags(lookup, FORTY, {"x": np.arange(12), "n": lengths, "w": weights})
    torchs = torch.nn.functional.embedding_bag(
        torch.arange(12),
        torch.from_numpy(rows),
        torch.from_numpy(np.cumsum(lengths) - lengths),
        mode="sum",
        per_sample_weights=torch.from_numpy(weights) if weighted else None,
    )
    np.testing.assert_allclose(found.sums(rows), torchs.numpy(), atol=1e-6)
    assert found.divisors().tolist() == [1, 4, 1, 1, 7, 1, 1]


def test_a_table_without_ids_is_fine() -> None:
    table = Table("empty", 3, RowFormat(4))
    found = read_bags(
        Lookup("l", 0, 0, Ids("none", Columns(0, 2, 2)), "sum", 1, (BATCH, 4), 1.0),
        table,
        {"none": np.empty((0, 2), int)},
    )
    assert (found.bags, found.ids.size) == (0, 0)
