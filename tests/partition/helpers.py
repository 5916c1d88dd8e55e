"""Independent oracles and small inputs for the partitioner's tests."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import accumulate, combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repo_builder.model.dlrm import DlrmTable
from repo_builder.partition.cost import CostModel, DenseTime, RowCache, ServiceTime
from repo_builder.partition.order import Order
from repo_builder.partition.table_accesses import TableAccesses
from repo_builder.spec import Spec, parse_spec

DENSE_TIME = DenseTime(fixed_s=1e-4, per_flop_s=1.5e-11)
"""What no new measurement of the default profile moves."""


def plain_cost(model: CostModel, rows_bytes: int, rows_s: float) -> int:
    """The paper's cost, written out anew."""
    load = model.target_qps * (model.service_time.fixed_s + rows_s)
    whole = round(load) if load <= round(load) * (1 + 1e-9) and load >= round(load) else math.ceil(load)
    return max(1, whole) * (rows_bytes + model.min_memory_bytes) + model.service_bytes


Price = RowCache | ServiceTime


def row_seconds(
    order: Order, row_bytes: int | NDArray[np.int64], beyond: Price, caches: Sequence[RowCache], rows: int | None = None
) -> tuple[list[int], list[float]]:
    """Bytes and time of the first rows, by the smallest cache that each is within; neighbours of one size share theirs
    until none takes more than a hotter one.
    """
    gathers = np.diff(order.gathers)[:rows]
    sizes = (np.full(order.rows, row_bytes) if isinstance(row_bytes, int) else np.diff(row_bytes))[:rows]
    prices = [beyond] * len(sizes)
    for cache in reversed(caches):
        within = int((np.cumsum(sizes) <= cache.size_bytes).sum())
        prices[:within] = [cache] * within
    each = [g * (p.per_row_s + p.per_byte_s * int(size)) for g, p, size in zip(gathers, prices, sizes, strict=True)]
    if not isinstance(row_bytes, int):
        return sizes.tolist(), each
    pools: list[tuple[float, int]] = []
    for seconds in each:
        pools.append((seconds, 1))
        while len(pools) > 1 and pools[-1][0] / pools[-1][1] > pools[-2][0] / pools[-2][1]:
            (last_s, last_rows), (before_s, before_rows) = pools.pop(), pools.pop()
            pools.append((before_s + last_s, before_rows + last_rows))
    return sizes.tolist(), [seconds / rows for seconds, rows in pools for _ in range(rows)]


class PlainRows:
    """An order's rows one by one: their bytes and times, in the first service and in any other."""

    def __init__(self, order: Order, model: CostModel) -> None:
        self.model, cache = model, model.row_cache
        self.sums: list[tuple[list[int], list[float], list[float]]] = []
        for row_bytes in (order.row_bytes if order.hot_row_bytes is None else order.hot_row_bytes, order.row_bytes):
            sizes, seconds = row_seconds(order, row_bytes, model.service_time, [cache] if cache else [])
            small: list[float] = []
            if cache and model.row_levels:
                cached = sum(held <= cache.size_bytes for held in accumulate(sizes))
                _, small = row_seconds(order, row_bytes, cache, model.row_levels, cached)
            self.sums.append(([0, *accumulate(sizes)], *([0.0, *accumulate(each)] for each in (small, seconds))))

    def seconds(self, begin: int, end: int) -> float:
        """Of a service with the rows begin ... end - 1, which is small or holds more than the caches do."""
        _, small, large = self.sums[begin > 0]
        return small[end] - small[begin] if end < len(small) else large[end] - large[begin]

    def cost(self, begin: int, end: int) -> int:
        """Of such a service."""
        held = self.sums[begin > 0][0]
        return plain_cost(self.model, held[end] - held[begin], self.seconds(begin, end))


def brute_force(order: Order, model: CostModel, s_max: int) -> tuple[float, int]:
    """The least cost over all sets of cuts, and the fewest services that reach it."""
    rows, plain = order.rows, PlainRows(order, model)
    best = (math.inf, 0)
    for services in range(1, min(s_max, rows) + 1):
        for inner in combinations(range(1, rows), services - 1):
            cuts = pairwise((0, *inner, rows))
            cost = sum(plain.cost(begin, end) for begin, end in cuts)
            best = min(best, (cost, services))
    return best


def quadratic(order: Order, model: CostModel, s_max: int) -> tuple[float, int]:
    """The same by the recurrence over all rows."""
    rows, plain = order.rows, PlainRows(order, model)
    best, answer = [0.0] + [math.inf] * rows, (math.inf, 0)
    for services in range(1, s_max + 1):
        best = [min((best[k] + plain.cost(k, j) for k in range(j)), default=math.inf) for j in range(rows + 1)]
        answer = min(answer, (best[rows], services))
    return answer


def zipf_cdf(rows: int, alpha: float = 1.05) -> NDArray[np.float64]:
    """(rows + 1,) float64 from 0 to 1."""
    sums = np.cumsum(np.arange(1, rows + 1) ** -alpha)
    return np.concatenate([[0.0], sums / sums[-1]])


def row_gathers(table: TableAccesses) -> NDArray[np.float64]:
    """What a query gathers of each row, hottest first: (rows,) float64."""
    return np.concatenate(list(table.steps().blocks())) * table.gathers


class GivenHotness:
    """Hotness from CDFs by table name; one for all under the name ''."""

    def __init__(self, cdfs: Mapping[str, NDArray[np.float64]]) -> None:
        self._cdfs = cdfs

    def cdf(self, table: DlrmTable) -> NDArray[np.float64]:
        return self._cdfs[table.name] if table.name in self._cdfs else self._cdfs[""]

    def order(self, table: DlrmTable) -> NDArray[np.uint32]:
        return np.arange(table.rows, dtype=np.uint32)


def small_spec(tables: list[dict[str, Any]], name: str = "m", target_qps: float = 3000.0) -> Spec:
    """A spec with these tables (dim 4 unless they say another)."""
    document = {
        "name": name,
        "dense_features": 3,
        "bottom_mlp": [8, 4],
        "top_mlp": [5, 1],
        "tables": [{"dim": 4, **table} for table in tables],
        "weights": {"source": "random"},
        "access": {"source": "powerlaw", "locality": 0.9},
        "serving": {"target_qps": target_qps, "batch": 32},
    }
    return parse_spec(document, Path("spec.yaml"))
