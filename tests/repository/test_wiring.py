"""What services hold and are asked: units, matrices, columns, by hand and against brute force."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from repo_builder.model.types import BATCH, Columns, Dense, Group, Ids, Lookup, Model, Ragged, RowFormat, Table, Tensor
from repo_builder.partition.plan import Plan, Service, Shard
from repo_builder.repository.wiring import MATRIX_ALIGNMENT, Matrix, is_unpooled, joined, partials, pieces, wire
from tests.toy_source import TOY


def service(name: str, shards: list[Shard]) -> Service:
    return Service(name, "embedding", "cpu", 1, 1, 0, 1.0, 1.0, tuple(shards))


def plan(model: Model, *services: Service) -> Plan:
    dense = Service("dense", "dense", "cpu", 1, 1, 0, 0.0, 1.0, ())
    return Plan(model.name, "tiered", (dense, *services))


CUT = plan(
    TOY,
    service("hot", [Shard("users", 0, 30), Shard("tags", 0, 5), Shard("items", 0, 100)]),
    service("cold", [Shard("items", 100, 500), Shard("tags", 5, 40), Shard("users", 30, 90)]),
)


def test_a_service_has_a_matrix_a_format_and_a_share_a_group() -> None:
    """The toy's look-ups: item and seen of items (8), tag of tags (4) with weights; who of users (16), group 1."""
    hot, cold = wire(TOY, CUT)
    assert hot.matrices == (Matrix(30, RowFormat(16)), Matrix(100, RowFormat(8)), Matrix(5, RowFormat(4)))
    assert [matrix.rows for matrix in cold.matrices] == [60, 400, 35]
    assert hot.bases == cold.bases == {0: 0, 1: 0, 2: 0}
    batch, user = hot.shares
    assert [(unit.matrix, unit.weighted, unit.lookups, unit.first_bags) for unit in batch.units] == [
        (1, False, (0, 1), (0, 1)),
        (2, True, (2,), (0,)),
    ]
    assert [(unit.bags, unit.columns) for unit in batch.units] == [(2, 6), (1, None)]
    assert (batch.width, dict(batch.columns), batch.bags, batch.weighted_bags) == (20, {0: 0, 1: 8, 2: 16}, 3, 1)
    assert batch.asks == ("ids", "lengths", "weights")
    assert [(unit.matrix, unit.lookups, unit.bags, unit.columns) for unit in user.units] == [(0, (3,), 2, 2)]
    assert (user.group, user.width, user.asks) == (1, 32, ("ids", "lengths"))
    assert [(each.name, each.group, each.width) for each in partials([hot, cold])] == [
        ("hot_sums", 0, 20),
        ("hot_sums_1", 1, 32),
        ("cold_sums", 0, 20),
        ("cold_sums_1", 1, 32),
    ]
    assert [(each.name, each.width, dict(each.columns)) for each in joined(TOY)] == [
        ("sums", 20, {0: 0, 1: 8, 2: 16}),
        ("sums_1", 32, {3: 0}),
    ]


def test_matrices_begin_at_whole_lines() -> None:
    hot, _ = wire(TOY, CUT)
    assert [hot.offset_bytes(i) for i in range(3)] == [0, 30 * 64, 30 * 64 + 100 * 32]
    odd = plan(TOY, service("a", [Shard("users", 0, 90), Shard("items", 0, 499), Shard("tags", 0, 40)]))
    (held,) = wire(TOY, odd)
    assert [held.offset_bytes(i) for i in range(3)] == [0, 90 * 64, 90 * 64 + 499 * 32 + 32]


