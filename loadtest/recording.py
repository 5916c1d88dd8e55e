"""A CSV of every query of a locust run: exact times, where locust's own figures are rounded to two digits."""

from __future__ import annotations

import csv
import time
from pathlib import Path
from typing import Any

from locust.env import Environment

COLUMNS = ("due_unix_s", "latency_ms", "error")
FLUSH_S = 1.0


class Recorder:
    """Appends a line a query as it ends, so that a run that is cut off leaves what it had."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w", newline="", encoding="utf-8")
        self._lines = csv.writer(self._file)
        self._lines.writerow(COLUMNS)
        self._flushed_s = 0.0

    def listen(self, environment: Environment) -> None:
        """Record every query of a run until locust ends."""
        environment.events.request.add_listener(self.record)
        environment.events.quitting.add_listener(self.close)

    def record(self, start_time: float, response_time: float, exception: Exception | None, **_: Any) -> None:
        """One query: when it was due (Unix time), its latency from then on, and what went wrong."""
        self._lines.writerow((f"{start_time:.6f}", f"{response_time:.3f}", exception or ""))
        if (now := time.monotonic()) - self._flushed_s > FLUSH_S:
            self._file.flush()
            self._flushed_s = now

    def close(self, **_: Any) -> None:
        """Write what is left."""
        self._file.close()
