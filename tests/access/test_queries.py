"""Queries that are drawn for any model: ids where look-ups read them, the rest from samples or at random."""

from dataclasses import replace

import numpy as np
import pytest

from repo_builder.access.hotness import CountedHotness, Hotness
from repo_builder.access.powerlaw import PowerLawHotness
from repo_builder.access.queries import draw_ids, draw_queries
from repo_builder.access.query_file import QueryFile
from repo_builder.errors import InputError
from repo_builder.model.lookups import ids_read
from repo_builder.model.types import BATCH, Columns, Group, Ids, Lookup, Model, Ragged, RowFormat, Table, Tensor
from tests.hand_models import COMPUTED, DLRM, RANKER, VARYING

HOTNESS = PowerLawHotness(0.9, 0)


def test_a_dlrms_are_those_of_before() -> None:
    """Dense features first, then each table's ids: the same numbers that a seed has always given."""
    found = draw_queries(DLRM, HOTNESS, 5, 8, seed=3).inputs
    rng = np.random.default_rng(3)
    dense = rng.standard_normal((40, 5), np.float32)
    columns = [draw_ids(HOTNESS, table, (40, bag), rng) for table, bag in zip(DLRM.tables, (4, 2), strict=True)]
    assert list(found) == ["dense", "indices"] and (found["dense"] == dense).all()
    assert (found["indices"] == np.hstack(columns)).all() and found["indices"].dtype == np.int64


@pytest.fixture(scope="module")
def ranked() -> QueryFile:
    return draw_queries(RANKER, HOTNESS, 400, 8, seed=0)


def test_every_input_has_its_shape_and_type_in_each_query(ranked: QueryFile) -> None:
    types = {"dense": "f4", "items": "i8", "history": "i4", "tags": "i8", "tag_lengths": "i4", "tag_weights": "f4"}
    types |= {"user": "i8", "user_age": "f4", "is_new": "?"}
    assert ranked.queries(8) == 400
    for number in (0, 1, 399):
        query = ranked.query(number, 8)
        assert {name: array.dtype for name, array in query.items()} == {name: np.dtype(t) for name, t in types.items()}
        shapes = {name: array.shape for name, array in query.items()}
        ids = int(query["tag_lengths"].sum())
        assert shapes == {
            "dense": (8, 3), "items": (8,), "history": (8, 2, 3), "tags": (ids,), "tag_lengths": (16,),
            "tag_weights": (ids,), "user": (1, 4), "user_age": (1, 1), "is_new": (),
        }  # fmt: skip


