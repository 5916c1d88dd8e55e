"""Runs of an order's rows as services: their bytes, the time of a query's gathers, and how far replicas reach.

A service holds the rows (begin, end] of the order. The one with begin 0, the first, has the hottest rows: they may be
stored in a format of their own, and as many of them as the processor's caches hold are gathered from there. All other
gathers come from memory (`cost.RowCache`). So the time of the rows of any other service is a difference of sums, and
that of the first one's depends on its end alone, and never falls with it.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from repo_builder.partition.accesses import ModelAccesses
from repo_builder.partition.cost import REPLICA_TOLERANCE, CostModel, Profile
from repo_builder.partition.order import Order

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

BLOCK_ROWS = 1 << 12


class PricedOrder:
    """An order of rows under a cost model; positions are 0 ... N, arrays of them go by broadcast."""

    def __init__(self, order: Order, model: CostModel) -> None:
        self.order, self.model = order, model
        cache = model.row_cache
        self.cached = order.rows_within(cache.size_bytes) if cache else 0
        self.own_first = self.cached > 0 or order.hot_row_bytes is not None
        """Whether the first service's rows have bytes or times of their own."""

    @cached_property
    def _rest(self) -> tuple[Floats, float]:
        """(N + 1,) sums that grow with the time of the first rows in a service that is not the first, and a unit's
        seconds.
        """
        time, order = self.model.service_time, self.order
        if isinstance(order.row_bytes, int):
            return order.gathers, time.rows_s(1, order.row_bytes)
        return time.rows_s(order.gathers, order.gathered_bytes_before(slice(None))), 1.0

    @property
    def prefix(self) -> Floats:
        """(N + 1,) float64, non-decreasing, and concave over the rows' bytes: the sums that services divide."""
        return self._rest[0]

    @property
    def unit_s(self) -> float:
        """Seconds of one of `prefix`."""
        return self._rest[1]

    def rows_s(self, begin: Ints, end: Ints) -> Floats:
        """Seconds of a query's gathers of the rows (begin, end] in one service; 0 where none are between."""
        prefix, unit_s = self._rest
        rest: Floats = unit_s * np.maximum(prefix[end] - prefix[begin], 0.0)
        return np.where(begin == 0, self._first_s(end), rest) if self.own_first else rest

    def _first_s(self, end: Ints) -> Floats:
        order, time = self.order, self.model.service_time
        hits = np.minimum(end, self.cached)
        gathers, hot_gathers = order.gathers[end], order.gathers[hits]
        gathered, hot_gathered = (order.gathered_bytes_before(position, hot=True) for position in (end, hits))
        seconds: Floats = time.rows_s(gathers - hot_gathers, gathered - hot_gathered)
        return seconds + self.model.row_cache.rows_s(hot_gathers, hot_gathered) if self.model.row_cache else seconds

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
        """The most of `prefix` that so many services, with so many replicas in all, can take; none the first."""
        seconds = replicas * (1 + REPLICA_TOLERANCE) / self.model.target_qps
        return np.asarray((seconds - services * self.model.service_time.fixed_s) / self.unit_s, np.float64)

    def fits(self, begin: Ints, end: Ints, replicas: Ints, services: int = 1) -> NDArray[np.bool_]:
        """Whether `replicas` are enough for the rows (begin, end] cut into so many services, none the first."""
        load = self.model.loads(self.unit_s * (self.prefix[end] - self.prefix[begin]))
        load += (services - 1) * self.model.load(0.0)
        return _within(load, replicas)

    def tight(self, end: Ints, replicas: Ints, services: int = 1) -> Ints:
        """The smallest k so that `replicas` `fits` for the rows (k, end]; `end` if there is none."""
        target = self.prefix[end] - self.capacity(replicas, services)
        position = np.minimum(np.searchsorted(self.prefix, target, side="left"), end)
        while True:  # the formula may miss by rounding; step over runs of equal sums at once
            fits = self.fits(position, end, replicas, services)
            hotter = np.searchsorted(self.prefix, self.prefix[np.maximum(position - 1, 0)], side="left")
            lower = fits & (position > 0) & self.fits(hotter, end, replicas, services)
            higher = ~fits & (position < end)
            if not (lower.any() or higher.any()):
                return np.asarray(position, np.int64)
            colder = np.minimum(np.searchsorted(self.prefix, self.prefix[position], side="right"), end)
            position = np.where(lower, hotter, np.where(higher, colder, position))

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
    time, cache = profile.service_time, profile.row_cache
    gathers, gathered = accesses.gathered()
    if cache is None:
        return time.rows_s(gathers, gathered)
    hits, hit_bytes = accesses.hottest(cache.size_bytes, time)
    return cache.rows_s(hits, hit_bytes) + time.rows_s(gathers - hits, gathered - hit_bytes)


def steps_above(least: float, prefix: Floats, scale: float) -> int:
    """How many steps of `prefix`, never falling, are above `least` when scaled; (N + 1,) float64, scale >= 0.

    A step is at most the rise of the block that it is in, and rounding keeps that so: only blocks that rise enough are
    looked at, and nothing as long as the order is made.
    """
    edges = np.append(np.arange(0, len(prefix) - 1, BLOCK_ROWS), len(prefix) - 1)
    risen = np.flatnonzero(scale * np.diff(prefix[edges]) > least)
    blocks = (prefix[edges[i] : edges[i + 1] + 1] for i in risen.tolist())
    return sum(int(np.count_nonzero(scale * np.diff(block) > least)) for block in blocks)
