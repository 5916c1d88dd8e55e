"""The merged order against a plain sort, and CDFs that are none."""

import numpy as np
import pytest
from numpy.typing import NDArray

from repo_builder.errors import PlanError
from repo_builder.model.row_rule import RowRule
from repo_builder.model.types import RowFormat
from repo_builder.partition.cost import ServiceTime
from repo_builder.partition.merging import merged_order, ranks_in_tables
from repo_builder.partition.table_accesses import TableAccesses, check_cdf
from tests.partition.helpers import row_gathers, zipf_cdf

TIME = ServiceTime(1e-4, 1e-8)


def _counted(hits: list[int]) -> NDArray[np.float64]:
    ordered = np.sort(np.array(hits))[::-1]
    return np.concatenate([[0.0], np.cumsum(ordered) / ordered.sum()])


def _tables() -> list[TableAccesses]:
    alike = _counted([8, 4, 2, 2, 0, 0])
    return [
        TableAccesses("A", alike, 16, RowFormat(2)),
        TableAccesses("B", _counted([5, 1, 1, 1]), 8, RowFormat(2)),
        TableAccesses("C", alike, 16, RowFormat(2)),
    ]


def test_merge_equals_a_stable_sort_of_all_rows() -> None:
    tables = _tables()
    rows = [(-hits, i) for i, table in enumerate(tables) for hits in row_gathers(table).tolist()]
    order = sorted(rows, key=lambda row: row[0])
    merged = merged_order(tables, TIME)
    assert merged.gathers == pytest.approx(np.cumsum([0.0] + [-hits for hits, _ in order]))
    assert (merged.rows, merged.row_bytes) == (len(rows), 8)
    for cut, ranks in zip(range(len(rows) + 1), ranks_in_tables(tables, range(len(rows) + 1), TIME), strict=True):
        assert ranks == [sum(owner == i for _, owner in order[:cut]) for i in range(3)]


def test_rows_of_several_sizes_stand_by_gathers_and_byte() -> None:
    """Ties go to the first table's size of row, then to the earlier table."""
    alike = _counted([8, 4, 2, 2, 0, 0])
    tables = [
        TableAccesses("A", alike, 16, RowFormat(2)),
        TableAccesses("B", _counted([6, 4, 4, 2]), 16, RowFormat(4)),
        TableAccesses("C", alike, 16, RowFormat(2)),
        TableAccesses("D", _counted([8, 1, 1, 1]), 11, RowFormat(6)),
    ]
    rows = [
        (-hits / table.row_bytes, [8, 16, 24].index(table.row_bytes), i, hits, table.row_bytes)
        for i, table in enumerate(tables)
        for hits in row_gathers(table).tolist()
    ]
    order = sorted(rows, key=lambda row: row[:3])
    merged = merged_order(tables, TIME)
    assert merged.gathers == pytest.approx(np.cumsum([0.0] + [row[3] for row in order]))
    held = merged.bytes_between(np.array(0), np.arange(len(rows) + 1))
    assert held.tolist() == np.cumsum([0] + [row[4] for row in order]).tolist()
    for cut, ranks in enumerate(ranks_in_tables(tables, range(len(rows) + 1), TIME)):
        assert ranks == [sum(row[2] == i for row in order[:cut]) for i in range(4)]


def test_rows_that_cost_by_the_byte_stand_by_the_time_of_a_byte() -> None:
    """Where a row costs nothing but its bytes, size is all one; with both prices it lies between."""
    tables = [
        TableAccesses("A", _counted([8, 4, 2, 2]), 16, RowFormat(2)),
        TableAccesses("B", _counted([7, 5, 3, 1]), 16, RowFormat(8)),
    ]
    for time in (ServiceTime(1e-4, 0.0, 1e-9), ServiceTime(1e-4, 1e-8, 1e-9), ServiceTime(1e-4, 0.0)):
        rows = [
            (-hits * (time.rows_s(1, table.row_bytes) or 1.0) / table.row_bytes, i, hits, table.row_bytes)
            for i, table in enumerate(tables)
            for hits in row_gathers(table).tolist()
        ]
        order = sorted(rows, key=lambda row: row[:2])
        merged, ends = merged_order(tables, time), np.arange(len(rows) + 1)
        assert merged.gathers == pytest.approx(np.cumsum([0.0] + [row[2] for row in order]))
        gathered = np.cumsum([0.0] + [row[2] * row[3] for row in order])
        assert merged.gathered_bytes_before(ends) == pytest.approx(gathered)
        for cut, ranks in enumerate(ranks_in_tables(tables, ends.tolist(), time)):
            assert ranks == [sum(row[1] == i for row in order[:cut]) for i in range(2)]


