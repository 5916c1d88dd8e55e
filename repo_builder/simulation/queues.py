"""Queues as fluids, and what Prometheus would see of them.

Queries flow in, and out at no more than the capacity; what is in between waits its turn. An approximation from above
the single query: it knows overload and backlog, not the chance meetings of queries on a server that is busy but not
overloaded (`partition.latency` predicts those).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from repo_builder.scaling.queries import (
    GUARD_SHARE,
    LEAST_QPS,
    MAX_VALUE,
    SCRAPE_S,
    WINDOW_S,
    Query,
    QueueTime,
    Throughput,
)
from repo_builder.scaling.rules import threshold_milli

STEP_S = 1.0
Floats = NDArray[np.float64]


def served(before: Floats, arrived: Floats, capacity: Floats) -> Floats:
    """How many queries each queue has served at the end of every step.

    before    (n,)     served when the steps begin
    arrived   (s, n)   come in all, at the end of each step; or (s, 1) where all queues get the same
    capacity  (s, n)   the most that can be served in each step
    returns   (s, n)   S[k] = min(S[k - 1] + capacity[k], arrived[k]), without a loop over the steps
    """
    room = np.cumsum(capacity, axis=0)
    emptied = np.minimum.accumulate(arrived - room, axis=0)  # the last time that a queue ran empty binds
    total: Floats = room + np.minimum(before, emptied)
    return total


def waits_s(arrived: Floats, done: Floats, last_capacity_qps: float) -> Floats:
    """How long the queries that come in each step wait until those before them are served, first come first served.

    arrived, done  (s + 1,)  totals at the steps' ends, from the beginning on
    returns        (s,)      of the query in the middle of each step, if any came; infinite where it is never served.
    Within a step queries leave evenly, so that a wait may be up to a step too long in the one where a backlog ends.
    After the last step the capacity is taken to stay as it was.
    """
    times_s = STEP_S * np.arange(len(arrived))
    middle = (arrived[1:] + arrived[:-1]) / 2
    rest = arrived[-1] - done[-1]
    if rest > 0 and last_capacity_qps > 0:
        done, times_s = np.append(done, arrived[-1]), np.append(times_s, times_s[-1] + rest / last_capacity_qps)
    leaves_s = np.interp(middle, np.maximum.accumulate(done), times_s, right=np.inf if done[-1] < arrived[-1] else None)
    waits: Floats = np.maximum(0.0, leaves_s - STEP_S * (np.arange(len(middle)) + 0.5))
    return waits


@dataclass(frozen=True, slots=True)
class Observation:
    """A service over the window: queries per second that it answered, and that the front end did, the mean wait in its
    queue, the mean time since a query was sent, and its ready pods.
    """

    rate_qps: float
    frontend_qps: float
    queue_us: float
    latency_us: float
    ready: int


@dataclass(slots=True)
class Counters:
    """The counters of the last window and scrape, of every service; entry -1 is now, the front end the last service.

    Prometheus knows them as they were at its last scrape, which is taken to be as old as it can be.

    sent        (w + 1,)    queries that clients sent, in all
    came, done  (w + 1, n)  queries that came to and left each service, in all
    """

    sent: Floats
    came: Floats
    done: Floats

    @classmethod
    def begin(cls, services: int, rate_qps: float) -> Counters:
        """Counters of a steady rate that came and went; they are 0 now."""
        sent = rate_qps * STEP_S * np.arange(-(WINDOW_S + SCRAPE_S) / STEP_S, 1.0)
        came = np.repeat(sent[:, None], services, axis=1)
        return cls(sent, came, came.copy())

    def add(self, sent: Floats, came: Floats, done: Floats) -> None:
        """Let s steps pass, (s,) and (s, n), and as many old ones go."""
        steps = len(sent)
        self.sent = np.concatenate([self.sent, sent])[steps:]
        self.came = np.concatenate([self.came, came])[steps:]
        self.done = np.concatenate([self.done, done])[steps:]

    def observe(self, ready: Sequence[int], idle_s: float) -> list[Observation]:
        """Every service as seen; waits are means by Little's law, where Prometheus has a percentile for the latency.

        `idle_s` is the latency when none waits.
        """
        seen = slice(round(WINDOW_S / STEP_S) + 1)
        done = self.done[seen]
        rates = (done[-1] - done[0]) / WINDOW_S
        us_per_query = 1e6 / np.maximum(rates, LEAST_QPS)
        queue_us = np.maximum(0.0, (self.came[seen] - done).mean(axis=0)) * us_per_query
        latency_us = np.maximum(0.0, (self.sent[seen, None] - done).mean(axis=0)) * us_per_query + 1e6 * idle_s
        columns = zip(rates.tolist(), queue_us.tolist(), latency_us.tolist(), ready, strict=True)
        return [Observation(rate, float(rates[-1]), *rest) for rate, *rest in columns]


def answers_milli(queries: Sequence[Query], seen: Observation) -> list[int | None]:
    """What Prometheus would answer to the queries, in thousandths; no pod, no answer."""
    return [int(1000 * _answer(query, seen)) if seen.ready else None for query in queries]


def _answer(query: Query, seen: Observation) -> float:
    if isinstance(query, Throughput):
        return max(seen.rate_qps, seen.frontend_qps) if query.frontend else seen.rate_qps
    if isinstance(query, QueueTime):
        return min(seen.queue_us, MAX_VALUE * _as_told(query.threshold_us))
    busy = seen.rate_qps / seen.ready >= GUARD_SHARE * _as_told(query.throughput_qps)
    queued = seen.queue_us >= GUARD_SHARE * _as_told(query.queue.threshold_us)
    return min(seen.latency_us, MAX_VALUE * _as_told(query.threshold_us)) if busy or queued else 0.0


def _as_told(threshold: float) -> float:
    """A threshold as KEDA is told it, rounded."""
    return threshold_milli(threshold) / 1000
