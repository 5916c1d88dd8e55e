"""The bounded queue: how many queries may be under way at once. Pure but for a lock."""

from __future__ import annotations

from threading import Lock


class OverloadedError(Exception):
    """One query more than may be under way."""


class Gate:
    """Counts queries under way, from Triton's thread in and from the event loop's out."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._inside = 0
        self._lock = Lock()

    def enter(self) -> None:
        """Let one more in; raises OverloadedError at the limit."""
        with self._lock:
            if self._inside >= self._limit:
                raise OverloadedError(
                    f"overloaded: {self._inside} queries are under way and max_in_flight is {self._limit}; "
                    "send fewer, or run more front ends"
                )
            self._inside += 1

    def leave(self) -> None:
        """One has its answer."""
        with self._lock:
            self._inside -= 1
