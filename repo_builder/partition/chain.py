"""The exact optimum for rows of one size, found over the few cuts that can be optimal.

Problem. Rows 1 ... N stand hottest first; G[j] is the seconds that a query's gathers of the first j of them take
(non-decreasing, and concave: `row_times.py` sees to that where the caches hold some). Cut them into at most S services;
one that holds rows (k, j] with r replicas costs r * ((j - k) * row_bytes + min_memory) and must be able to gather its
rows: G[j] - G[k] <= cap(r), the most whose load still counts as r replicas, so cap(r) = r / target_qps - fixed_s up to
the tolerance. Find the cheapest choice of cuts c and replicas r.

Which cuts can be optimal. Among the optimal choices take one with the fewest services, then the fewest pairs i < j with
r_i < r_j, then the smallest sum of cuts. Call a cut between services i and i + 1 *falling* if r_i >= r_{i+1} and
*rising* if r_i < r_{i+1}. For fixed r the cost is linear in the position of a cut, with slope (r_i - r_{i+1}) *
row_bytes.

 1. A falling cut cannot move left, or it would: that is no dearer (no service runs empty: it would be saved). What
    stops it is service i + 1: its begin is the smallest k with G[c_{i+1}] - G[k] <= cap(r_{i+1}).
 2. A rising cut cannot move right, as that is cheaper: it is the largest j with G[j] - G[c_{i-1}] <= cap(r_i).
 3. At a rising cut, exchange the replica counts: service i, from k, gets q = r_{i+1} and service i + 1, to l, gets
    p = r_i < q; cut at t, the smallest position with G[l] - G[t] <= cap(p). By concavity the last rows of (k, l] gather
    no more than the first, so (t, l] is no shorter than service i was, and the exchange is no dearer and less rising:
    it must be infeasible, G[t] - G[k] > cap(q). As row t did not fit into (t, l], with its gathers h_t,
    G[l] - G[k] > cap(p) + cap(q) - h_t.                                                              (*)
    So k is the smallest position with G[l] - G[k] <= cap(p) + cap(q): else the next row to the left, k itself, with
    h_k >= h_t since k < t, would fit too, against (*).

Hence the choice is read from N to 0 without search: a service whose begin is a falling cut, or the position 0, is a
*single* step to the position of 1; one whose begin is rising makes, with its left neighbour, a *pair* step to the
position of 3, its inner cut given by 2. Pairs obey (*), which few do: they pay only by luck of rounding to whole rows.

State: (services used, position); recurrence: the cheapest way to each position over single and pair steps. A position
depends on the sum of the replicas used but for the rounding to rows, so there are about as many positions as replicas,
whatever N is: O(S * R^2 * log N) time for R replicas at most, and less with the bounds of `bounds.py`, which cut off
states.

Where a row alone is worth a good part of a replica, many numbers of replicas end at the same position. The first H
rows, the *heavy* ones, are such: each of the positions 0 ... H is a single step's with the replicas that it needs,
tight or not, so at most N positions are looked at however many replicas there are, and a pair is needed only where its
inner cut is light. Then t of (*), which comes after the inner cut, is light too, and h_t less than `OPEN` replicas'
gathers: if its begin k is heavy, its replicas are the fewest that hold (k, l] or the next number.

Pairs can be R^3. Those that cannot be part of an optimum are dropped before their inner cuts are looked at: with
n = p + q, p < q, b bytes of rows and g gathers in (k, l], x of these bytes on the left, the cost is
n * min_memory + p x + q (b - x), where x / b <= cap(p) / g, as hotter rows gather more. Over all p that is least by
n / 2 * (1 - (slack / 2g)^2) * b >= 3/8 * n * b, as slack = cap(p) + cap(q) - g < h_t <= g.

A first service of its own. Let the first service's rows take hot_row_bytes each, and all others' row_bytes, whichever
is more; and let what a query gathers of its first j rows take F[j], non-decreasing, whatever that is beside G[j], as a
row of another format has another price. Of the optimal choices take one as above, and count rising pairs among the
services after the first. All that was said of the cuts between those holds as it stands, since a row costs the same in
each: 1 and 2 move a cut, 3 exchanges two of them, and k of a pair is tight wherever the services before it end. What is
new is c_1, with the slope r_1 * hot_row_bytes - r_2 * row_bytes:

 4. Where that is not negative c_1 cannot move left, where the first service still fits, F never falling: service 2
    stops it, so that it is a single step's as in 1; or it is 1, as the first service must not run empty: then service 2
    would be the first, at another price.
 5. Where it is negative c_1 cannot move right, and it is the largest j with F[j] <= cap(r_1). (Service 2 does not run
    empty: it would be saved.) Where the cut after service 2 rises c_1 is the begin of a pair by 3 too.

So the last step, to the position 0, is a single one at the first service's price, with the replicas that it needs, and
comes from where single and pair steps lead, or from a *first end*: the position 1, and those of 5 for each number of
replicas. From every position a single step may lead to a first end, with the replicas that it needs, tight or not.
There are as many first ends as replicas: time grows as before.

Small services. Where the caches hold all rows of a service, those up to a position C, these take less of it than of a
service that holds others too: T(k, j) = A[j] - A[k] for j <= C, and B[j] - B[k] beyond, A and B concave, no row of A
dearer than of B (`row_times.py`). So T never falls as k falls or j rises, and which sums a service divides is told by
its end, which stays where its begin is moved. 1 and 2 hold as they stand, but that C may stop a rising cut, too; C is
among the first ends. 3 holds of two small services, and of two large ones: where t is at most C, the rows (k, t] take
no less of a large one, so that (*) holds of B. What is left is a small service i, rising to a large one. If it is the
first, or stopped by C, that is a first end. If it is neither, and full, c_{i-1} and c_i may move together, and no rule
says how far: such a choice is found only if its c_i is a position that something else leads to. It has a hot service
with fewer replicas than both neighbours; none has been seen among thousands of optima (tests, brute force).

A service may have to be worth `service_bytes` besides. That is as much in all choices of as many services, and the
arguments above change none, or fewer: they hold as they stand.

What it may cost is bounded: `best_chain` gives up after `MOST_STEPS`, and `dp.py` then counts replicas in lots.

Exactness is for real numbers; with float64 prefixes it holds as far as no segment comes within their rounding (1e-15 of
the total) of a capacity. A choice's feasibility and cost are always computed as `CostModel` does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from repo_builder.partition.bounds import MARGIN, CoarseBounds
from repo_builder.partition.cost import REPLICA_TOLERANCE
from repo_builder.partition.priced import PricedOrder

Ints = NDArray[np.int64]

NOISE = 1e-12
"""Pairs are kept where (*) fails by no more than this share of all gathers, for rounding; more pairs do no harm."""

OPEN = 0.25
"""Rows that are worth more than so much of a replica are heavy."""

MOST_STEPS = 2 * 10**7
"""The most steps looked at: some seconds."""

ROUND_STEPS = 1000
"""A round of the loop over pairs takes as long as so many steps, even with none left."""


class TooManySteps(Exception):  # noqa: N818 - no error: the caller asks for less
    """The search would look at more than `MOST_STEPS`."""


class _Steps(NamedTuple):
    """Steps out of a layer, arrays of equal length: row of the layer, position reached, cost, inner cut."""

    origin: Ints
    position: Ints
    cost: Ints
    inner: Ints  # -1 for a single step

    def where(self, keep: NDArray[np.bool_]) -> _Steps:
        return _Steps(self.origin[keep], self.position[keep], self.cost[keep], self.inner[keep])


@dataclass(frozen=True, slots=True)
class _Layer:
    """The cheapest covers of (position, N] by one number of services; equal arrays, positions ascending and unique."""

    position: Ints
    cost: Ints
    inner: Ints
    used: Ints  # services of the last step
    origin: Ints  # row of the layer `used` before


def best_chain(priced: PricedOrder, s_max: int, bounds: CoarseBounds | None) -> tuple[int, list[int]]:
    """The least cost in bytes and its inner cuts, ascending; N >= 1.

    Needs rows that take time. Of equal costs the fewest services win, then the step that comes first: singles before
    pairs, heavy positions, then first ends before others, colder positions before hotter ones, fewer replicas before
    more. Raises TooManySteps.
    """
    search = _Search(priced, s_max, bounds)
    start = np.array([priced.order.rows])
    none = np.array([-1])
    layers = [_Layer(start, np.zeros(1, np.int64), none, none, none)]
    best, best_used = np.iinfo(np.int64).max, 0
    for used in range(1, s_max + 1):
        steps = [search.singles(layers[used - 1], used)]
        if used >= 2:
            steps.append(search.pairs(layers[used - 2], used))
        layer = _cheapest(steps)
        if len(layer.position) and layer.position[0] == 0 and layer.cost[0] < best:
            best, best_used = int(layer.cost[0]), used
        layers.append(layer)
    return best, _trace(layers, best_used)


class _Search:
    """The steps of the recurrence, for one order and cost model."""

    def __init__(self, priced: PricedOrder, s_max: int, bounds: CoarseBounds | None) -> None:
        self.priced, self.seconds, self.model = priced, priced.times.between, priced.model
        self.s_max, self.bounds = s_max, bounds
        self.upper = np.inf if bounds is None else bounds.upper * (1 + MARGIN)
        self.steps = 0
        self.noise = NOISE * priced.times.large.total_s
        self.heavy = priced.times.large.steps_above(OPEN / self.model.target_qps)  # by a row's replicas
        own_first = priced.own_first or priced.times.two_prices
        self.first_ends = self._first_ends() if own_first else np.zeros(0, np.int64)

    def singles(self, layer: _Layer, used: int) -> _Steps:
        """Every step by one service from a layer to the layer `used`; to the last layer only those to position 0."""
        low, high = self._window(used)
        end = layer.position
        hottest = max(low, self.heavy + 1)  # heavy positions, 0 among them, are looked at beside
        origin, replicas = self._ragged(
            *(self.priced.replicas(np.minimum(end, at), end) for at in (max(high, hottest), hottest))
        )
        position = self.priced.tight(end[origin], replicas)
        light = position >= hottest
        origin, position, replicas = origin[light], position[light], replicas[light]
        loose = [self._heavy_positions(end, low, high), self._to_first_ends(layer, used)]
        loose_origin, loose_position = (np.concatenate(parts) for parts in zip(*loose, strict=True))
        origin, position = np.concatenate([loose_origin, origin]), np.concatenate([loose_position, position])
        replicas = np.concatenate([self.priced.replicas(loose_position, end[loose_origin]), replicas])
        keep = (position < end[origin]) & (position >= low) & (position <= high)
        origin, position, replicas = origin[keep], position[keep], replicas[keep]
        cost = (
            layer.cost[origin] + replicas * self.priced.replica_bytes(position, end[origin]) + self.model.service_bytes
        )
        return self._promising(_Steps(origin, position, cost, np.full_like(position, -1)), used)

    def pairs(self, layer: _Layer, used: int) -> _Steps:
        """Every step by a pair that obeys (*), to the layer `used`, with a light inner cut in the window before it."""
        low, high = self._window(used - 1)
        low = max(low, self.heavy + 1)
        found = [_Steps(*(np.zeros(0, np.int64) for _ in range(4)))]
        if low > high:
            return found[0]
        origin, total, position = self._pair_ends(layer, used)
        end = layer.position[origin]
        slack = self.priced.capacity(total, 2) - self.seconds(position, end)
        # replicas of the left service; fewer make h_t smaller, so (*) fails for good
        first = np.minimum((total - 1) // 2, self.priced.replicas(position, np.full_like(position, high)))
        least = self.model.replicas(0.0)
        while len(origin):
            self._spend(len(origin) + ROUND_STEPS)
            cut = self.priced.tight(end, first)  # t of (*)
            row_s = self.seconds(np.maximum(cut - 1, 0), end) - self.seconds(cut, end)
            keep = (first >= least) & (cut > position) & (slack < row_s + self.noise)
            keep &= self.priced.fits(position, np.full_like(position, low), first)
            origin, total, position, end, first = (a[keep] for a in (origin, total, position, end, first))
            slack = slack[keep]
            found.append(self._pair_steps(layer, origin, position, end, first, total - first))
            first = first - 1
        return self._promising(_Steps(*(np.concatenate(parts) for parts in zip(*found, strict=True))), used)

    def _heavy_positions(self, end: Ints, low: int, high: int) -> tuple[Ints, Ints]:
        """(origin, position) for every heavy position of the window before each end."""
        return self._ragged(np.full_like(end, low), np.minimum(end - 1, min(high, self.heavy)))

    def _first_ends(self) -> Ints:
        """The positions, ascending, where a first service of its own, or the last small one, may end without being
        stopped.
        """
        low, high = 1, self.priced.order.rows
        if self.bounds is not None:
            windows = self.bounds.windows[1:]
            low, high = int(windows[:, 0].min()), int(windows[:, 1].max())
        low = min(max(low, self.heavy + 1), self.priced.order.rows)
        zero = np.zeros(1, np.int64)
        _, replicas = self._ragged(*(self.priced.replicas(zero, np.array([end])) for end in (low, high)))
        positions = self.priced.left_tight(np.zeros_like(replicas), replicas)
        others = np.array([1, self.priced.times.cached], np.int64)
        reached: Ints = np.unique(np.concatenate([others[others > 0], positions[positions > 0]]))
        return reached

    def _to_first_ends(self, layer: _Layer, used: int) -> tuple[Ints, Ints]:
        """(origin, position) for every first end of the window before each end that can be promising."""
        low, high = self._window(used)
        end = layer.position
        begin = np.searchsorted(self.first_ends, np.full_like(end, low), side="left")
        beyond = np.searchsorted(self.first_ends, np.minimum(end - 1, high), side="right")
        origin, index = self._ragged(begin, beyond - 1)
        position = self.first_ends[index]
        zero = np.zeros_like(position)
        total = layer.cost[origin] + 2 * self.model.service_bytes
        total += sum(
            self.priced.replicas(first, last) * self.priced.replica_bytes(first, last)
            for first, last in ((position, end[origin]), (zero, position))
        )
        keep = (total <= self.upper) | (position == self.priced.times.cached)  # there others may come before
        return origin[keep], position[keep]

    def _pair_ends(self, layer: _Layer, used: int) -> tuple[Ints, Ints, Ints]:
        """(origin, replicas of the pair, position reached) for every pair's end in the window that can be promising."""
        low, high = self._window(used)
        low = max(low, int(self.priced.own_first))  # the first service is in no pair
        end = layer.position
        origin, total = self._ragged(
            self._pair_replicas(end, np.minimum(end, high)),
            self._pair_replicas(end, np.minimum(end, max(low, self.heavy + 1))),
        )
        position = self.priced.tight(end[origin], total, 2)
        heavy_origin, heavy_position = self._heavy_positions(end, low, high)
        fewest = self._pair_replicas(end[heavy_origin], heavy_position)
        row, heavy_total = self._ragged(fewest, fewest + 1)
        origin, position = np.concatenate([heavy_origin[row], origin]), np.concatenate([heavy_position[row], position])
        total = np.concatenate([heavy_total, total])
        keep = (position < end[origin]) & (position >= low) & (position <= high)
        origin, total, position = origin[keep], total[keep], position[keep]
        empty = self.model.min_memory_bytes
        cost = layer.cost[origin] + total * (
            empty + (self.priced.replica_bytes(position, end[origin]) - empty) * 3 // 8
        )
        cost += 2 * self.model.service_bytes
        keep = self._within(cost, position, used)
        return origin[keep], total[keep], position[keep]

    def _pair_steps(self, layer: _Layer, origin: Ints, position: Ints, end: Ints, first: Ints, second: Ints) -> _Steps:
        """The feasible ones of these pairs: the left service takes all rows it can, the right one the rest."""
        inner = self.priced.left_tight(position, first)
        cost = (
            layer.cost[origin]
            + first * self.priced.replica_bytes(position, inner)
            + second * self.priced.replica_bytes(inner, end)
        )
        cost += 2 * self.model.service_bytes
        steps = _Steps(origin, position, cost, inner)
        return steps.where((inner > position) & (inner < end) & self.priced.fits(inner, end, second))

    def _window(self, used: int) -> tuple[int, int]:
        """The positions that can be reached by so many services; the position 0 always stays open in the last layer."""
        if used == self.s_max:
            return 0, 0
        if self.bounds is None:
            return 0, self.priced.order.rows
        low, high = self.bounds.windows[used]
        return int(low), int(high)

    def _promising(self, steps: _Steps, used: int) -> _Steps:
        return steps.where(self._within(steps.cost, steps.position, used))

    def _ragged(self, least: Ints, most: Ints) -> tuple[Ints, Ints]:
        """For each i every value of least[i] ... most[i]: (i, value), flat."""
        counts = np.maximum(most - least + 1, 0)
        self._spend(int(counts.sum(dtype=np.float64)))
        origin = np.repeat(np.arange(len(counts)), counts)
        within = np.arange(len(origin)) - np.repeat(np.cumsum(counts) - counts, counts)
        return origin, least[origin] + within

    def _spend(self, steps: int) -> None:
        self.steps += steps
        if self.steps > MOST_STEPS:
            raise TooManySteps

    def _within(self, cost: Ints, position: Ints, used: int) -> NDArray[np.bool_]:
        """Whether a cover of (position, N] at this cost can be part of an optimum."""
        if self.bounds is None:
            return np.ones(len(position), np.bool_)
        low, high = self._window(used)
        bound = cost + self.bounds.below(self.s_max - used, position)
        return (position >= low) & (position <= high) & (bound <= self.upper)

    def _pair_replicas(self, end: Ints, begin: Ints) -> Ints:
        """The fewest replicas p + q, p < q, whose capacities together hold a segment; each takes a query of no rows."""
        alone = self.model.replicas(0.0)
        load = self.model.loads(self.seconds(begin, end)) + self.model.load(0.0)
        fewest: Ints = np.maximum(np.ceil(load / (1 + REPLICA_TOLERANCE)).astype(np.int64), 2 * alone + 1)
        return fewest


def _cheapest(steps: list[_Steps]) -> _Layer:
    """The cheapest step to each position, the first of equals."""
    origin, position, cost, inner = (np.concatenate(parts) for parts in zip(*steps, strict=True))
    used = np.where(inner < 0, 1, 2)
    order = np.lexsort((np.arange(len(position)), cost, position))
    kept = order[np.flatnonzero(np.diff(position[order], prepend=-1))]
    return _Layer(position[kept], cost[kept], inner[kept], used[kept], origin[kept])


def _trace(layers: list[_Layer], used: int) -> list[int]:
    """The inner cuts of the cheapest cover by so many services, ascending."""
    cuts: list[int] = []
    row = 0
    while used > 0:
        layer = layers[used]
        cuts.append(int(layer.position[row]))
        if layer.inner[row] >= 0:
            cuts.append(int(layer.inner[row]))
        used, row = used - int(layer.used[row]), int(layer.origin[row])
    return cuts[1:] if cuts and cuts[0] == 0 else cuts