def test_with_two_formats_rows_stand_by_the_colder_ones_bytes() -> None:
    """int8 rows take dim + 8 bytes in float32's place; a table that came in int8 has them in the first service too."""
    rule, alike = RowRule(hot="fp32", cold="int8"), _counted([8, 4, 2, 2, 0, 0])
    tables = [
        TableAccesses("A", alike, 16, RowFormat(8), rule),
        TableAccesses("B", _counted([6, 4, 4, 2]), 16, RowFormat(24), rule),
        TableAccesses("C", alike, 16, RowFormat(8, "int8"), rule),
    ]
    sizes = [(16, 32), (32, 96), (16, 16)]  # cold, hot
    assert [table.sizes for table in tables] == sizes
    rows = [
        (-hits / sizes[i][0], i, sizes[i]) for i, table in enumerate(tables) for hits in row_gathers(table).tolist()
    ]
    order = sorted(rows, key=lambda row: row[:2])
    merged, ends = merged_order(tables, TIME), np.arange(len(rows) + 1)
    assert merged.bytes_between(np.array(0), ends).tolist() == np.cumsum([0] + [row[2][1] for row in order]).tolist()
    cold = merged.bytes_between(np.array(1), ends) + order[0][2][0]
    assert cold[1:].tolist() == np.cumsum([row[2][0] for row in order]).tolist()
    for cut, ranks in enumerate(ranks_in_tables(tables, range(len(rows) + 1), TIME)):
        assert ranks == [sum(row[1] == i for row in order[:cut]) for i in range(3)]


def test_rounding_in_a_cdf_does_not_tear_equal_rows_apart() -> None:
    """Rows of one access each differ in float64 steps; pooled, they are exactly equal again."""
    table = TableAccesses("A", _counted([1000, *[1] * 9999]), 100, RowFormat(1))
    steps = row_gathers(table)
    assert len(np.unique(np.diff(table.cdf)[1:])) > 1
    assert (np.diff(steps) <= 0).all() and len(np.unique(steps[1:])) < 10
    assert steps.sum() == pytest.approx(100, rel=1e-12)


def test_prefix_stays_accurate_over_many_rows() -> None:
    cdf = zipf_cdf(1_000_000)
    prefix = merged_order([TableAccesses("A", cdf, 4096, RowFormat(32))], TIME).gathers
    assert np.abs(prefix - cdf * 4096).max() < 1e-9
    assert (np.diff(prefix) >= 0).all()


@pytest.mark.parametrize(
    ("cdf", "message"),
    [
        ([0, 0.5, 1], "expected 4 values for 3 rows"),
        ([0, 0.5, 0.8, 0.9], "expected 0 first and 1 last"),
        ([0.1, 0.5, 0.8, 1], "expected 0 first and 1 last"),
        ([0, 0.5, np.nan, 1], "expected finite values, got nan"),
        ([0, 0.8, 0.7, 1], "expected non-decreasing values, got a fall after rank 1"),
    ],
)
def test_bad_cdfs_are_named(cdf: list[float], message: str) -> None:
    with pytest.raises(PlanError, match=f"table A: cdf: {message}"):
        check_cdf(TableAccesses("A", np.array(cdf, np.float64), 1, RowFormat(1)), 3)


def test_a_cdf_in_another_order_than_hottest_first_is_an_error() -> None:
    with pytest.raises(PlanError, match="expected the hottest rows first"):
        TableAccesses("A", np.array([0, 0.1, 1.0]), 1, RowFormat(1)).steps()


def test_splitting_works_on_kinds_of_tables_not_on_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred thousand tables alike take as many searches as three."""
    cdf = np.linspace(0, 1, 11)
    searches = []
    real = np.searchsorted
    monkeypatch.setattr(np, "searchsorted", lambda *words, **more: searches.append(1) or real(*words, **more))
    for count in (3, 3000):
        searches.clear()
        tables = [TableAccesses(f"t{i}", cdf, 4, RowFormat(1)) for i in range(count)]
        (ranks,) = ranks_in_tables(tables, [5 * count + 1], TIME)
        assert sum(ranks) == 5 * count + 1 and len(searches) < 200
