"""Runs of perf_analyzer over several loads, each point recorded as soon as it is measured: a sweep of those asked for,
or a search for the highest request rate within the SLA (latency-bounded throughput).

The search: `holds(rate)` measures, so it is noisy, and falls from true to false somewhere as the rate grows. Double (or
halve) from a first guess until one rate holds and a higher one does not; bisect between them on a logarithmic scale
until they are within `precision`; then measure the answer again. A rate that fails is given a second chance, since one
stall of the machine spoils a measurement; the answer must hold once more, else the search goes on below it. It takes
some 2 * log2(guess's error) + log2(log(2) / precision) + 1 measurements.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Protocol

from loadtest.run import NOT_ENDED, LoadKind, LoadPoint, Percentile, Run, Seen, largest
from repo_builder.errors import InputError
from repo_builder.profiling.perf_analyzer import LoadTestError

MOST = 1000  # loads of one sweep; each takes seconds


@dataclass(frozen=True, slots=True)
class Load:
    """Queries always in flight (`concurrency`), or queries/s at Poisson times (`request_rate`)."""

    kind: LoadKind
    value: float


def concurrencies(text: str) -> tuple[Load, ...]:
    """`--concurrency FIRST[:LAST[:STEP]]`, whole numbers from 1 on. Raises InputError."""
    return tuple(Load("concurrency", value) for value in _range("--concurrency", text, whole=True))


def request_rates(text: str) -> tuple[Load, ...]:
    """`--request-rate FIRST[:LAST[:STEP]]`, queries/s above 0. Raises InputError."""
    return tuple(Load("request_rate", value) for value in _range("--request-rate", text, whole=False))


def _range(option: str, text: str, whole: bool) -> Iterator[float]:
    """FIRST, FIRST + STEP ... up to LAST; the step is 1 where none is given."""
    try:
        numbers = [float(part) for part in text.split(":")]
    except ValueError:
        numbers = []
    good = 1 <= len(numbers) <= 3 and all(math.isfinite(number) and number > 0 for number in numbers)
    if not good or (whole and any(number != int(number) for number in numbers)):
        kind = "whole numbers" if whole else "numbers"
        raise InputError(f"{option}: expected FIRST[:LAST[:STEP]], {kind} above 0, got {text}")
    first, last, step = (*numbers, *(numbers[0], 1.0)[len(numbers) - 1 :])
    count = math.floor((last - first) / step + 1e-9) + 1
    if not 1 <= count <= MOST:
        raise InputError(f"{option}: expected 1 to {MOST} loads from FIRST to LAST, got {max(count, 0)} of {text}")
    return (first + i * step for i in range(count))


class Measures(Protocol):
    """What measures one load: a `LoadTarget`."""

    def measure(self, load: Load) -> LoadPoint:
        """Raises LoadTestError where it cannot be measured."""


class Recording:
    """A run that grows; `keep` is given it after every change, and writes it whole; `look` sees the servers."""

    def __init__(self, run: Run, keep: Callable[[Run], None], look: Callable[[], Seen] = Seen) -> None:
        self.run = replace(run, complete=False, why=NOT_ENDED)
        self._keep, self._look = keep, look
        keep(self.run)

    def add(self, point: LoadPoint) -> None:
        """One point more, and what the servers hold after it."""
        seen, points = self._look(), (*self.run.points, point)
        memory_bytes = largest(self.run.memory_bytes, seen.memory_bytes)
        replicas = largest(self.run.replicas, seen.replicas)
        self._change(replace(self.run, points=points, memory_bytes=memory_bytes, replicas=replicas))

    def cut_off(self, why: str) -> None:
        """It ends before its time."""
        self._change(replace(self.run, why=why))

    def finish(self, found_qps: float | None) -> None:
        """It has come to its end."""
        self._change(replace(self.run, complete=True, why=None, found_qps=found_qps))

    def _change(self, run: Run) -> None:
        self.run = run
        self._keep(run)


def sweep(target: Measures, loads: Iterable[Load], recording: Recording) -> None:
    """Measure loads one after another."""
    for load in loads:
        recording.add(target.measure(load))


def search(target: Measures, sla_ms: float, recording: Recording) -> float:
    """The latency-bounded throughput in queries/s: what was answered at the highest rate that holds.

    Raises LoadTestError where a server misses the SLA with one query at a time, or at any rate.
    """
    percentile = recording.run.percentile
    idle = target.measure(Load("concurrency", 1))
    recording.add(idle)
    if idle.latency_ms(percentile) > sla_ms:
        raise LoadTestError(
            f"--search: expected p{percentile} within the SLA of {sla_ms:g} ms, but one query at a time takes "
            f"{idle.latency_ms(percentile):.3g} ms; give a longer one with --sla-ms"
        )

    def holds(rate_qps: float) -> bool:
        point = target.measure(Load("request_rate", rate_qps))
        recording.add(point)
        return within(point, sla_ms, percentile)

    rate_qps = highest_rate(holds, guess_qps=round(idle.throughput_qps, 1))
    if rate_qps is None:
        raise LoadTestError(f"--search: no request rate holds p{percentile} within the SLA of {sla_ms:g} ms")
    held = [p for p in recording.run.points if p.load == rate_qps and within(p, sla_ms, percentile)]
    return held[-1].throughput_qps


FOLLOWS = 0.03  # of the offered rate may be missing, beside what chance takes from Poisson arrivals
LOWEST_QPS = 0.1
HIGHEST_QPS = 1e7


def follows(point: LoadPoint) -> bool:
    """Whether throughput kept up with the offered rate: within a few %, and 3 standard deviations of the arrivals."""
    return point.throughput_qps >= point.load * (1 - FOLLOWS - 3 / math.sqrt(max(point.queries, 1)))


def within(point: LoadPoint, sla_ms: float, percentile: Percentile) -> bool:
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
