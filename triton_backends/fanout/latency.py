"""The latest latencies of a service, for hedging: how long is longer than usual. Pure."""

from __future__ import annotations

from collections import deque

WINDOW = 512  # latest calls that count
LEAST = 64  # calls before a quantile means anything
EVERY = 32  # calls between two looks: sorting the window for each would cost more than it tells


class LatencyWindow:
    """A quantile over the latest calls' seconds."""

    def __init__(self, quantile: float) -> None:
        self._quantile = quantile
        self._latest: deque[float] = deque(maxlen=WINDOW)
        self._added = 0
        self._value_s: float | None = None

    def add(self, seconds: float) -> None:
        """A call that succeeded took that long."""
        self._latest.append(seconds)
        self._added += 1
        if self._added >= LEAST and self._added % EVERY == 0:
            ordered = sorted(self._latest)
            self._value_s = ordered[min(int(self._quantile * len(ordered)), len(ordered) - 1)]

    @property
    def value_s(self) -> float | None:
        """The quantile, or None while too few calls are known."""
        return self._value_s
