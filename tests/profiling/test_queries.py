"""The queries that are sent: as many gathers as said, rows that are held, and the accesses asked for."""

from itertools import pairwise

import numpy as np
import pytest

from repo_builder.access.powerlaw import PowerLawHotness
from repo_builder.model.dlrm import DlrmTable
from repo_builder.profiling.queries import HOT_ROWS, Accesses, draw_queries

TABLES = (DlrmTable("a", 1000, 8, 3), DlrmTable("b", 5000, 8, 1), DlrmTable("one", 1, 8, 1))
HOTNESS = PowerLawHotness(0.9, 0)
BATCH = 4


def draw(gathers: int, accesses: Accesses, held: tuple[int, ...] = (1000, 5000, 1)) -> list[dict]:
    return [dict(query) for query in draw_queries(HOTNESS, TABLES, held, BATCH, gathers, accesses)]


def rows_by_table(queries: list[dict], held: tuple[int, ...]) -> list[np.ndarray]:
    """The rows that the bags of each table gather, by the bags' lengths; every one must be of its table."""
    gathered: list[list[np.ndarray]] = [[] for _ in held]
    begins = np.cumsum([0, *held])
    for query in queries:
        ends = np.cumsum([0, *query["lengths"]])
        for bag, (begin, end) in enumerate(pairwise(ends)):
            gathered[bag % len(held)].append(query["ids"][begin:end] - begins[bag % len(held)])
    rows = [np.concatenate(parts) for parts in gathered]
    assert all(((own >= 0) & (own < count)).all() for own, count in zip(rows, held, strict=True))
    return rows


@pytest.mark.parametrize("accesses", ["spec", "hot", "cold"])
@pytest.mark.parametrize("gathers", [1, 37, 9000])
@pytest.mark.parametrize("held", [(1000, 5000, 1), (10, 50, 1)])
def test_a_query_gathers_as_many_held_rows_as_said(accesses: Accesses, gathers: int, held: tuple[int, ...]) -> None:
    queries = draw(gathers, accesses, held)
    assert 16 <= len(queries) <= 256
    for query in queries:
        assert query["ids"].shape == (gathers,) and query["lengths"].shape == (BATCH * len(TABLES),)
        assert query["ids"].dtype == query["lengths"].dtype == np.int32
        assert query["lengths"].sum() == gathers
    rows_by_table(queries, held)


def test_tables_get_their_share_by_pooling() -> None:
    a, b, one = (len(rows) for rows in rows_by_table(draw(9000, "spec"), (1000, 5000, 1)))
    assert np.array([a, b, one]) / (a + b + one) == pytest.approx([0.6, 0.2, 0.2], abs=0.01)


def test_rows_follow_the_accesses_asked_for() -> None:
    """The hottest 10% take 90% of the spec's, 10% of the even ones; hot ones are a few rows."""

    def share_of_hottest_tenth(accesses: Accesses) -> float:
        counts = np.sort(np.bincount(rows_by_table(draw(9000, accesses), (1000, 5000, 1))[1], minlength=5000))
        return counts[-500:].sum() / counts.sum()

    assert share_of_hottest_tenth("spec") == pytest.approx(0.9, abs=0.01)
    assert share_of_hottest_tenth("cold") < 0.2
    hot = np.unique(np.concatenate([query["ids"] for query in draw(9000, "hot")]))
    assert len(TABLES) <= len(hot) <= HOT_ROWS


def test_the_same_arguments_give_the_same_queries() -> None:
    for one, other in zip(draw(500, "spec"), draw(500, "spec"), strict=True):
        assert np.array_equal(one["ids"], other["ids"]) and np.array_equal(one["lengths"], other["lengths"])
