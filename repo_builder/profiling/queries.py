"""The queries that services are measured with; no server is needed.

Of an embedding service: what a gathered row costs depends on where it comes from. Hot rows stay in the processor's
caches, cold ones come from memory. So a query's rows are drawn like the model's own accesses (`spec`), and beside them
all alike: of those that lie together in a few bytes, as a hot service's do (`cached`), and of all (`cold`). Of a dense
service: what the model's router and embedding services would give it, vectors random.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repo_builder.access.hotness import AccessedTable, Hotness
from repo_builder.access.queries import ranks_at
from repo_builder.model.arrays import Array, to_wire
from repo_builder.model.types import Columns, Model
from repo_builder.profiling import perf_analyzer
from repo_builder.profiling.models import Models
from repo_builder.profiling.points import Accesses, ServiceLoad
from repo_builder.repository.design import Design
from repo_builder.repository.wiring import Holding, Share, at_shard

Query = Mapping[str, NDArray[Any]]
"""Of a service: `ids`, `lengths` (n,) int32 and `weights` (n,) float32 of its groups, by name."""

_POOL = 1 << 20  # rows that a service's queries gather in all, where they are not few and large: more than caches hold
_QUERIES = (4, 256)  # fewest and most queries of one size
_SCATTER = 2_654_435_761  # a prime above any number of rows: spreads neighbours in hotness over the whole table


@dataclass(frozen=True, slots=True)
class QueryBags:
    """All bags of a query of a service, one share after another: tables (bags,) the index of each one's table, means
    (bags,) how many ids it has on average, weighted (bags,) whether these have weights; share (bags,) whose it is.
    """

    shares: tuple[Share, ...]
    tables: NDArray[np.int64]
    means: NDArray[np.float64]
    weighted: NDArray[np.bool_]
    share: NDArray[np.int64]


def bags_of(model: Model, held: Holding, batch: int) -> QueryBags:
    """The bags of a query of `batch` rows: those of a unit row by row, as they stand on the wire."""
    tables: list[int] = []
    means: list[float] = []
    weighted: list[bool] = []
    share: list[int] = []
    for number, each in enumerate(held.shares):
        rows = model.groups[each.group].rows_at(batch)
        for unit in each.units:
            lookups = [model.lookups[index] for index in unit.lookups]
            tables += rows * [lookup.table for lookup in lookups for _ in range(lookup.count)]
            means += rows * [lookup.mean_ids / lookup.count for lookup in lookups for _ in range(lookup.count)]
            weighted += rows * unit.bags * [unit.weighted]
            share += rows * unit.bags * [number]
    return QueryBags(held.shares, np.array(tables), np.array(means, float), np.array(weighted), np.array(share))


def draw_queries(
    hotness: Hotness,
    model: Model,
    held: Holding,
    held_rows: Mapping[int, int],
    batch: int,
    gathers: int,
    accesses: Accesses,
    within_bytes: int | None = None,
) -> Iterator[Query]:
    """Queries of exactly `gathers` rows for a service that holds `held_rows` of each table, one after another. Joined
    queries are one of as many times more rows and gathers.

    A bag's share of the gathers goes with its look-up's mean. Where a service holds fewer rows than the table has,
    ranks in hotness are folded. Cached rows are the first of each table, of as many of the `within_bytes`. The same
    arguments give the same queries.
    """
    rng = np.random.default_rng(gathers)
    bags, count = bags_of(model, held, batch), int(np.clip(_POOL // gathers, *_QUERIES))
    lengths = rng.multinomial(gathers, bags.means / bags.means.sum(), count)  # (count, bags)
    owners = np.repeat(np.tile(bags.tables, count), lengths.reshape(-1))  # each id's table
    ids = np.empty(owners.size, np.int32)
    for index, rows in held_rows.items():
        mine = owners == index
        table, drawn = model.tables[index], int(mine.sum())
        if within_bytes is None:
            ids[mine] = held.bases[index] + _ranks(hotness, table, drawn, accesses, rng) * _SCATTER % rows
        else:
            within = max(1, within_bytes // len(held_rows) // table.format.row_bytes)
            ids[mine] = held.bases[index] + rng.integers(0, min(rows, within), drawn)
    for number in range(count):
        yield _query(bags, ids[number * gathers : (number + 1) * gathers], lengths[number])


def gathered_row_bytes(model: Model, held: Holding) -> float:
    """What a row that a query gathers of the service has in the mean."""
    bags = bags_of(model, held, 1)
    sizes = np.array([table.format.row_bytes for table in model.tables])
    return float(np.average(sizes[bags.tables], weights=bags.means))


def one_row_a_bag(model: Model, held: Holding, batch: int) -> Query:
    """A query for a service that holds one row of every table."""
    bags = bags_of(model, held, batch)
    bases = np.array([held.bases[index] for index in range(len(model.tables))], np.int32)
    return _query(bags, bases[bags.tables], np.ones(len(bags.tables), np.int64))


def _query(bags: QueryBags, ids: NDArray[np.int32], lengths: NDArray[np.int64]) -> Query:
    """The tensors of the groups; ids' weights are all alike."""
    share = np.repeat(bags.share, lengths)
    weighted = np.repeat(bags.weighted, lengths)
    query: dict[str, NDArray[Any]] = {}
    for number, each in enumerate(bags.shares):
        mine = share == number
        query[at_shard("ids", each.group)] = ids[mine]
        query[at_shard("lengths", each.group)] = lengths[bags.share == number].astype(np.int32)
        if each.weighted_bags:
            query[at_shard("weights", each.group)] = np.full(int((mine & weighted).sum()), 0.5, np.float32)
    return query


