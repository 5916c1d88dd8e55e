"""The queries that an embedding service is measured with: pure, no server needed.

What a gathered row costs depends on where it comes from: the rows of a hot shard stay in the processor's cache, those
of a cold one come from memory. So a query's rows are drawn like the model's own accesses (`spec`), and at both ends
beside them: a few hot rows only (`hot`), and all rows alike (`cold`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from repo_builder.access.hotness import Hotness
from repo_builder.model.dlrm import DlrmTable

Accesses = Literal["spec", "hot", "cold"]

HOT_ROWS = 64  # of a service: they stay in the fastest cache
_POOL = 1 << 20  # rows that a service's queries gather in all, where they are not few and large: more than caches hold
_QUERIES = (16, 256)  # fewest and most queries of one size
_SCATTER = 2_654_435_761  # a prime above any number of rows: spreads neighbours in hotness over the whole table


def draw_queries(
    hotness: Hotness,
    tables: Sequence[DlrmTable],
    held_rows: Sequence[int],
    batch: int,
    gathers: int,
    accesses: Accesses,
) -> Iterator[Mapping[str, NDArray[np.int32]]]:
    """Queries of exactly `gathers` rows for a service that holds `held_rows` of each table, one after another.

    Yields `ids` (gathers,) and `lengths` (batch * tables,), both int32: bags in the order of the query's rows, then
    the tables; a bag's share of the gathers goes with its table's pooling. Where a service holds fewer rows than the
    table has, places in the hotness order are folded. The same arguments give the same queries.
    """
    rng = np.random.default_rng(gathers)
    count = int(np.clip(_POOL // gathers, *_QUERIES))
    pooling = np.tile([table.pooling for table in tables], batch).astype(np.float64)
    lengths = rng.multinomial(gathers, pooling / pooling.sum(), count).astype(np.int32)  # (count, batch * tables)
    owners = np.repeat(np.tile(np.arange(len(tables)), batch * count), lengths.reshape(-1))  # each id's table
    ids = np.empty(owners.size, np.int32)
    begins = np.cumsum([0, *held_rows])
    for t, table in enumerate(tables):
        mine = owners == t
        places = _places(hotness, table, int(mine.sum()), accesses, len(tables), rng)
        ids[mine] = begins[t] + places * _SCATTER % held_rows[t]
    for number in range(count):
        yield {"ids": ids[number * gathers : (number + 1) * gathers], "lengths": lengths[number]}


def _places(
    hotness: Hotness, table: DlrmTable, count: int, accesses: Accesses, tables: int, rng: np.random.Generator
) -> NDArray[Any]:
    """Places in a table's hotness order: (count,) int64."""
    if accesses == "spec":
        return np.searchsorted(hotness.cdf(table), rng.random(count), side="right") - 1
    rows = table.rows if accesses == "cold" else min(table.rows, max(1, HOT_ROWS // tables))
    return rng.integers(0, rows, count)
