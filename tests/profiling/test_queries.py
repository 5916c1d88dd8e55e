"""The queries that are sent: as many gathers as said, rows that are held, and the accesses asked for."""

from collections.abc import Mapping
from itertools import pairwise

import numpy as np
import pytest

from repo_builder.access.powerlaw import PowerLawHotness
from repo_builder.model.dlrm import Dlrm, DlrmTable, Weights, dlrm_model
from repo_builder.model.types import Model
from repo_builder.partition.plan import Plan, Service, Shard
from repo_builder.profiling.points import Accesses
from repo_builder.profiling.queries import bags_of, draw_queries, gathered_row_bytes, one_row_a_bag
from repo_builder.repository.wiring import Holding, wire
from tests.hand_models import RANKER

TABLES = (DlrmTable("a", 1000, 8, 3), DlrmTable("b", 5000, 8, 1), DlrmTable("one", 1, 8, 1))
MODEL = dlrm_model("m", Dlrm(3, (8,), (1,), TABLES, "int64", Weights("random")))
HOTNESS = PowerLawHotness(0.9, 0)
BATCH = 4


def wired(model: Model, held: Mapping[int, int]) -> Holding:
    """A service that holds so many rows of the model's tables."""
    shards = tuple(Shard(model.tables[place].name, 0, rows) for place, rows in held.items())
    service = Service("rows", "embedding", "cpu", 1, 1, 0, 0.0, 0.0, shards)
    return wire(model, Plan(model.name, "tiered", (service,)))[0]


def draw(gathers: int, accesses: Accesses, held: tuple[int, ...] = (1000, 5000, 1)) -> list[dict]:
    rows = dict(enumerate(held))
    return [dict(query) for query in draw_queries(HOTNESS, MODEL, wired(MODEL, rows), rows, BATCH, gathers, accesses)]


def test_a_dlrms_are_those_of_before() -> None:
    """One draw of lengths by the tables' pooling, then each table's rows: the numbers that a size has always given."""
    rng, gathers, held = np.random.default_rng(37), 37, (10, 50, 1)
    pooling = np.tile([3.0, 1.0, 1.0], BATCH)
    lengths = rng.multinomial(gathers, pooling / pooling.sum(), 256)
    owners = np.repeat(np.tile(np.arange(3), BATCH * 256), lengths.reshape(-1))
    ids = np.empty(owners.size, np.int64)
    for t, table in enumerate(TABLES):
        places = np.searchsorted(HOTNESS.cdf(table), rng.random((owners == t).sum()), side="right") - 1
        ids[owners == t] = sum(held[:t]) + places * 2_654_435_761 % held[t]
    found = draw(gathers, "spec", held)
    assert [query["lengths"].tolist() for query in found] == lengths.tolist()
    assert np.concatenate([query["ids"] for query in found]).tolist() == ids.tolist()


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


@pytest.mark.parametrize("accesses", ["spec", "cold"])
@pytest.mark.parametrize("gathers", [1, 37, 9000])
@pytest.mark.parametrize("held", [(1000, 5000, 1), (10, 50, 1)])
def test_a_query_gathers_as_many_held_rows_as_said(accesses: Accesses, gathers: int, held: tuple[int, ...]) -> None:
    queries = draw(gathers, accesses, held)
    assert 4 <= len(queries) <= 256
    for query in queries:
        assert query["ids"].shape == (gathers,) and query["lengths"].shape == (BATCH * len(TABLES),)
        assert query["ids"].dtype == query["lengths"].dtype == np.int32
        assert query["lengths"].sum() == gathers
    rows_by_table(queries, held)


def test_tables_get_their_share_by_pooling() -> None:
    a, b, one = (len(rows) for rows in rows_by_table(draw(9000, "spec"), (1000, 5000, 1)))
    assert np.array([a, b, one]) / (a + b + one) == pytest.approx([0.6, 0.2, 0.2], abs=0.01)


def test_rows_follow_the_accesses_asked_for() -> None:
    """The hottest 10% take 90% of the spec's, 10% of the even ones."""

    def share_of_hottest_tenth(accesses: Accesses) -> float:
        counts = np.sort(np.bincount(rows_by_table(draw(9000, accesses), (1000, 5000, 1))[1], minlength=5000))
        return counts[-500:].sum() / counts.sum()

    assert share_of_hottest_tenth("spec") == pytest.approx(0.9, abs=0.01)
    assert share_of_hottest_tenth("cold") < 0.2


