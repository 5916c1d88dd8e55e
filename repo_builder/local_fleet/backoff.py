"""How long to wait before what failed is started again. Pure: times are given."""

from __future__ import annotations

from dataclasses import dataclass

FIRST_S, LONGEST_S = 1.0, 30.0
STEADY_S = 60.0
"""What ran so long before it failed had recovered."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """Failures in a row, and until when to wait."""

    failures: int = 0
    until_s: float = float("-inf")

    def failed(self, now_s: float, ran_s: float) -> Backoff:
        """After a failure of something that ran for `ran_s`: each wait is twice the last."""
        failures = 1 if ran_s >= STEADY_S else self.failures + 1
        return Backoff(failures, now_s + min(LONGEST_S, FIRST_S * 2.0 ** min(failures - 1, 10)))

    def may_start(self, now_s: float) -> bool:
        """Whether the wait is over."""
        return now_s >= self.until_s
