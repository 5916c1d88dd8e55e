"""Queues as fluids: queries flow in, and out at no more than the capacity; what is in between waits its turn.

An approximation from above the single query: it knows overload and backlog, not the chance meetings of queries on a
server that is busy but not overloaded (`partition.latency` predicts those).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

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
