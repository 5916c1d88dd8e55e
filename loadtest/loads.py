"""The loads of a perf_analyzer run, read from the words that ask for them. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from loadtest.run import LoadKind
from repo_builder.errors import InputError

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
