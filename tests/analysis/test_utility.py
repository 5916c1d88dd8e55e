"""Expected touched rows against a Monte Carlo simulation and a plain sum; fleets by hand."""

from dataclasses import replace

import numpy as np
import pytest

from repo_builder.access.powerlaw import PowerLawHotness
from repo_builder.access.queries import IdSampler
from repo_builder.analysis.utility import CHUNK_ROWS, TouchedRows, Utility, UtilityModel
from repo_builder.model.dlrm import DlrmTable
from repo_builder.model.types import RowFormat
from repo_builder.partition.plan import Service, Shard
from repo_builder.partition.table_accesses import TableAccesses
from tests.partition.helpers import zipf_cdf


def service(shards: tuple[Shard, ...], replicas: int, added: int = 0) -> Service:
    return Service("s", "embedding", "cpu", 1, replicas, 10, 1.0, 1.0, shards, added=added)


def test_touched_rows_agree_with_monte_carlo() -> None:
    """Queries are drawn id by id; a shard's touched rows are counted, over and over."""
    table, queries, batch = DlrmTable("A", 5000, 4, 3), 100, 8
    hotness, rng = PowerLawHotness(0.8, 0), np.random.default_rng(5)
    rank = np.empty(table.rows, np.int64)
    rank[hotness.order(table)] = np.arange(table.rows)
    ranges = [(0, 50), (50, 700), (700, 5000), (0, 5000)]
    sampler, runs = IdSampler(hotness, table), 400
    counted = np.zeros((runs, len(ranges)))
    for run in range(runs):
        touched = np.unique(rank[sampler.draw((queries, batch * table.pooling), rng)])
        counted[run] = [((touched >= begin) & (touched < end)).sum() for begin, end in ranges]
    model = UtilityModel([TableAccesses("A", hotness.cdf(table), batch * table.pooling, RowFormat(1))], queries)
    expected = [model.touched_bytes(service((Shard("A", begin, end),), 1)) / 4 for begin, end in ranges]
    errors = counted.std(axis=0) / np.sqrt(runs)
    assert np.abs(counted.mean(axis=0) - expected) == pytest.approx(0, abs=4 * errors.max())
    assert np.all(np.abs(counted.mean(axis=0) - expected) < 4 * errors + 1e-9)


def test_chunks_add_up_to_the_plain_sum() -> None:
    cdf, accesses = zipf_cdf(3 * CHUNK_ROWS + 17), 50_000
    touched = TouchedRows(cdf, accesses)
    plain = np.concatenate([[0.0], np.cumsum(1 - (1 - np.diff(cdf)) ** accesses)])
    for rank in (0, 1, CHUNK_ROWS - 1, CHUNK_ROWS, CHUNK_ROWS + 1, 2 * CHUNK_ROWS, 3 * CHUNK_ROWS + 17):
        assert touched.upto(rank) == pytest.approx(plain[rank], rel=1e-9)


def test_a_row_that_takes_everything_is_touched_and_no_other() -> None:
    touched = TouchedRows(np.array([0.0, 1.0, 1.0, 1.0]), 5)
    assert (touched.upto(1), touched.upto(3)) == (1.0, 1.0)


def test_a_fleet_is_averaged_by_replicas_and_by_bytes() -> None:
    """Two uniform tables; one access touches one row: half of A's two rows of 6 bytes, a tenth of B's ten of 4."""
    tables = [
        TableAccesses("A", np.linspace(0, 1, 3), 1, RowFormat(3, "fp16")),
        TableAccesses("B", np.linspace(0, 1, 11), 1, RowFormat(1)),
    ]
    services = [service((Shard("A", 0, 2),), 2, added=1), service((Shard("B", 0, 10),), 1), service((), 7)]
    found = UtilityModel(tables, queries=1).of_fleet(services)
    assert found == Utility(pytest.approx((3 * 0.5 + 0.1) / 4), pytest.approx((3 * 6 + 4) / (3 * 12 + 40)))


def test_bytes_are_those_that_a_service_stores() -> None:
    """A row of 8 numbers takes 32 bytes, and 16 as int8; a table that came in int8 takes these wherever it is."""
    uniform = np.linspace(0, 1, 5)
    tables = [TableAccesses("A", uniform, 1, RowFormat(8)), TableAccesses("B", uniform, 1, RowFormat(8, "int8"))]
    model = UtilityModel(tables, queries=1)
    shards = (Shard("A", 0, 4), Shard("B", 0, 2))
    hot, cold = service(shards, 1), replace(service(shards, 1), row_dtype="int8")
    assert model.touched_bytes(hot) == pytest.approx(32 + 16 / 2)
    assert model.touched_bytes(cold) == pytest.approx(16 + 16 / 2)
    assert model.of_replica(cold) == pytest.approx(24 / (4 * 16 + 2 * 16))
    assert model.of_fleet([hot, cold]).by_bytes == pytest.approx((40 + 24) / (160 + 96))
