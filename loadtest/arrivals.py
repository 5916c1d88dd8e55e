"""When queries fall due: a Poisson process whose rate may change at any time."""

from __future__ import annotations

import bisect
import math
import time

import numpy as np


class Arrivals:
    """Arrivals of a process of one a second on average, played faster or slower.

    An arrival is due once the rate, summed up over time, reaches its time in that process (a time-rescaled Poisson
    process: Brown et al., 2002). Times are those of `time.perf_counter`, in s. Not safe for threads by itself.
    """

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self._last = 0.0
        self._since_s, self._reached, self._qps = [time.perf_counter()], [0.0], [0.0]  # a change of the rate each

    def change(self, qps: float) -> None:
        """The rate from now on; 0 pauses."""
        now_s = time.perf_counter()
        self._reached.append(self._reached[-1] + self._qps[-1] * (now_s - self._since_s[-1]))
        self._since_s.append(now_s)
        self._qps.append(qps)

    def take(self) -> float:
        """The next arrival."""
        while True:
            self._last += self._random.exponential()
            if not self.is_forgotten(self._last):
                return self._last

    @property
    def paused(self) -> bool:
        """Whether the rate is 0."""
        return not self._qps[-1]

    def is_forgotten(self, arrival: float) -> bool:
        """Whether it was due before a pause that goes on: what was not sent then never is."""
        return self.paused and arrival <= self._reached[-1]

    def due_s(self, arrival: float) -> float:
        """When it is due, as things are; infinity in a pause."""
        i = bisect.bisect_left(self._reached, arrival) - 1
        return self._since_s[i] + (arrival - self._reached[i]) / self._qps[i] if self._qps[i] else math.inf
