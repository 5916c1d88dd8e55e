"""What the router counts of its remote calls, and the metrics that Triton shows of it.

Telling Triton a number costs a message between processes (0.2 ms), so counts are kept here and told once a second.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping

Key = tuple[str, tuple[tuple[str, str], ...]]  # a metric's name, and its labels

COUNTERS: Mapping[str, str] = {
    "elasticrec_remote_calls_total": "Calls of an embedding service that succeeded",
    "elasticrec_remote_call_duration_us_total": "Microseconds that successful calls of an embedding service took",
    "elasticrec_remote_failures_total": "Calls of an embedding service that failed, by reason",
    "elasticrec_remote_skipped_total": "Calls spared because no id of the queries is held there",
    "elasticrec_retries_total": "Calls sent again, to another replica",
    "elasticrec_hedges_total": "Calls sent to a second replica because the first was slow",
    "elasticrec_degraded_queries_total": "Queries scored without an embedding service",
    "elasticrec_overloaded_queries_total": "Queries refused because max_in_flight were under way",
}


class Counters:
    """Counts by metric and labels; written by the event loop's thread and Triton's, told by a third.

    Each key is written by one thread only, and a count only grows: reading it needs no lock.
    """

    def __init__(self) -> None:
        self._counts: defaultdict[Key, float] = defaultdict(float)
        self._told: defaultdict[Key, float] = defaultdict(float)

    def add(self, name: str, amount: float = 1, /, **labels: str) -> None:
        """Count something."""
        self._counts[name, tuple(labels.items())] += amount

    def tell(self, increment: Callable[[str, Mapping[str, str], float], None]) -> None:
        """Call `increment(name, labels, amount)` for what grew since the last time."""
        for key, count in list(self._counts.items()):
            if count > self._told[key]:
                increment(key[0], dict(key[1]), count - self._told[key])
                self._told[key] = count
