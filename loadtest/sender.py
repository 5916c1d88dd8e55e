"""A process that sends queries as they fall due, whether or not earlier ones were answered (an open loop).

    python -m loadtest.sender '{"protocol": "grpc", ...}'      # the fields of SenderSettings

It prints `ready` and reads the traffic from its input, a line `QPS` at each change; 0 pauses, and the end of the input
ends it. For each query it prints a line `due latency problem`: when it was due (Unix time, s), the ms from then until
its answer, and what was wrong with it, or nothing. After a change to 0 it prints `idle` when the last answer has come.

It is a process of its own because locust's is not exact: locust runs on gevent, under which a gRPC call was measured to
take some 3 ms longer. A query's latency counts from the moment it was due, so a server that stalls is charged for every
query that came meanwhile (no coordinated omission).
"""

from __future__ import annotations

import bisect
import ctypes
import json
import math
import sys
import threading
import time
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from loadtest.clients import QueryError, SenderSettings, client, settings_of
from loadtest.queries import Queries, load_queries

THREADS = 256  # queries in flight; more wait, and that counts as their latency
SPARE = 3  # threads that wait for a query's time, at first
PAUSE_S = 3600.0
AWAKE_S = 0.0003  # before a query's time, where nothing is under way: a thread on an idle core wakes 0.1 ms late
PR_SET_TIMERSLACK = 29


class Sender:
    """Sends queries at Poisson times of a rate that may change, and writes a line for each answer.

    Each thread without a query under way waits for an arrival of its own and sends it itself, so that at a query's time
    no thread has to wake another. What can be done before that time is done before.
    """

    def __init__(self, load: SenderSettings, queries: Queries, out: TextIO) -> None:
        self._client: Any = client(load)
        self._queries = queries
        self._prepared = [self._client.prepare(queries.query(number)) for number in range(len(queries))]
        self._out = out
        self._random = np.random.default_rng([load.seed, 1])  # not the arrivals' numbers
        self._arrivals = Arrivals(load.seed)
        self._threads: list[threading.Thread] = []  # no more than it takes: over HTTP each has a connection to open
        self._changed = threading.Condition(threading.Lock())
        self._telling = threading.Lock()
        self._ended = False
        self._waiting = self._in_flight = 0  # threads

    def change(self, qps: float | None) -> None:
        """Send so many queries per second from now on; None: no more at all."""
        with self._changed:
            self._ended = qps is None
            self._arrivals.change(qps or 0.0)
            self._changed.notify_all()
            if qps == 0:
                self._changed.wait_for(lambda: self._in_flight == 0)
        if qps == 0:
            self._tell("idle")

    def run(self) -> None:
        """Send until `change(None)`; returns when the last answer has come."""
        for _ in range(SPARE):
            self._start_thread()
        for thread in self._threads:  # which grow in number meanwhile
            thread.join()

    def _start_thread(self) -> None:
        self._threads.append(threading.Thread(target=self._send_all))
        self._threads[-1].start()

    def _send_all(self) -> None:
        while True:
            number = int(self._random.integers(len(self._queries)))
            due_s = self._wait_for_one()
            if due_s is None:
                return
            while time.perf_counter() < due_s:
                time.sleep(0)
            self._send(number, due_s)

    def _wait_for_one(self) -> float | None:
        """Wait until a query is due or about to be, and say when; None at the end."""
        with self._changed:
            self._waiting += 1
            arrival = self._arrivals.take()
            while not self._ended:
                if self._arrivals.is_forgotten(arrival):
                    arrival = self._arrivals.take()
                due_s = self._arrivals.due_s(arrival)
                left_s = due_s - time.perf_counter() - (0.0 if self._in_flight else AWAKE_S)
                if left_s <= 0:
                    break
                self._changed.wait(min(left_s, PAUSE_S))
            self._waiting -= 1
            if self._ended:
                return None
            self._in_flight += 1
            if self._waiting == 0 and len(self._threads) < THREADS:  # nobody is left to wait for the next
                self._start_thread()
        return due_s

    def _send(self, number: int, due_s: float) -> None:
        try:
            answer = self._client.infer(self._prepared[number])
            latency_s = time.perf_counter() - due_s
            problem = self._queries.wrong(number, self._client.outputs(answer))
        except QueryError as exc:
            latency_s, problem = time.perf_counter() - due_s, str(exc)
        due_unix_s = time.time() - (time.perf_counter() - due_s)
        self._tell(f"{due_unix_s:.6f} {1000 * latency_s:.3f} {' '.join((problem or '').split())}")
        with self._changed:
            self._in_flight -= 1
            if self._in_flight == 0 and self._arrivals.paused:
                self._changed.notify_all()  # who tells that it is idle; who waits for a query's time need not wake

    def _tell(self, line: str) -> None:
        with self._telling:
            self._out.write(line + "\n")
            self._out.flush()


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


def main() -> None:
    """Serve the input until it ends."""
    load = settings_of(json.loads(sys.argv[1]))
    # threads inherit it: wake at a query's time, and not up to 50 us later, as Linux otherwise may
    ctypes.CDLL(None).prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0)
    queries = load_queries(Path(load.workload), load.batch, load.inputs, load.outputs)
    sender = Sender(load, queries, sys.stdout)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sending = threading.Thread(target=sender.run)
    sending.start()
    for line in sys.stdin:
        sender.change(float(line))
    sender.change(None)
    sending.join()


if __name__ == "__main__":
    main()
