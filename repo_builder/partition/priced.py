"""Runs of an order's rows as services: their bytes, the time of a query's gathers, and how far replicas reach.

A service holds the rows (begin, end] of the order, and a query's gathers of them take a difference of sums
(`row_times.py`). The one with begin 0, the first, has the hottest rows, which may be stored in a format of their own:
then its time depends on its end alone, and never falls with it.
"""

from __future__ import annotations

from copy import copy
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from repo_builder.partition.accesses import ModelAccesses
from repo_builder.partition.cost import REPLICA_TOLERANCE, CostModel, Profile, RowCache, ServiceTime
from repo_builder.partition.order import Order
from repo_builder.partition.row_times import RowTimes, segment_times

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class PricedOrder:
    """An order of rows under a cost model; positions are 0 ... N, arrays of them go by broadcast."""

    def __init__(self, order: Order, model: CostModel) -> None:
        self.order, self.model = order, model
        self.times = segment_times(order, model)
        self.own_first = order.hot_row_bytes is not None
        """Whether the first service's rows have bytes and times of their own: `first`'s."""
        self.first = segment_times(order, model, hot=True) if self.own_first else self.times

    def under(self, model: CostModel) -> PricedOrder:
        """The same rows under a cost model whose rows take as long."""
        priced = copy(self)
        priced.model = model
        return priced

    def rows_s(self, begin: Ints, end: Ints) -> Floats:
        """Seconds of a query's gathers of the rows (begin, end] in one service; 0 where none are between."""
        rest: Floats = np.maximum(self.times.between(begin, end), 0.0)
        return np.where(begin == 0, self.first.between(np.zeros_like(begin), end), rest) if self.own_first else rest

    def loads(self, begin: Ints, end: Ints) -> Floats:
        """Replicas' time that the rows (begin, end] take at the target traffic."""
        return self.model.loads(self.rows_s(begin, end))

    def replicas(self, begin: Ints, end: Ints) -> Ints:
        """The fewest replicas that can gather the rows (begin, end], as `CostModel.replicas` counts."""
        return self.model.replica_counts(self.rows_s(begin, end)).astype(np.int64)

    def replica_bytes(self, begin: Ints, end: Ints) -> Ints:
        """Bytes of one replica with the rows (begin, end]; without any where an end comes before its begin."""
        held: Ints = np.maximum(self.order.bytes_between(begin, end), 0) + self.model.min_memory_bytes
        return held

    def costs(self, begin: Ints, end: Ints) -> Floats:
        """`CostModel.cost` of each service, in float64."""
        held = self.replica_bytes(begin, end).astype(np.float64)
        return self.model.replica_counts(self.rows_s(begin, end)) * held + float(self.model.service_bytes)

    def capacity(self, replicas: Ints, services: int) -> Floats:
        """The seconds of rows that so many services, with so many replicas in all, can take; none the first."""
        seconds = replicas * (1 + REPLICA_TOLERANCE) / self.model.target_qps
        return np.asarray(seconds - services * self.model.service_time.fixed_s, np.float64)

    def fits(self, begin: Ints, end: Ints, replicas: Ints, services: int = 1) -> NDArray[np.bool_]:
        """Whether `replicas` are enough for the rows (begin, end] cut into so many services, none the first."""
        load = self.model.loads(self.times.between(begin, end))
        load += (services - 1) * self.model.load(0.0)
        return _within(load, replicas)

    def tight(self, end: Ints, replicas: Ints, services: int = 1) -> Ints:
        """The smallest k so that `replicas` `fits` for the rows (k, end]; `end` if there is none. All are (n,)."""
        position = np.empty_like(end)
        for mine, times in self.times.of_ends(end):
            position[mine] = self._tight(times, end[mine], replicas[mine], services)
        return position

    def _tight(self, times: RowTimes, end: Ints, replicas: Ints, services: int) -> Ints:
        target = times.before(end) - self.capacity(replicas, services)
        position = np.asarray(np.minimum(times.reaching(target), end), np.int64)
        while True:  # the formula may miss by rounding; step over runs of equal sums at once
            fits = self.fits(position, end, replicas, services)
            lower = fits & (position > 0) & self.fits(np.maximum(position - 1, 0), end, replicas, services)
            higher = ~fits & (position < end)
            if not (lower.any() or higher.any()):
                return position
            position[lower] = times.run_begin(position[lower] - 1)
            position[higher] = np.minimum(times.run_end(position[higher]), end[higher])

    def left_tight(self, begin: Ints, replicas: Ints) -> Ints:
        """The largest j so that `replicas` are enough for the rows (begin, j]; `begin` where there is none."""
        low, high = begin, np.full_like(begin, self.order.rows)
        while (low < high).any():  # what is gathered never falls with j
            middle = (low + high + 1) // 2
            fits = _within(self.loads(begin, middle), replicas)
            low, high = np.where(fits, middle, low), np.where(fits, high, middle - 1)
        return low


def _within(load: Floats, replicas: Ints) -> NDArray[np.bool_]:
    within: NDArray[np.bool_] = load <= replicas * (1 + REPLICA_TOLERANCE)
    return within


def whole_rows_s(accesses: ModelAccesses, profile: Profile) -> float:
    """Seconds of all of a query's gathers where one service holds every row: the first one, as `PricedOrder` has it."""
    memory, cache = profile.service_time, profile.row_cache
    gathers, gathered = accesses.gathered()
    if cache is None:
        return memory.rows_s(gathers, gathered)
    small = accesses.rows_within(cache.size_bytes, memory) == sum(table.rows for table in accesses.tables)
    caches = profile.row_levels if small else (cache,)
    prices: list[RowCache | ServiceTime] = [*caches, cache if small else memory]
    sums = [(0.0, 0.0), *(accesses.hottest(each.size_bytes, memory) for each in caches), (gathers, gathered)]
    spans = zip(prices, pairwise(sums), strict=True)
    return sum(price.rows_s(after[0] - before[0], after[1] - before[1]) for price, (before, after) in spans)