def test_cached_rows_are_the_first_of_each_table() -> None:
    """768 bytes hold eight rows of 32 of each; all of them are asked for alike."""
    rows = {0: 1000, 1: 5000, 2: 1}
    queries = [dict(q) for q in draw_queries(HOTNESS, MODEL, wired(MODEL, rows), rows, BATCH, 9000, "cached", 768)]
    found = rows_by_table(queries, (1000, 5000, 1))
    for own, within in zip(found, (8, 8, 1), strict=True):
        counts = np.bincount(own, minlength=within)
        assert len(counts) == within and counts == pytest.approx(np.full(within, len(own) / within), rel=0.1)


def test_the_same_arguments_give_the_same_queries() -> None:
    for one, other in zip(draw(500, "spec"), draw(500, "spec"), strict=True):
        assert np.array_equal(one["ids"], other["ids"]) and np.array_equal(one["lengths"], other["lengths"])


HELD = {0: 50, 1: 40, 2: 9}
WIRED = wired(RANKER, HELD)


def bags_by_hand(query: dict) -> list[tuple[str, list[int], bool]]:
    """Table, rows in it and whether weighted, of each bag, as the wire's description says.

    Matrices by dim: users (16), items (8), tags (4). Group 0: two rows of a unit of items (one bag and two), then of
    one of tags, weighted; group 1: a unit of users, two bags.
    """
    order = [*(4 * [("items", False)] * 3), *(4 * [("tags", True)]), *(2 * [("users", False)])]
    ids = np.concatenate([query["ids"], query["ids_1"]])
    ends = np.cumsum([0, *query["lengths"], *query["lengths_1"]])
    return [
        (table, ids[begin:end].tolist(), weighted)
        for (table, weighted), (begin, end) in zip(order, pairwise(ends), strict=True)
    ]


@pytest.mark.parametrize("gathers", [4, 32, 1000])
def test_a_service_of_any_model_is_asked_by_its_wiring(gathers: int) -> None:
    """Several groups, dims, weights; a tensor may be empty."""
    queries = list(draw_queries(HOTNESS, RANKER, WIRED, HELD, 4, gathers, "spec"))
    for query in queries:
        assert query.keys() == {"ids", "lengths", "weights", "ids_1", "lengths_1"}
        assert len(query["ids"]) + len(query["ids_1"]) == gathers
        bags = bags_by_hand(dict(query))
        for table, ids, _ in bags:
            rows = HELD[("items", "tags", "users").index(table)]
            assert all(0 <= row < rows for row in ids), table  # the first of its matrix, which it has alone
        assert len(query["weights"]) == sum(len(ids) for _, ids, weighted in bags if weighted)
        assert query["weights"].dtype == np.float32 and query["ids_1"].dtype == np.int32


def test_bags_have_their_look_ups_share_of_the_gathers() -> None:
    """item 1, seen 6 in two bags, tag 2.5 of four rows; who 2 of one."""
    bags = bags_of(RANKER, WIRED, 4)
    assert bags.means.tolist() == [1, 3, 3] * 4 + [2.5] * 4 + [1, 1]
    assert bags.tables.tolist() == [0] * 12 + [1] * 4 + [2] * 2


def test_joined_queries_are_one_of_more_rows() -> None:
    """Unit by unit, as the fan-out router joins them: each unit's bags of all queries, then the next one's."""
    (query, *_) = draw_queries(HOTNESS, RANKER, WIRED, HELD, 3 * 4, 3 * 1000, "spec")
    assert len(query["lengths"]) + len(query["lengths_1"]) == 3 * (12 + 4) + 2
    assert len(query["ids"]) + len(query["ids_1"]) == 3000
    assert bags_of(RANKER, WIRED, 3 * 4).tables.tolist() == [0] * 36 + [1] * 12 + [2] * 2


def test_a_gathered_row_has_the_bytes_of_its_look_ups_by_their_means() -> None:
    """item 1 and seen 6 of 8 dims, tag 2.5 of 4, who 2 of 16."""
    bags = bags_of(RANKER, WIRED, 1)
    sizes = np.array([32, 16, 64])[bags.tables]
    assert gathered_row_bytes(RANKER, WIRED) == pytest.approx((sizes * bags.means).sum() / bags.means.sum())


def test_a_row_a_bag() -> None:
    held = wired(RANKER, {0: 1, 1: 1, 2: 1})
    query = one_row_a_bag(RANKER, held, 4)
    assert {name: array.tolist() for name, array in query.items()} == {
        "ids": [0] * 16, "lengths": [1] * 16, "weights": [0.5] * 4, "ids_1": [0, 0], "lengths_1": [1, 1],
    }  # fmt: skip
    query = one_row_a_bag(MODEL, wired(MODEL, {0: 1, 1: 1, 2: 1}), 2)
    assert query["ids"].tolist() == [0, 1, 2, 0, 1, 2] and query["lengths"].tolist() == [1] * 6
