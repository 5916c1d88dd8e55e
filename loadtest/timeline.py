"""A run's timeline out of single queries: figures of every second. Pure, and without locust, which patches Python."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from loadtest.run import RunSample
from loadtest.servers import Seen

Looks = Sequence[tuple[float, Seen]]


def timeline(
    due_s: NDArray[np.float64],
    latency_ms: NDArray[np.float64],
    failed: NDArray[np.bool_],
    bucket_s: float = 1.0,
    looks: Looks = (),
) -> tuple[RunSample, ...]:
    """Samples of `bucket_s` each from the first query's due time on.

    due_s, latency_ms, failed: (N,), a query each. Offered and the latencies are of the queries that were due in a
    bucket; answered counts the right answers that came in it. looks: at the servers, by the same clock as due_s and
    in its order; a bucket has the last one before its end.
    """
    if not len(due_s):
        return ()
    start_s = float(due_s.min())
    due = ((due_s - start_s) / bucket_s).astype(np.int64)
    answered = ((due_s + latency_ms / 1000 - start_s) / bucket_s).astype(np.int64)[~failed]
    count = int(max(due.max(), answered.max(initial=0))) + 1
    seen = [_last(looks, start_s + (i + 1) * bucket_s) for i in range(count)]
    offered = np.bincount(due, minlength=count)
    came = np.bincount(answered, minlength=count)
    errors = np.bincount(due[failed], minlength=count)
    return tuple(
        RunSample(
            time_s=i * bucket_s,
            offered_qps=float(offered[i] / bucket_s),
            answered_qps=float(came[i] / bucket_s),
            p50_ms=_percentile(latency_ms[(due == i) & ~failed], 50),
            p95_ms=_percentile(latency_ms[(due == i) & ~failed], 95),
            p99_ms=_percentile(latency_ms[(due == i) & ~failed], 99),
            errors=int(errors[i]),
            replicas=seen[i].replicas,
            memory_bytes=seen[i].memory_bytes,
        )
        for i in range(count)
    )


def _last(looks: Looks, until_s: float) -> Seen:
    before = bisect_right(looks, until_s, key=lambda look: look[0])
    return looks[before - 1][1] if before else Seen()


def _percentile(latency_ms: NDArray[np.float64], percentile: float) -> float | None:
    return float(np.percentile(latency_ms, percentile)) if len(latency_ms) else None
