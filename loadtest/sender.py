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

import itertools
import json
import random
import sys
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TextIO, TypeAlias

import grpc
import numpy as np
import tritonclient.grpc
import tritonclient.http
from geventhttpclient.response import HTTPParseError
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from loadtest.queries import Queries, load_queries

Protocol = Literal["grpc", "http"]
THREADS = 256  # queries in flight; more wait, and that counts as their latency
PAUSE_S = 3600.0
INFER = "/inference.GRPCInferenceService/ModelInfer"
Answer: TypeAlias = Any  # of tritonclient, which has no types


@dataclass(frozen=True, slots=True)
class Load:
    """What to send, and where to; `address` is host:port, or several with commas between; `batch` rows make a query."""

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


class _GrpcClient:
    """Asks the addresses in turn, over a channel each that the threads share; a query is serialized only once."""

    def __init__(self, load: Load) -> None:
        self._load = load
        sizes = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
        channels = [grpc.insecure_channel(address, options=sizes) for address in load.address.split(",")]
        answer = service_pb2.ModelInferResponse.FromString
        self._turn = itertools.count()
        self._calls: list[Any] = [channel.unary_unary(INFER, response_deserializer=answer) for channel in channels]

    def prepare(self, dense: NDArray[np.float32], indices: NDArray[Any]) -> bytes:
        """A query as it goes over the wire."""
        request = service_pb2.ModelInferRequest(model_name=self._load.model)
        for name, array in (("dense", dense), ("indices", indices)):
            request.inputs.add(name=name, datatype=np_to_triton_dtype(array.dtype), shape=array.shape)
            request.raw_input_contents.append(array.tobytes())
        return bytes(request.SerializeToString())

    def infer(self, query: bytes) -> Answer:
        """Its answer; raises grpc.RpcError."""
        call = self._calls[next(self._turn) % len(self._calls)]
        return call(query, timeout=self._load.timeout_s)

    def scores(self, answer: Answer) -> NDArray[np.float32] | None:
        """The scores of an answer."""
        return _scores(tritonclient.grpc.InferResult(answer))


class _HttpClient:
    """Asks the addresses in turn, each thread by clients of its own: they may not be shared."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._local = threading.local()
        self._addresses, self._turn = load.address.split(","), itertools.count()

    def prepare(self, dense: NDArray[np.float32], indices: NDArray[Any]) -> list[tritonclient.http.InferInput]:
        """A query's inputs."""
        tensors = []
        for name, array in (("dense", dense), ("indices", indices)):
            tensor = tritonclient.http.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
            tensor.set_data_from_numpy(array)
            tensors.append(tensor)
        return tensors

    def infer(self, query: list[tritonclient.http.InferInput]) -> Answer:
        """Its answer; raises InferenceServerException, HTTPParseError or OSError."""
        return self._client(self._addresses[next(self._turn) % len(self._addresses)]).infer(self._load.model, query)

    def scores(self, answer: Answer) -> NDArray[np.float32] | None:
        """The scores of an answer."""
        return _scores(answer)

    def _client(self, address: str) -> Any:
        clients: dict[str, Any] = self._local.__dict__.setdefault("clients", {})
        if address not in clients:
            timeout_s = self._load.timeout_s
            clients[address] = tritonclient.http.InferenceServerClient(
                address, network_timeout=timeout_s, connection_timeout=timeout_s
            )
        return clients[address]


def _scores(result: Any) -> NDArray[np.float32] | None:
    scores: NDArray[np.float32] | None = result.as_numpy("score")
    return scores


_CLIENTS: dict[Protocol, type[Any]] = {"grpc": _GrpcClient, "http": _HttpClient}


class Sender:
    """Sends queries at Poisson times of a rate that may change, and writes a line for each answer.

    Of the threads that have no query one waits until the next is due and sends it itself; then another waits. So
    between a query's time and its sending no thread has to wake another.
    """

    def __init__(self, load: Load, queries: Queries, out: TextIO) -> None:
        self._client: Any = _CLIENTS[load.protocol](load)
        self._queries = queries
        self._prepared = [self._client.prepare(*queries.query(number)) for number in range(len(queries))]
        self._out = out
        self._random = random.Random(load.seed)  # noqa: S311 - traffic, no secret
        self._threads: list[threading.Thread] = []  # no more than it takes: over HTTP each has a connection to open
        self._waiting = threading.Lock()  # held by who waits for the next query's time
        self._changed = threading.Condition()
        self._telling = threading.Lock()
        self._qps = 0.0
        self._ended = False
        self._in_flight = 0
        self._now_s, self._left = time.perf_counter(), self._random.expovariate(1)

    def change(self, qps: float | None) -> None:
        """Send so many queries a second from now on; None: no more at all."""
        with self._changed:
            self._ended = qps is None
            self._qps = qps or 0.0
            self._changed.notify_all()
        if qps == 0:
            self._tell_idle()

    def run(self) -> None:
        """Send until `change(None)`; returns when the last answer has come."""
        self._start_thread()
        for thread in self._threads:  # which grow in number meanwhile
            thread.join()

    def _start_thread(self) -> None:
        self._threads.append(threading.Thread(target=self._send_all))
        self._threads[-1].start()

    def _send_all(self) -> None:
        while True:
            with self._waiting:
                due_s = self._next()
                if due_s is None:
                    return
                number = self._random.randrange(len(self._queries))
                if self._in_flight == len(self._threads) < THREADS:  # nobody is left to wait for the next
                    self._start_thread()
            self._send(number, due_s)

    def _next(self) -> float | None:
        """Wait until a query is due, and say when it was; None at the end.

        Arrivals are those of a Poisson process: one comes when the rate, summed up over time since the one before,
        reaches a unit exponential.
        """
        while not self._ended:
            qps = self._qps
            due_s = self._now_s + (self._left / qps if qps else PAUSE_S)
            if self._changes_before(due_s, qps):
                self._left -= qps * (time.perf_counter() - self._now_s)
                self._now_s = time.perf_counter()
            elif qps:
                self._in_flight_changes(1)
                self._now_s, self._left = due_s, self._random.expovariate(1)
                return due_s
        return None

    def _changes_before(self, due_s: float, qps: float) -> bool:
        """Wait until `due_s`, or until the rate is no longer `qps`."""
        with self._changed:
            return self._changed.wait_for(
                lambda: self._ended or self._qps != qps, max(0.0, due_s - time.perf_counter())
            )

    def _in_flight_changes(self, by: int) -> None:
        with self._changed:
            self._in_flight += by
            if self._in_flight == 0 and self._qps == 0:
                self._changed.notify_all()  # who tells that it is idle; who waits for a query's time need not wake

    def _send(self, number: int, due_s: float) -> None:
        try:
            answer = self._client.infer(self._prepared[number])
            latency_s = time.perf_counter() - due_s
            problem = self._queries.wrong(number, self._client.scores(answer))
        except (InferenceServerException, HTTPParseError, OSError) as exc:
            latency_s, problem = time.perf_counter() - due_s, str(exc) or type(exc).__name__
        except grpc.RpcError as exc:
            latency_s, problem = time.perf_counter() - due_s, f"[{exc.code()}] {exc.details()}"
        due_unix_s = time.time() - (time.perf_counter() - due_s)
        line = f"{due_unix_s:.6f} {1000 * latency_s:.3f} {' '.join((problem or '').split())}"
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
