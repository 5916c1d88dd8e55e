"""Records of a locust run from every query's exact times (locust's own figures are rounded to two digits): a CSV with a
line a query, or a run for a report.
"""

from __future__ import annotations

import csv
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import gevent
import numpy as np
from locust.env import Environment

from loadtest.run import NOT_ENDED, Run, Seen, largest, timeline, write_run
from loadtest.servers import Servers

COLUMNS = ("due_unix_s", "latency_ms", "error")
FLUSH_S = 1.0
WRITE_S = 5.0
LOOK_S = 1.0


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
        environment.events.quit.add_listener(self.close)  # the last event: all answers have come

    def record(self, start_time: float, response_time: float, exception: Exception | None, **_: Any) -> None:
        """One query: when it was due (Unix time), its latency from then on, and what went wrong."""
        self._lines.writerow((f"{start_time:.6f}", f"{response_time:.3f}", exception or ""))
        if (now := time.monotonic()) - self._flushed_s > FLUSH_S:
            self._file.flush()
            self._flushed_s = now

    def close(self, **_: Any) -> None:
        """Write what is left."""
        self._file.close()


class RunRecorder:
    """Keeps every query's times, and writes the run's timeline every few seconds and at the end.

    servers: those behind, looked at each second; expected_s: how long the run is to be, None where whoever watches it
    ends it; a shorter one is told as incomplete.
    """

    def __init__(self, path: Path, run: Run, servers: Servers, expected_s: float | None) -> None:
        self._path, self._run, self._servers, self._expected_s = path, run, servers, expected_s
        self._looks: list[tuple[float, Seen]] = []
        self._queries: list[tuple[float, float, bool]] = []
        self._started_s = self._written_s = time.monotonic()
        self._write(complete=False, why=NOT_ENDED)

    def listen(self, environment: Environment) -> None:
        """Record every query of a run until locust ends."""
        environment.events.test_start.add_listener(self.start)
        environment.events.request.add_listener(self.record)
        environment.events.quit.add_listener(self.close)  # the last event: all answers have come
        gevent.spawn(self._look)

    def start(self, **_: Any) -> None:
        """The run's clock begins."""
        self._started_s = time.monotonic()

    def record(self, start_time: float, response_time: float, exception: Exception | None, **_: Any) -> None:
        """One query: when it was due (Unix time), its latency from then on, and what went wrong."""
        self._queries.append((start_time, response_time, exception is not None))
        if (now := time.monotonic()) - self._written_s > WRITE_S:
            self._written_s = now
            self._write(complete=False, why=NOT_ENDED)

    def close(self, **_: Any) -> None:
        """Write the whole run, and whether it came to its end."""
        ran_s = time.monotonic() - self._started_s
        if self._expected_s is not None and ran_s < self._expected_s - 0.5:
            self._write(complete=False, why=f"interrupted after {ran_s:.0f} of {self._expected_s:g} s")
        elif not self._queries:
            self._write(complete=False, why="no query was sent")
        else:
            self._write(complete=True, why=None)

    def _look(self) -> None:
        while True:
            seen = self._servers.look()
            self._looks.append((time.time(), seen))
            memory_bytes = largest(self._run.memory_bytes, seen.memory_bytes)
            replicas = largest(self._run.replicas, seen.replicas)
            self._run = replace(self._run, memory_bytes=memory_bytes, replicas=replicas)
            gevent.sleep(LOOK_S)

    def _write(self, complete: bool, why: str | None) -> None:
        due_s, latency_ms, failed = np.array(self._queries, dtype=float).reshape(-1, 3).T
        samples = timeline(due_s, latency_ms, failed.astype(bool), looks=self._looks)
        write_run(self._path, replace(self._run, complete=complete, why=why, timeline=samples))
