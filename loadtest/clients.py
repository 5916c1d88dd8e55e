"""What sends queries for a load test, over gRPC or HTTP: `tritonclient`'s own messages over plain connections.

A query is made into the bytes that go over the wire once, beforehand; so no time of the load test's own counts as the
server's.
"""

from __future__ import annotations

import http.client
import itertools
import json
import threading
from dataclasses import asdict, dataclass
from typing import Any, Literal

import grpc
import numpy as np
import tritonclient.grpc
import tritonclient.http
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2
from tritonclient.utils import np_to_triton_dtype

Protocol = Literal["grpc", "http"]
HEADER_LENGTH = "Inference-Header-Content-Length"


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
        """What the sending process is started with."""
        return json.dumps(asdict(self))


class QueryError(Exception):
    """A query that was not answered, and why."""


class GrpcClient:
    """Asks the addresses in turn, over a channel each that all threads share."""

    def __init__(self, load: Load) -> None:
        self._load = load
        sizes = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
        channels = [grpc.insecure_channel(address, options=sizes) for address in load.address.split(",")]
        name, answer = "/inference.GRPCInferenceService/ModelInfer", service_pb2.ModelInferResponse.FromString
        self._turn = itertools.count()
        self._calls: list[Any] = [channel.unary_unary(name, response_deserializer=answer) for channel in channels]

    def prepare(self, dense: NDArray[np.float32], indices: NDArray[Any]) -> bytes:
        """A query as it goes over the wire."""
        request = service_pb2.ModelInferRequest(model_name=self._load.model)
        for name, array in (("dense", dense), ("indices", indices)):
            request.inputs.add(name=name, datatype=np_to_triton_dtype(array.dtype), shape=array.shape)
            request.raw_input_contents.append(array.tobytes())
        return bytes(request.SerializeToString())

    def infer(self, query: bytes) -> Any:
        """Its answer; raises QueryError."""
        call = self._calls[next(self._turn) % len(self._calls)]
        try:
            return call(query, timeout=self._load.timeout_s)
        except grpc.RpcError as exc:
            raise QueryError(f"[{exc.code()}] {exc.details()}") from exc

    def scores(self, answer: Any) -> NDArray[np.float32] | None:
        """The scores of an answer."""
        scores: NDArray[np.float32] | None = tritonclient.grpc.InferResult(answer).as_numpy("score")
        return scores


class HttpClient:
    """Asks the addresses in turn, each thread over connections of its own."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._local = threading.local()
        self._addresses, self._turn = load.address.split(","), itertools.count()

    def prepare(self, dense: NDArray[np.float32], indices: NDArray[Any]) -> tuple[bytes, dict[str, str]]:
        """A query's body and headers."""
        inputs = []
        for name, array in (("dense", dense), ("indices", indices)):
            inputs.append(tritonclient.http.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype)))
            inputs[-1].set_data_from_numpy(array)
        body, header_length = tritonclient.http.InferenceServerClient.generate_request_body(inputs)
        return bytes(body), {HEADER_LENGTH: str(header_length)}

    def infer(self, query: tuple[bytes, dict[str, str]]) -> tuple[bytes, str | None]:
        """Its answer's body, and the length of its JSON; raises QueryError."""
        connection = self._connection(self._addresses[next(self._turn) % len(self._addresses)])
        try:
            connection.request("POST", f"/v2/models/{self._load.model}/infer", *query)
            answer = connection.getresponse()
            body = answer.read()
        except (OSError, http.client.HTTPException) as exc:
            connection.close()  # it opens anew for the next query
            raise QueryError(str(exc) or type(exc).__name__) from exc
        if answer.status != http.client.OK:
            raise QueryError(f"[{answer.status}] {body.decode(errors='replace')}")
        return body, answer.getheader(HEADER_LENGTH)

    def scores(self, answer: tuple[bytes, str | None]) -> NDArray[np.float32] | None:
        """The scores of an answer."""
        body, length = answer
        result = tritonclient.http.InferenceServerClient.parse_response_body(
            body, header_length=int(length) if length else None
        )
        scores: NDArray[np.float32] | None = result.as_numpy("score")
        return scores

    def _connection(self, address: str) -> http.client.HTTPConnection:
        connections: dict[str, http.client.HTTPConnection] = self._local.__dict__.setdefault("connections", {})
        if address not in connections:
            connections[address] = http.client.HTTPConnection(address, timeout=self._load.timeout_s)
        return connections[address]


def client(load: Load) -> GrpcClient | HttpClient:
    """The one of its protocol."""
    return GrpcClient(load) if load.protocol == "grpc" else HttpClient(load)