def test_tables_of_one_format_stand_one_after_another_in_the_models_order() -> None:
    tables = (Table("a", 10, RowFormat(4)), Table("b", 20, RowFormat(8)), Table("c", 30, RowFormat(4)))
    lookups = tuple(
        Lookup(f"l{i}", i, 0, Ids("ids", Columns(i, 1, 3)), "none", 1, (BATCH, table.format.dim), 1.0)
        for i, table in enumerate(tables)
    )
    model = replace(TOY, tables=tables, groups=(Group(BATCH),), lookups=lookups)
    (held,) = wire(model, plan(model, service("s", [Shard("c", 0, 30), Shard("b", 5, 20), Shard("a", 0, 10)])))
    assert held.matrices == (Matrix(15, RowFormat(8)), Matrix(40, RowFormat(4)))
    assert held.bases == {0: 0, 1: 0, 2: 10}
    assert dict(held.shares[0].columns) == {1: 0, 0: 8, 2: 12}
    assert pieces(model, held.shares[0], joined(model)[0]) == [(0, 4, 8), (8, 0, 4), (12, 12, 4)]


@st.composite
def cut_models(draw: st.DrawFn) -> tuple[Model, Plan]:
    """Any tables, look-ups and groups; each table in one to three services."""
    dims = draw(st.lists(st.sampled_from([1, 4, 8]), min_size=1, max_size=5))
    groups = draw(st.integers(1, 3))
    tables = tuple(Table(f"t{i}", 9, RowFormat(dim)) for i, dim in enumerate(dims))
    lookups = []
    for i in range(draw(st.integers(1, 7))):
        table, count, weighted = draw(st.sampled_from(range(len(tables)))), draw(st.integers(1, 3)), draw(st.booleans())
        group, ragged = draw(st.integers(0, groups - 1)), draw(st.booleans())
        layout = Ragged("ends", "ends") if ragged else Columns(0, 2, 2 * count)
        count = 1 if ragged else count
        ids = Ids(f"ids{i}", layout, "weights" if weighted else None)
        shape = (BATCH, count * dims[table])
        lookups.append(Lookup(f"l{i}", table, group, ids, "sum", count, shape, 2.0))
    inputs = (Tensor("ids", "INT64", (BATCH, 1)),)
    dense = Dense((), 1.0, 0, batched=False)
    model = Model("m", inputs, (), tables, (Group(BATCH),) * groups, tuple(lookups), dense)
    cuts = [draw(st.sampled_from([(9,), (4, 9), (2, 5, 9)])) for _ in tables]
    services = [
        service(f"s{k}", [Shard(f"t{i}", (0, *cut)[k], cut[k]) for i, cut in enumerate(cuts) if k < len(cut)])
        for k in range(max(map(len, cuts)))
    ]
    return model, plan(model, *services)


@given(cut_models())
def test_every_column_has_one_place_and_goes_where_its_look_up_is(cut: tuple[Model, Plan]) -> None:
    """Each service's columns are numbered by (look-up, column), moved by the pieces, and found where they belong."""
    model, made = cut
    wholes = joined(model)
    for held in wire(model, made):
        shards = {shard.table for shard in held.service.shards}
        asked = {i for i, lookup in enumerate(model.lookups) if model.tables[lookup.table].name in shards}
        assert {i for share in held.shares for i in share.columns} == asked
        assert sum(matrix.rows for matrix in held.matrices) == sum(shard.rows for shard in held.service.shards)
        assert [matrix.format.dim for matrix in held.matrices] == sorted(
            {model.tables[model.lookups[i].table].format.dim for i in asked}
            | {table.format.dim for table in model.tables if table.name in shards},
            reverse=True,
        )
        for i in range(len(held.matrices)):
            assert held.offset_bytes(i) % MATRIX_ALIGNMENT == 0
        for share in held.shares:
            keys = [(held.matrices[unit.matrix].format.dim, not unit.weighted) for unit in share.units]
            assert keys == sorted(keys, reverse=True) and len(set(keys)) == len(keys)
            assert [i for unit in share.units for i in unit.lookups] == list(share.columns)
            sums = np.full(share.width, -1)
            for i, begin in share.columns.items():
                width = model.width(model.lookups[i])
                assert (sums[begin : begin + width] == -1).all()
                sums[begin : begin + width] = 100 * i + np.arange(width)
            assert (sums >= 0).all()
            whole = wholes[share.group]
            target = np.full(whole.width, -1)
            for begin, end, columns in pieces(model, share, whole):
                target[end : end + columns] = sums[begin : begin + columns]
            for i, begin in whole.columns.items():
                width = model.width(model.lookups[i])
                expected = 100 * i + np.arange(width) if i in share.columns else np.full(width, -1)
                np.testing.assert_array_equal(target[begin : begin + width], expected)