def shares(ids: np.ndarray, hotness: Hotness, table: Table) -> tuple[float, float]:
    """Of the hottest tenth of rows: what they take of the drawn ids, and of the accesses."""
    hot = -(-table.rows // 10)
    return np.isin(ids, hotness.order(table)[:hot]).mean(), float(hotness.cdf(table)[hot])


def test_ids_follow_their_tables_accesses(ranked: QueryFile) -> None:
    """Also those of one table in two inputs of different rank, of which one has a padding id."""
    items, history = ranked.inputs["items"], ranked.inputs["history"]
    found, expected = shares(items, HOTNESS, RANKER.tables[0])
    assert found == pytest.approx(expected, abs=0.03)
    found, _ = shares(history[history != 0], HOTNESS, RANKER.tables[0])
    assert 0 not in history and found == pytest.approx(expected, abs=0.1)


def test_look_ups_read_as_many_ids_as_they_should_and_all_are_in_their_tables(ranked: QueryFile) -> None:
    read = [[ids_read(RANKER, lookup, ranked.query(i, 8)) for lookup in RANKER.lookups] for i in range(50)]
    for index, lookup in enumerate(RANKER.lookups):
        ids, rows = [each[index] for each in read], RANKER.tables[lookup.table].rows
        assert all((each >= 0).all() and (each < rows).all() for each in ids)
        mean = lookup.mean_ids * (8 if lookup.group == 0 else 1)
        assert np.mean([len(each) for each in ids]) == pytest.approx(mean, rel=0.15)


def test_an_id_that_stands_for_none_is_never_drawn_and_the_others_keep_their_shares() -> None:
    counts = np.array([50, 30, 0, 20])
    hotness = CountedHotness(lambda _: counts)
    model = replace(DLRM, tables=(Table("t", 4, RowFormat(8)),), lookups=(bag("t", 0, 2, padding=1),), inputs=(IDS,))
    ids = draw_queries(model, hotness, 1, 50_000, seed=1).inputs["ids"]
    assert np.bincount(ids.reshape(-1), minlength=4) / ids.size == pytest.approx([5 / 7, 0, 0, 2 / 7], abs=0.01)


IDS = Tensor("ids", "INT64", (BATCH, 2))


def bag(name: str, begin: int, size: int, table: int = 0, padding: int | None = None) -> Lookup:
    ids = Ids("ids", Columns(begin, size, 2), padding=padding)
    return Lookup(name, table, 0, ids, "sum", 1, (BATCH, 8), float(size))


@pytest.mark.parametrize("first", [0, 1])
def test_ids_that_two_tables_read_are_in_both(first: int) -> None:
    tables = (Table("large", 1000, RowFormat(8)), Table("small", 5, RowFormat(8)))
    both = (bag("a", 0, 2, first), bag("b", 1, 1, 1 - first))
    model = replace(DLRM, inputs=(IDS,), tables=tables, lookups=both)
    ids = draw_queries(model, PowerLawHotness(0.1, 0), 1, 500, seed=1).inputs["ids"]
    assert ids[:, 1].max() < 5 and (ids[:, 0].max() > 5) == (first == 0)


def test_columns_of_a_users_input_that_no_look_up_reads_stay_zero(ranked: QueryFile) -> None:
    user = ranked.inputs["user"]
    assert (user[:, [0, 3]] == 0).all() and 3 not in user and user.max() < 9 and user[:, 1:3].any()


def test_ragged_bags_have_the_look_ups_mean_and_their_own_block(ranked: QueryFile) -> None:
    """The first block is read by none: without a sample its bags are empty."""
    lengths = ranked.inputs["tag_lengths"].reshape(400, 2, 8)
    assert not lengths[:, 0].any() and lengths[:, 1].mean() == pytest.approx(2.5, abs=0.2)
    assert len(np.unique(lengths[:, 1])) > 4 and ranked.inputs["tags"].max() < 40
    found, expected = shares(ranked.inputs["tags"], HOTNESS, RANKER.tables[1])
    assert found == pytest.approx(expected, abs=0.03)
    assert ranked.inputs["tag_weights"].std() == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("kind", ["offsets", "ends", "lengths"])
def test_bounds_say_where_bags_begin(kind: str) -> None:
    """Read back as PyTorch's EmbeddingBag would: bags of the first block hold ids of its table only."""
    one = Lookup("one", 0, 0, Ids("ids", Ragged("bounds", kind, 0, 2)), "sum", 1, (BATCH, 8), 2.0)
    two = Lookup("two", 1, 0, Ids("ids", Ragged("bounds", kind, 1, 2)), "mean", 1, (BATCH, 8), 3.0)
    tables = (Table("one", 3, RowFormat(8)), Table("two", 1000, RowFormat(8)))
    inputs = (Tensor("ids", "INT32", ("n",)), Tensor("bounds", "INT64", ("m",)))
    model = replace(DLRM, inputs=inputs, tables=tables, lookups=(two, one))
    file = draw_queries(model, PowerLawHotness(0.1, 0), 6, 5, seed=0)
    for number in range(6):
        ids, bounds = file.query(number, 5)["ids"], file.query(number, 5)["bounds"]
        assert len(bounds) == (11 if kind == "ends" else 10)
        begins = np.cumsum(bounds) - bounds if kind == "lengths" else bounds
        bags = np.split(ids, begins[1:10])
        assert sum(map(len, bags)) == len(ids) and bounds.dtype == np.int64
        assert all((each < 3).all() for each in bags[:5])
        assert (np.concatenate(bags[5:]) >= 3).mean() > 0.9


def test_rows_of_samples_are_chosen_together() -> None:
    """What stands in one row of the samples stands in one row of a query; what is no row's own comes as it is."""
    samples = {
        "dense": np.arange(6, dtype=np.float32).reshape(2, 3),
        "items": np.array([7, 8]),
        "history": np.full((2, 2, 3), 9, np.int32),
        "tags": np.array([30, 31, 32, 33, 34]),
        "tag_lengths": np.array([1, 2, 2, 0], np.int32),
        "tag_weights": np.ones(5, np.float32),
        "user": np.array([[5, 6, 7, 8]]),
        "user_age": np.array([[33]], np.float32),
        "is_new": np.array(True),
    }
    before = {name: array.copy() for name, array in samples.items()}
    file = draw_queries(RANKER, HOTNESS, 3, 4, 0, samples)
    assert {tuple(row) for row in file.inputs["dense"].tolist()} == {(0, 1, 2), (3, 4, 5)}
    assert (file.inputs["items"] != 7).any()  # ids of look-ups are drawn all the same
    assert file.inputs["user_age"].tolist() == [[33]] * 3 and bool(file.inputs["is_new"])
    assert file.inputs["user"][:, [0, 3]].tolist() == [[5, 8]] * 3
    for number in range(3):
        query = file.query(number, 4)
        rows = query["dense"][:, 0] // 3  # which row of the samples each row is
        lengths = query["tag_lengths"].reshape(2, 4)
        assert lengths[0].tolist() == [1 if row == 0 else 2 for row in rows]  # the block that no look-up reads
        first = query["tags"][: lengths[0].sum()].tolist()
        assert first == [tag for row in rows for tag in ([30] if row == 0 else [31, 32])]
        assert len(query["tag_weights"]) == len(query["tags"])
    assert all((samples[name] == before[name]).all() for name in samples)


def test_a_matrix_that_ids_are_computed_from_is_rows_of_samples() -> None:
    with pytest.raises(InputError, match="samples: expected recorded requests, got none: the ids of item are computed"):
        draw_queries(COMPUTED, HOTNESS, 1, 8, 0)
    features = np.arange(12, dtype=np.float32).reshape(3, 4)
    found = draw_queries(COMPUTED, HOTNESS, 2, 8, 0, {"features": features}).inputs["features"]
    assert found.shape == (16, 4) and (found == features[found[:, 0].astype(int) // 4]).all()


SEQUENCE = Model(
    name="sequence",
    inputs=(
        Tensor("history", "INT64", (BATCH, "length")),
        Tensor("mask", "BOOL", (BATCH, "length")),
        Tensor("time_major", "FP32", ("length", BATCH)),
    ),
    outputs=(Tensor("next", "FP32", (BATCH, 5)),),
    tables=(Table("items", 100, RowFormat(8)),),
    groups=(Group("rows", 20.0),),
    lookups=(Lookup("history", 0, 0, Ids("history", Columns(0, 1, 1)), "none", 1, (BATCH, "length", 8), 1.0),),
    dense=replace(DLRM.dense, batched=False),
)


@pytest.mark.parametrize("length", [None, 7])
def test_a_dimension_that_varies_is_alike_in_all_inputs(length: int | None) -> None:
    """As the samples have it, else as long as the look-up's mean."""
    samples = length and {
        "history": np.zeros((3, length), np.int64),
        "mask": np.ones((3, length), bool),
        "time_major": np.tile(np.arange(3, dtype=np.float32), (length, 1)),
    }
    file = draw_queries(SEQUENCE, HOTNESS, 2, 4, 0, samples or None)
    query, size = file.query(1, 4), length or 20
    assert query["history"].shape == query["mask"].shape == (4, size) and query["time_major"].shape == (size, 4)
    assert query["mask"].all() == bool(length) and query["history"].any()
    if length:  # along the batch, wherever it stands: a column of the samples' each
        assert set(query["time_major"][0]) <= {0, 1, 2} and (query["time_major"] == query["time_major"][0]).all()


def test_bags_as_long_as_their_dimension() -> None:
    file = draw_queries(VARYING, HOTNESS, 2, 4, seed=0)
    assert file.query(1, 4)["sequence"].shape == file.query(1, 4)["mask"].shape == (4, 20)
    assert (file.inputs["sequence"] > 0).all()
    samples = {"sequence": np.ones((3, 7), np.int64), "mask": np.ones((3, 7), bool)}
    assert draw_queries(VARYING, HOTNESS, 2, 4, 0, samples).inputs["sequence"].shape == (8, 7)


def test_a_dimension_that_nothing_tells_is_named() -> None:
    model = replace(DLRM, inputs=(*DLRM.inputs, Tensor("image", "FP32", (BATCH, "pixels"))))
    with pytest.raises(InputError, match="got none: nothing tells how large dimension pixels of input image is; name"):
        draw_queries(model, HOTNESS, 1, 8, 0)


def test_more_than_memory_holds_is_refused() -> None:
    with pytest.raises(InputError, match="queries: 409,600,000,000 rows of them: expected to fit into this machine"):
        draw_queries(DLRM, HOTNESS, 100_000_000, 4096, 0)


def test_a_width_that_the_input_has_not_is_told() -> None:
    model = replace(DLRM, inputs=(DLRM.inputs[0], Tensor("indices", "INT64", (BATCH, 5))))
    with pytest.raises(InputError, match="inputs: indices: expected rows of 6, as users reads them"):
        draw_queries(model, HOTNESS, 1, 8, 0)


def test_a_seed_gives_the_same_again() -> None:
    a, b, c = (draw_queries(RANKER, HOTNESS, 3, 4, seed).to_bytes() for seed in (1, 1, 2))
    assert a == b != c
