"""The time of an order's rows: sums over positions, of which a service takes a difference.

Whether the caches hold a row is told by its position: by the bytes of the rows up to it, from the hottest on. A service
all of whose rows lie within `CostModel.row_cache` is small: each takes what the smallest of `row_levels` that it is
within says. In any other service rows within `row_cache` take what that says, and the others what memory takes.

A cache does not know which rows are the hottest, and finds those about as hot as its last ones as often. So around the
end of a level rows share their time, and the sums are the least concave ones that are nowhere below those by levels.
Then no row takes more of a query's time than a hotter one, on which `chain.py` rests; all rows together take what they
did; and where all are alike each takes the mean. Rows that differ in size have no such order (`dp.py`): they share
nothing.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from repo_builder.partition.cost import CostModel, RowCache, ServiceTime
from repo_builder.partition.order import Order

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

BLOCK_ROWS = 1 << 12


@dataclass(frozen=True, slots=True)
class RowTimes:
    """Seconds of a query's gathers of the first j of N rows in services of a kind: 0 of none, non-decreasing, and
    concave where rows have one size.

    head     (B + 1,) float64: of the first 0 ... B rows
    gathers  (N + 1,) float64: of more rows it is unit_s * gathers + offset_s, so that nothing as long as the order is
             made where rows have one size
    """

    head: Floats
    gathers: Floats
    unit_s: float = 0.0
    offset_s: float = 0.0

    @property
    def total_s(self) -> float:
        """Of all rows."""
        return float(self.before(np.array(len(self.gathers) - 1)))

    def before(self, position: Ints) -> Floats:
        """Seconds of the rows before each position; same shape."""
        beyond: Floats = self.unit_s * self.gathers[position] + self.offset_s
        last = len(self.head) - 1
        return np.where(position <= last, self.head[np.minimum(position, last)], beyond) if last else beyond

    def reaching(self, seconds: Floats) -> Ints:
        """The first position before which rows take so long, up to rounding; N + 1 where none do."""
        found = np.searchsorted(self.head, seconds, side="left")
        if len(self.head) == len(self.gathers) or not self.unit_s:
            return found
        beyond = np.searchsorted(self.gathers, (seconds - self.offset_s) / self.unit_s, side="left")
        return np.where(found < len(self.head), found, beyond)

    def run_begin(self, position: Ints) -> Ints:
        """A position before which rows take as long as before each: an earlier one where gathers tell of it."""
        last = len(self.head) - 1
        within = np.searchsorted(self.head, self.head[np.minimum(position, last)], side="left")
        beyond = np.maximum(np.searchsorted(self.gathers, self.gathers[position], side="left"), last)
        return np.where(position <= last, within, beyond)

    def run_end(self, position: Ints) -> Ints:
        """The first position after each before which rows take longer, or more is gathered; N + 1 where none is."""
        last = len(self.head) - 1
        within = np.searchsorted(self.head, self.head[np.minimum(position, last)], side="right")
        beyond = np.searchsorted(self.gathers, self.gathers[np.maximum(position, last)], side="right")
        return np.where((position < last) & (within <= last), within, beyond)

    def steps_above(self, least_s: float) -> int:
        """How many rows take longer than that. A step is at most the rise of the block that it is in, and rounding
        keeps that so: only blocks that rise enough are looked at, and nothing as long as the order is made.
        """
        edges = np.append(np.arange(0, len(self.gathers) - 1, BLOCK_ROWS), len(self.gathers) - 1)
        risen = np.flatnonzero(np.diff(self.before(edges)) > least_s)
        blocks = (self.before(np.arange(edges[i], edges[i + 1] + 1)) for i in risen.tolist())
        return sum(int(np.count_nonzero(np.diff(block) > least_s)) for block in blocks)


@dataclass(frozen=True, slots=True)
class SegmentTimes:
    """Seconds of the rows (begin, end] in one service: of a small one differences of `small`, where the end is at most
    `cached`, else of `large`. No row takes more of a small one, so they never fall as begin falls or end rises.
    """

    cached: int
    small: RowTimes
    large: RowTimes

    @property
    def two_prices(self) -> bool:
        """Whether there are services of either kind, and a row takes more of a large one."""
        return self.small is not self.large and self.cached < len(self.large.gathers) - 1

    def between(self, begin: Ints, end: Ints) -> Floats:
        """Of services (begin, end], by broadcast; negative where an end comes before its begin."""
        large: Floats = self.large.before(end) - self.large.before(begin)
        if self.small is self.large:
            return large
        begin, end_within = (np.minimum(each, self.cached) for each in (begin, end))
        return np.where(end <= self.cached, self.small.before(end_within) - self.small.before(begin), large)

    def of_ends(self, end: Ints) -> list[tuple[NDArray[np.bool_], RowTimes]]:
        """Which of the services with these ends divide which sums."""
        small = end <= self.cached
        return [(mine, times) for mine, times in ((small, self.small), (~small, self.large)) if mine.any()]


def segment_times(order: Order, model: CostModel, hot: bool = False) -> SegmentTimes:
    """Of rows stored as in services that are not the first, or `hot`, as in the first."""
    memory, cache = model.service_time, model.row_cache
    if cache is None:
        large = row_times(order, memory, (), hot)
        return SegmentTimes(0, large, large)
    cached, large = order.rows_within(cache.size_bytes, hot), row_times(order, memory, (cache,), hot)
    if not cached or not model.row_levels:
        return SegmentTimes(cached, large, large)
    return SegmentTimes(cached, row_times(order.first_rows(cached), cache, model.row_levels, hot), large)


def row_times(order: Order, memory: RowCache | ServiceTime, caches: Sequence[RowCache], hot: bool = False) -> RowTimes:
    """By levels of the caches, by their size, and the price of the rows beyond; `hot` as in `segment_times`."""
    ends = [0, *(order.rows_within(cache.size_bytes, hot) for cache in caches), order.rows]
    prices: list[RowCache | ServiceTime] = [*caches, memory]
    levels = [_Level(*span, price) for span, price in zip(pairwise(ends), prices, strict=True) if span[0] < span[1]]
    row_bytes = order.stored(hot)
    if not isinstance(row_bytes, int):
        return RowTimes(_by_levels(order, levels, order.rows, hot), order.gathers)
    pools = _pools(order.gathers, levels, row_bytes)
    cached = max((level.end for level in levels if level.price is not memory), default=0)
    rows = max([cached, *(end for _, end in pools)])
    head = _by_levels(order, levels, rows, hot)
    for begin, end in pools:
        head[begin : end + 1] = np.linspace(head[begin], head[end], end - begin + 1)
    unit_s = memory.rows_s(1.0, float(row_bytes))
    offset_s = float(head[rows] - unit_s * order.gathers[rows])
    head[rows] = unit_s * order.gathers[rows] + offset_s  # rounded as what follows
    return RowTimes(np.minimum(head, head[rows]), order.gathers, unit_s, offset_s)


@dataclass(frozen=True, slots=True)
class _Level:
    """The rows begin + 1 ... end, and the price of each."""

    begin: int
    end: int
    price: RowCache | ServiceTime


def _by_levels(order: Order, levels: Sequence[_Level], rows: int, hot: bool) -> Floats:
    """(rows + 1,) seconds of the first rows, each at its level's price."""
    seconds = np.zeros(rows + 1)
    for level in levels:
        span = slice(level.begin, min(level.end, rows) + 1)
        if level.begin < rows:
            own = level.price.rows_s(order.gathers[span], order.gathered_bytes_before(span, hot))
            seconds[span] = seconds[level.begin] + (own - own[0])
    return seconds


