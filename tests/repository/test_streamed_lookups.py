"""Look-ups of rows that are kept while their tables are streamed are what a loop over bags says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from repo_builder.errors import InputError
from repo_builder.repository.streamed_lookups import StreamedLookups
from tests.toy_source import TOY, ToySource


def test_sums_are_a_loops() -> None:
    """The toy's query: un-pooled, averaged, weighted and ragged; rows come in blocks of seven."""
    source = ToySource(TOY)
    query = source.query(9, seed=3)
    looked_up = StreamedLookups(TOY, query)
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
        found, size = looked_up.sums(place, looked_up.rows(TOY.lookups[place].table))
        np.testing.assert_allclose(found, np.array(each), atol=1e-6)
        assert (size >= np.abs(found) - 1e-12).all()


def test_what_was_not_seen_agrees_with_nothing() -> None:
    looked_up = StreamedLookups(TOY, ToySource(TOY).query(2, seed=0))
    assert np.isnan(looked_up.sums(0, looked_up.rows(0))[0]).all()


@pytest.mark.parametrize(("from_end", "bad"), [(False, -1), (False, 500), (True, -501), (True, 500)])
def test_an_id_that_is_none_of_the_tables_is_told_as_it_came(from_end: bool, bad: int) -> None:
    query = ToySource(TOY).query(3, seed=0)
    query["item"] = np.array([3, bad, 4])
    lookups = (replace(TOY.lookups[0], ids=replace(TOY.lookups[0].ids, from_end=from_end)), *TOY.lookups[1:])
    with pytest.raises(InputError, match=f"samples: item: id {bad} is none of the 500 rows of items"):
        StreamedLookups(replace(TOY, lookups=lookups), query)
