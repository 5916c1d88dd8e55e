"""Which ids look-ups read, against what PyTorch's own look-ups take."""

import numpy as np
import pytest
import torch

from repo_builder.model.ids import ids_read
from repo_builder.model.types import Columns, Dense, Group, Ids, Lookup, Mode, Model, Ragged, RowFormat, Table

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
        with pytest.raises(ValueError, match="o: expected bounds"):
            read(model(Ids("x", Ragged("o", "ends"))), x=np.arange(4), o=np.array(bounds))
