"""The highest request rate that a server holds within its SLA (latency-bounded throughput). Pure.

Problem: `holds(rate)` measures, so it is noisy, and falls from true to false somewhere as the rate grows.
Method: double (or halve) from a first guess until one rate holds and a higher one does not; bisect between them on a
logarithmic scale until they are within `precision`; then measure the answer again. A rate that fails is given a second
chance, since one stall of the machine spoils a measurement; the answer must hold once more, else the search goes on
below it. It takes some 2 * log2(guess's error) + log2(log(2) / precision) + 1 measurements.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from loadtest.run import Percentile, Point

FOLLOWS = 0.03  # of the offered rate may be missing, beside what chance takes from Poisson arrivals
LOWEST_QPS = 0.1
HIGHEST_QPS = 1e7


def follows(point: Point) -> bool:
    """Whether throughput kept up with the offered rate: within a few %, and 3 standard deviations of the arrivals."""
    return point.throughput_qps >= point.load * (1 - FOLLOWS - 3 / math.sqrt(max(point.queries, 1)))


def within(point: Point, sla_ms: float, percentile: Percentile) -> bool:
    """Whether a point counts: no error, the rate followed, the percentile within the SLA."""
    return point.errors == 0 and follows(point) and point.latency_ms(percentile) <= sla_ms


def highest_rate(holds: Callable[[float], bool], guess_qps: float, precision: float = 0.05) -> float | None:
    """The highest rate that holds, to `precision` from below; None where none from `LOWEST_QPS` on does."""

    def chance(rate_qps: float) -> bool:
        return holds(rate_qps) or holds(rate_qps)

    low_qps, high_qps = _bracket(chance, guess_qps)
    while low_qps is not None:
        while high_qps / low_qps > 1 + precision:
            middle_qps = math.sqrt(low_qps * high_qps)
            if chance(middle_qps):
                low_qps = middle_qps
            else:
                high_qps = middle_qps
        if chance(low_qps):
            return low_qps
        high_qps, low_qps = low_qps, _below(chance, low_qps, 1 + precision)
    return None


def _bracket(holds: Callable[[float], bool], guess_qps: float) -> tuple[float | None, float]:
    """A rate that holds and a higher one that does not."""
    if not holds(guess_qps):
        return _below(holds, guess_qps, 2), guess_qps
    low_qps = guess_qps
    while low_qps < HIGHEST_QPS and holds(2 * low_qps):
        low_qps *= 2
    return low_qps, 2 * low_qps


def _below(holds: Callable[[float], bool], rate_qps: float, factor: float) -> float | None:
    """The next lower rate that holds, in steps by `factor`."""
    while rate_qps > LOWEST_QPS:
        rate_qps /= factor
        if holds(rate_qps):
            return rate_qps
    return None
