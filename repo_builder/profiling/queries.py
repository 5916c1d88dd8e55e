"""The queries that an embedding service is measured with: pure, no server needed.

What a gathered row costs depends on where it comes from: the rows of a hot shard stay in the processor's cache, those
of a cold one come from memory. So a query's rows are drawn like the model's own accesses (`spec`), and at both ends
beside them: a few hot rows only (`hot`), and all rows alike (`cold`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from repo_builder.access.hotness import AccessedTable, Hotness
from repo_builder.model.types import BATCH, Group, Model
from repo_builder.repository.wiring import Holding, Share, at_shard

Accesses = Literal["spec", "hot", "cold"]
Query = Mapping[str, NDArray[Any]]
"""Of a service: `ids`, `lengths` (n,) int32 and `weights` (n,) float32 of its groups, by name."""

HOT_ROWS = 64  # of a service: they stay in the fastest cache
_POOL = 1 << 20  # rows that a service's queries gather in all, where they are not few and large: more than caches hold
_QUERIES = (16, 256)  # fewest and most queries of one size
_SCATTER = 2_654_435_761  # a prime above any number of rows: spreads neighbours in hotness over the whole table


@dataclass(frozen=True, slots=True)
class Bags:
    """All bags of a query of a service, one share after another: tables (bags,) the place of each one's table, means
    (bags,) how many ids it has on average, weighted (bags,) whether these have weights; share (bags,) whose it is.
    """

    shares: tuple[Share, ...]
    tables: NDArray[np.int64]
    means: NDArray[np.float64]
    weighted: NDArray[np.bool_]
    share: NDArray[np.int64]

    @property
    def filled(self) -> NDArray[np.int64]:
        """The first bag of each tensor, where there is more than one: none of them may be empty."""
        _, firsts = np.unique(2 * self.share + self.weighted, return_index=True)
        alone = len(firsts) == 1
        return np.empty(0, np.int64) if alone else np.asarray(firsts, np.int64)


def bags_of(model: Model, held: Holding, batch: int) -> Bags:
    """The bags of a query of `batch` rows: those of a unit row by row, as they stand on the wire."""
    tables: list[int] = []
    means: list[float] = []
    weighted: list[bool] = []
    share: list[int] = []
    for number, each in enumerate(held.shares):
        rows = _rows(model.groups[each.group], batch)
        for unit in each.units:
            lookups = [model.lookups[place] for place in unit.lookups]
            tables += rows * [lookup.table for lookup in lookups for _ in range(lookup.count)]
            means += rows * [lookup.mean_ids / lookup.count for lookup in lookups for _ in range(lookup.count)]
            weighted += rows * unit.bags * [unit.weighted]
            share += rows * unit.bags * [number]
    return Bags(held.shares, np.array(tables), np.array(means, float), np.array(weighted), np.array(share))


def _rows(group: Group, batch: int) -> int:
    if isinstance(group.rows, int):
        return group.rows
    return batch if group.rows == BATCH else max(1, round(group.mean_rows * batch))


def draw_queries(
    hotness: Hotness,
    model: Model,
    held: Holding,
    held_rows: Mapping[int, int],
    batch: int,
    gathers: int,
    accesses: Accesses,
) -> Iterator[Query]:
    """Queries of exactly `gathers` rows for a service that holds `held_rows` of each table, one after another.

    A bag's share of the gathers goes with its look-up's mean. Where a service holds fewer rows than the table has,
    places in the hotness order are folded. The same arguments give the same queries.
    """
    rng = np.random.default_rng(gathers)
    bags, count = bags_of(model, held, batch), int(np.clip(_POOL // gathers, *_QUERIES))
    filled = bags.filled if len(bags.filled) < gathers else bags.filled[:0]
    lengths = rng.multinomial(gathers - len(filled), bags.means / bags.means.sum(), count)  # (count, bags)
    lengths[:, filled] += 1
    owners = np.repeat(np.tile(bags.tables, count), lengths.reshape(-1))  # each id's table
    ids = np.empty(owners.size, np.int32)
    for place, rows in held_rows.items():
        mine = owners == place
        places = _places(hotness, model.tables[place], int(mine.sum()), accesses, len(held_rows), rng)
        ids[mine] = held.bases[place] + places * _SCATTER % rows
    for number in range(count):
        yield _query(bags, ids[number * gathers : (number + 1) * gathers], lengths[number])


def one_row_a_bag(model: Model, held: Holding, batch: int) -> Query:
    """A query for a service that holds one row of every table."""
    bags = bags_of(model, held, batch)
    bases = np.array([held.bases[place] for place in range(len(model.tables))], np.int32)
    return _query(bags, bases[bags.tables], np.ones(len(bags.tables), np.int64))


def _query(bags: Bags, ids: NDArray[np.int32], lengths: NDArray[np.int64]) -> Query:
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


def _places(
    hotness: Hotness, table: AccessedTable, count: int, accesses: Accesses, tables: int, rng: np.random.Generator
) -> NDArray[Any]:
    """Places in a table's hotness order: (count,) int64."""
    if accesses == "spec":
        return np.searchsorted(hotness.cdf(table), rng.random(count), side="right") - 1
    rows = table.rows if accesses == "cold" else min(table.rows, max(1, HOT_ROWS // tables))
    return rng.integers(0, rows, count)