def un_pooled(weights: str | None, mode: str, layout: Columns | Ragged) -> Lookup:
    return Lookup("x", 0, 0, Ids("ids", layout, weights), mode, 1, ("batch", 8), 1.0)


def test_rows_as_they_are_have_units_of_their_own() -> None:
    """A history of five items and a tag, un-pooled, beside the sum of the history: no bags, and no columns of sums."""
    tables = (Table("items", 500, RowFormat(8)), Table("tags", 40, RowFormat(4)))
    lookups = (
        Lookup("seen", 0, 0, Ids("history", Columns(0, 1, 5)), "none", 5, (BATCH, 5, 8), 5.0),
        Lookup("sum", 0, 0, Ids("history", Columns(0, 5, 5)), "sum", 1, (BATCH, 8), 5.0),
        Lookup("tag", 1, 0, Ids("tag", Columns(0, 1, 1)), "none", 1, (BATCH, 4), 1.0),
        Lookup("weighted", 0, 0, Ids("tag", Columns(0, 1, 1), weights="w"), "none", 1, (BATCH, 8), 1.0),
    )
    inputs = (Tensor("history", "INT64", (BATCH, 5)), Tensor("tag", "INT64", (BATCH, 1)))
    model = Model("m", inputs, (), tables, (Group(BATCH),), lookups, Dense((), 1.0, 0, batched=True))
    services = (
        service("hot", [Shard("items", 0, 100), Shard("tags", 0, 40)]),
        service("cold", [Shard("items", 100, 500)]),
    )
    (hot,), (cold,) = (held.shares for held in wire(model, plan(model, *services), unpooled=True))
    assert [(unit.matrix, unit.weighted, unit.lookups, unit.bags, unit.columns) for unit in hot.units] == [
        (0, False, (1,), 1, 5),
        (0, False, (0,), 0, 5),
        (0, True, (3,), 1, 1),
        (1, False, (2,), 0, 1),
    ]
    assert (hot.bags, hot.width, dict(hot.columns)) == (2, 16, {1: 0, 3: 8})
    assert [unit.lookups for unit in hot.unpooled] == [(0,), (2,)] and hot.answers == ("sums", "rows")
    assert [unit.lookups for unit in cold.unpooled] == [(0,)]
    whole = joined(model)[0]
    assert (whole.width, dict(whole.columns)) == (40 + 8 + 4 + 8, {0: 0, 1: 40, 2: 48, 3: 52})
    assert pieces(model, hot, whole) == [(0, 40, 8), (8, 52, 8)]
    (summed, _) = wire(model, plan(model, *services))
    assert not summed.shares[0].unpooled and summed.shares[0].bags == 5 + 1 + 1 + 1


def test_only_rows_alone_are_answered_as_they_are() -> None:
    """A bag of one id, whose sum and mean are its row, is no other."""
    for mode in ("none", "sum", "mean"):
        assert is_unpooled(un_pooled(None, mode, Columns(0, 1, 3)))
    for other in (
        un_pooled("w", "none", Columns(0, 1, 3)),
        un_pooled("w", "sum", Columns(0, 1, 3)),
        un_pooled(None, "sum", Columns(0, 3, 1)),
        un_pooled(None, "none", Columns(0, 2, 4)),
        un_pooled(None, "none", Columns(0, 0, None)),
        un_pooled(None, "none", Ragged("bounds", "ends")),
    ):
        assert not is_unpooled(other)