@dataclass(frozen=True, slots=True)
class _Stepped:
    """Seconds of the first j rows of one size, each at its level's price or at the mean of its pool (begin, end]."""

    gathers: Floats
    levels: Sequence[_Level]
    row_bytes: int
    pools: Sequence[tuple[int, int]]

    def before(self, j: int) -> float:
        for begin, end in reversed(self.pools):
            if begin < j < end:
                return (self.before(begin) * (end - j) + self.before(end) * (j - begin)) / (end - begin)
        seconds = 0.0
        for level in self.levels:
            gathers = float(self.gathers[min(j, level.end)] - self.gathers[min(j, level.begin)])
            seconds += level.price.rows_s(gathers, self.row_bytes * gathers)
        return seconds

    def step(self, j: int) -> float:
        """Of row j alone."""
        return self.before(j) - self.before(j - 1)

    def pool(self, kink: int, last: int) -> tuple[int, int]:
        """Where the straight line touches the sums up to `kink` and those from there to `last` that is nowhere below
        either; both are concave.
        """

        def holds(j: int) -> bool:
            """Whether row j takes no less than a row of the run behind it that takes the most in the mean."""
            slope = self.step(j)
            end = _last(kink, last, lambda k: self.step(k) >= slope)
            return self.before(end) - self.before(j) <= slope * (end - j)

        begin = _last(0, kink, holds)
        rows_s = self.before(begin)
        return begin, _last(kink, last, lambda k: self.step(k) * (k - begin) >= self.before(k) - rows_s)


def _pools(gathers: Floats, levels: Sequence[_Level], row_bytes: int) -> list[tuple[int, int]]:
    """The runs (begin, end] of rows around levels' ends that share their time; a later one may hold an earlier one.

    O(levels * log(N)^2) time.
    """
    pools: list[tuple[int, int]] = []
    for level, beyond in pairwise(levels):
        begin, end = _Stepped(gathers, levels, row_bytes, pools).pool(level.end, beyond.end)
        if begin < level.end < end:
            pools.append((begin, end))
    return pools


def _last(low: int, high: int, holds: Callable[[int], bool]) -> int:
    """The last of low ... high such that `holds` is true of all after low up to it; it is of none after the first that
    it is not true of.
    """
    return low + bisect_left(range(low + 1, high + 1), True, key=lambda j: not holds(j))
