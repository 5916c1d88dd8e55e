"""Memory utility: which share of a replica's embedding rows its first queries touch, exactly in expectation.

A row that takes the share p of its table's accesses stays untouched by n independent ones with probability (1 - p)^n,
so the rows (k, j] of a hotness order expect the sum of 1 - (1 - p_i)^n of them to be touched. All ids of a query count
as accesses of their own (`access.queries` draws them so). A replica of any service sees every query that it serves
whole: of a fleet's queries each goes to one replica of each service.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from repo_builder.partition.plan import Service, Shard
from repo_builder.partition.table_accesses import Key, TableAccesses

Floats = NDArray[np.float64]

CHUNK_ROWS = 1 << 16
FIRST_QUERIES = 1000
"""The queries after which utility is read, as in ElasticRec's evaluation."""


class TouchedRows:
    """The rows of one table that independent accesses touch: sums by chunks, made once, answer any range quickly.

    `cdf` is (rows + 1,) float64 over the hotness order, `accesses` how many there are. O(rows) time once, O(CHUNK_ROWS)
    per question; 8 bytes are held per chunk.
    """

    def __init__(self, cdf: Floats, accesses: float) -> None:
        self._cdf, self._accesses = cdf, accesses
        rows = len(cdf) - 1
        chunks = [self._between(begin, min(begin + CHUNK_ROWS, rows)) for begin in range(0, rows, CHUNK_ROWS)]
        self._before = np.concatenate([[0.0], np.cumsum(chunks)])
        self._upto: dict[int, float] = {}  # tables alike are cut at the same few ranks, fleet after fleet

    def upto(self, rank: int) -> float:
        """The expected number of touched rows among the `rank` hottest."""
        if rank not in self._upto:
            chunk = rank // CHUNK_ROWS
            self._upto[rank] = float(self._before[chunk]) + self._between(chunk * CHUNK_ROWS, rank)
        return self._upto[rank]

    def _between(self, begin: int, end: int) -> float:
        share = np.minimum(np.diff(self._cdf[begin : end + 1]), 1.0)
        with np.errstate(divide="ignore"):  # log of 0 where one row takes everything: it is touched for sure
            return float(-np.expm1(self._accesses * np.log1p(-share)).sum())


@dataclass(frozen=True, slots=True)
class Utility:
    """A fleet's memory utility, over the replicas that hold rows.

    by_replica  the mean over replicas, each counting the same
    by_bytes    the touched share of all bytes of rows: replicas weighed by their rows
    """

    by_replica: float
    by_bytes: float


@dataclass(frozen=True, slots=True)
class UtilityModel:
    """Answers for all services of a spec's tables; tables alike share one `TouchedRows`."""

    tables: Sequence[TableAccesses]
    queries: int = FIRST_QUERIES
    _touched: dict[Key, TouchedRows] = field(default_factory=dict, init=False, compare=False)
    _by_name: dict[str, TableAccesses] = field(default_factory=dict, init=False, compare=False)

    def __post_init__(self) -> None:
        self._by_name.update({table.table: table for table in self.tables})

    def touched_bytes(self, service: Service) -> float:
        """Bytes of the rows that a replica's first queries are expected to touch in the service's shards."""
        return sum(self._row_bytes(service, shard) * self._touched_rows(shard) for shard in service.shards)

    def of_replica(self, service: Service) -> float:
        """The touched share of one replica's bytes of rows; the service must hold some."""
        return self.touched_bytes(service) / self._held_bytes(service)

    def of_fleet(self, services: Sequence[Service]) -> Utility:
        """The utility of all services that hold rows; at least one must."""
        holding = [service for service in services if service.shards]
        held = [self._held_bytes(service) for service in holding]
        touched = [self.touched_bytes(service) for service in holding]
        replicas = [service.deployed for service in holding]
        shares = [t / n for t, n in zip(touched, held, strict=True)]
        return Utility(
            by_replica=float(np.average(shares, weights=replicas)),
            by_bytes=float(np.dot(replicas, touched) / np.dot(replicas, held)),
        )

    def _held_bytes(self, service: Service) -> int:
        return sum(self._row_bytes(service, shard) * shard.rows for shard in service.shards)

    def _row_bytes(self, service: Service, shard: Shard) -> int:
        return self._by_name[shard.table].format.stored_as(service.row_dtype).row_bytes

    def _touched_rows(self, shard: Shard) -> float:
        table = self._by_name[shard.table]
        if table.key not in self._touched:
            self._touched[table.key] = TouchedRows(table.cdf, table.gathers * self.queries)
        touched = self._touched[table.key]
        return touched.upto(shard.end) - touched.upto(shard.begin)
