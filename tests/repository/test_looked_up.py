"""Look-ups by hand are what a loop over bags says, whatever says where the ids are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from repo_builder.errors import InputError
from repo_builder.model.types import BATCH, Columns, Ids, Lookup, Ragged, Table
from repo_builder.repository.looked_up import LookedUp, read_bags
from tests.toy_source import TABLES, TOY, ToySource

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
    found = read_bags(Lookup("l", 1, 0, ids, "sum", count, (BATCH, 4), 1.0), TABLES[1], QUERY)
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


def test_ids_from_the_end() -> None:
    assert bags(Ids("last", Columns(0, 3, 3), from_end=True)) == [[3, 0, 39]]
    with pytest.raises(InputError, match="samples: l: id -40 is none of the 40 rows of tags"):
        bags(Ids("last", Columns(0, 3, 3)))


def test_sums_are_a_loops() -> None:
    """The toy's query: un-pooled, averaged, weighted and ragged; rows come in blocks of seven."""
    source = ToySource(TOY)
    query = source.query(9, seed=3)
    looked_up = LookedUp(TOY, query)
    for place, table in enumerate(TOY.tables):
        for begin, rows in zip(range(0, table.rows, 7), source.table_chunks(table), strict=True):
            looked_up.see(place, begin, rows)
    items, tags, users = source.tables
    ends = query["tag_ends"]
    weighted = [
        sum((query["tag_weights"][i] * tags[query["tags"][i]] for i in range(ends[row], ends[row + 1])), np.zeros(4))
        for row in range(9)
    ]
    seen = [items[[i for i in row if i >= 0]].sum(0) / max(1, sum(i >= 0 for i in row)) for row in query["history"]]
    expected = [items[query["item"]], seen, weighted, users[query["user"]].reshape(1, 32)]
    for place, each in enumerate(expected):
        found, size = looked_up.sums(place)
        np.testing.assert_allclose(found, np.array(each), atol=1e-6)
        assert (size >= np.abs(found) - 1e-12).all()


def test_what_was_not_seen_agrees_with_nothing() -> None:
    looked_up = LookedUp(TOY, ToySource(TOY).query(2, seed=0))
    assert np.isnan(looked_up.sums(0)[0]).all()


def test_a_table_without_ids_is_fine() -> None:
    table = Table("empty", 3, TABLES[1].format)
    found = read_bags(
        Lookup("l", 0, 0, Ids("none", Columns(0, 2, 2)), "sum", 1, (BATCH, 4), 1.0),
        table,
        {"none": np.empty((0, 2), int)},
    )
    assert (found.bags, found.ids.size) == (0, 0)