def _ranks(
    hotness: Hotness, table: AccessedTable, count: int, accesses: Accesses, rng: np.random.Generator
) -> NDArray[Any]:
    """Ranks in a table's hotness: (count,) int64."""
    if accesses == "spec":
        return ranks_at(hotness.cdf(table), rng.random(count))
    return rng.integers(0, table.rows, count)


def dense_load(models: Models, hotness: Hotness, folder: Path, rows: int, in_flight: int) -> ServiceLoad:
    """Queries of so many rows, `in_flight` of them always under way.

    Where all inputs are floats of rows that can be joined, perf_analyzer makes them; else they are written below
    `folder`: a query as the model's router and embedding services would give it, its looked-up vectors random.
    """
    design = models.design
    if design.joins and all(tensor.datatype == "FP32" for tensor in design.model.dense.inputs):
        return ServiceLoad("random", in_flight, rows)
    data = folder / f"dense-{rows}.json"
    if not data.exists():
        query = dense_query(design, models.tensors(hotness, rows))
        perf_analyzer.write_queries(data, _by_row(query) if design.joins else [query])
    return ServiceLoad(data, in_flight, rows if design.joins else 1)


def dense_query(design: Design, tensors: Mapping[str, Array]) -> dict[str, Array]:
    """What the dense model is given for a query; tensors: the model's inputs, and what its ids graph makes of them."""
    rng, model = np.random.default_rng(0), design.model
    query = {tensor.name: to_wire(tensors[tensor.name], tensor.datatype) for tensor in model.dense.inputs}
    for partial in design.sums:
        shape = (group_rows(model, partial.group, tensors), partial.width)
        query[partial.name] = rng.standard_normal(shape, np.float32)
    for group, (name, width) in zip(_averaged(model), design.divisors.items(), strict=True):
        query[name] = np.ones((group_rows(model, group, tensors), width), np.float32)
    return query


def group_rows(model: Model, group: int, tensors: Mapping[str, Array]) -> int:
    """How many rows of a group a query has, read off the tensors of a look-up."""
    ids = model.lookups[model.in_group(group)[0]].ids
    if isinstance(ids.layout, Columns):
        array = tensors[ids.tensor]
        return array.size // (ids.layout.width or array.shape[-1])
    bounds = tensors[ids.layout.bounds].size - (ids.layout.kind == "ends")
    return bounds // ids.layout.blocks


def _averaged(model: Model) -> list[int]:
    return [group for group in range(len(model.groups)) if model.has_means(group)]


def _by_row(query: Mapping[str, Array]) -> list[dict[str, Array]]:
    """A row a query, without the axis along which perf_analyzer joins them; [batch] is [batch, 1] there."""
    rows = len(next(iter(query.values())))
    return [{name: np.atleast_1d(array[row]) for name, array in query.items()} for row in range(rows)]
