"""A process that sends queries as they fall due, whether or not earlier ones were answered (an open loop).

    python -m loadtest.sender '{"protocol": "grpc", ...}'      # the fields of Load

It prints `ready` and reads the traffic from its input, a line `QPS` at each change; 0 pauses, and the end of the input
ends it. For each query it prints a line `due latency problem`: when it was due (Unix time, s), the ms from then until
its answer, and what was wrong with it, or nothing. After a change to 0 it prints `idle` when the last answer has come.

It is a process of its own because locust's is not exact: locust runs on gevent, under which a gRPC call was measured to
take some 3 ms longer. A query's latency counts from the moment it was due, so a server that stalls is charged for every
query that came meanwhile (no coordinated omission).
"""

from __future__ import annotations

import json
import random
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TextIO

import numpy as np
import tritonclient.grpc
import tritonclient.http
from geventhttpclient.response import HTTPParseError
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from loadtest.queries import Queries, load_queries

Protocol = Literal["grpc", "http"]
THREADS = 256  # queries in flight; more wait, and that counts as their latency
PAUSE_S = 3600.0


@dataclass(frozen=True, slots=True)
class Load:
    """What to send, and where to; `address` is host:port, `batch` rows make a query."""

    protocol: Protocol
    address: str
    model: str
    workload: str
    batch: int
    timeout_s: float
    seed: int

    def to_json(self) -> str:
        """What the process is started with."""
        return json.dumps(asdict(self))


class _Client:
    """One tritonclient for gRPC, which threads may share; one a thread for HTTP, where they may not."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._local = threading.local()
        self._shared = tritonclient.grpc.InferenceServerClient(load.address) if load.protocol == "grpc" else None
        self._sdk = tritonclient.grpc if load.protocol == "grpc" else tritonclient.http

    def prepare(self, dense: NDArray[np.float32], indices: NDArray[Any]) -> list[Any]:
        """A query's inputs."""
        tensors = []
        for name, array in (("dense", dense), ("indices", indices)):
            tensor = self._sdk.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
            tensor.set_data_from_numpy(array)
            tensors.append(tensor)
        return tensors

    def infer(self, inputs: list[Any]) -> NDArray[np.float32] | None:
        """The scores of one query."""
        if self._shared is not None:
            result = self._shared.infer(self._load.model, inputs, client_timeout=self._load.timeout_s)
        else:
            if not hasattr(self._local, "client"):
                timeout_s = self._load.timeout_s
                self._local.client = tritonclient.http.InferenceServerClient(
                    self._load.address, network_timeout=timeout_s, connection_timeout=timeout_s
                )
            result = self._local.client.infer(self._load.model, inputs)
        scores: NDArray[np.float32] | None = result.as_numpy("score")
        return scores


class Sender:
    """Sends queries at Poisson times of a rate that may change, and writes a line for each answer."""

    def __init__(self, load: Load, queries: Queries, out: TextIO) -> None:
        self._client = _Client(load)
        self._queries = queries
        self._prepared = [self._client.prepare(*queries.query(number)) for number in range(len(queries))]
        self._out = out
        self._random = random.Random(load.seed)  # noqa: S311 - traffic, no secret
        self._changed = threading.Condition()
        self._telling = threading.Lock()
        self._qps = 0.0
        self._ended = False
        self._in_flight = 0

    def change(self, qps: float | None) -> None:
        """Send so many queries a second from now on; None: no more at all."""
        with self._changed:
            self._ended = qps is None
            self._qps = qps or 0.0
            self._changed.notify_all()
        if qps == 0:
            self._tell_idle()

    def run(self) -> None:
        """Send until `change(None)`; returns when the last answer has come.

        Arrivals are those of a Poisson process: one comes when the rate, summed up over time since the one before,
        reaches a unit exponential.
        """
        with ThreadPoolExecutor(THREADS) as pool:
            now_s, left = time.perf_counter(), self._random.expovariate(1)
            while not self._ended:
                qps = self._qps
                due_s = now_s + (left / qps if qps else PAUSE_S)
                if self._changes_before(due_s, qps):
                    left -= qps * (time.perf_counter() - now_s)
                    now_s = time.perf_counter()
                elif qps:
                    self._in_flight_changes(1)
                    pool.submit(self._send, self._random.randrange(len(self._queries)), due_s)
                    now_s, left = due_s, self._random.expovariate(1)

    def _changes_before(self, due_s: float, qps: float) -> bool:
        """Wait until `due_s`, or until the rate is no longer `qps`."""
        with self._changed:
            return self._changed.wait_for(
                lambda: self._ended or self._qps != qps, max(0.0, due_s - time.perf_counter())
            )

    def _in_flight_changes(self, by: int) -> None:
        with self._changed:
            self._in_flight += by
            if self._in_flight == 0:
                self._changed.notify_all()

    def _send(self, number: int, due_s: float) -> None:
        try:
            problem = self._queries.wrong(number, self._client.infer(self._prepared[number]))
        except (InferenceServerException, HTTPParseError, OSError) as exc:
            problem = str(exc) or type(exc).__name__
        latency_s = time.perf_counter() - due_s
        line = f"{time.time() - latency_s:.6f} {1000 * latency_s:.3f} {' '.join((problem or '').split())}"
        self._tell(line)
        self._in_flight_changes(-1)

    def _tell_idle(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._in_flight == 0)
        self._tell("idle")

    def _tell(self, line: str) -> None:
        with self._telling:
            self._out.write(line + "\n")
            self._out.flush()


def main() -> None:
    """Serve the input until it ends."""
    load = Load(**json.loads(sys.argv[1]))
    sender = Sender(load, load_queries(Path(load.workload), load.batch), sys.stdout)
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
