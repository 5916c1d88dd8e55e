"""What sends queries for a load test, over gRPC or HTTP: `tritonclient`'s own messages over plain connections.

A query is made into the bytes that go over the wire once, beforehand; so no time of the load test's own counts as the
server's.
"""

from __future__ import annotations

import http.client
import itertools
import json
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import grpc
import tritonclient.grpc
import tritonclient.http
from tritonclient.grpc import service_pb2

from repo_builder.model.arrays import Array, Arrays, from_wire, wired
from repo_builder.model.types import Tensor

Protocol = Literal["grpc", "http"]
HEADER_LENGTH = "Inference-Header-Content-Length"


@dataclass(frozen=True, slots=True)
class SenderSettings:
    """What to send, and where to; `address` is host:port, or several with commas between; `batch` rows make a query.

    inputs, outputs: the model's.
    """

    protocol: Protocol
    address: str
    model: str
    workload: str
    batch: int
    timeout_s: float
    seed: int
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]

    def to_json(self) -> str:
        """What the sending process is started with."""
        return json.dumps(asdict(self))


def settings_of(document: Mapping[str, Any]) -> SenderSettings:
    """A load of its fields, as another process tells them."""
    tensors = {
        key: tuple(Tensor(each["name"], each["datatype"], tuple(each["shape"])) for each in document[key])
        for key in ("inputs", "outputs")
    }
    return SenderSettings(**{**document, **tensors})


class QueryError(Exception):
    """A query that was not answered, and why."""


class GrpcClient:
    """Asks the addresses in turn, over a channel each that all threads share."""

    def __init__(self, load: SenderSettings) -> None:
        self._load = load
        sizes = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
        channels = [grpc.insecure_channel(address, options=sizes) for address in load.address.split(",")]
        name, answer = "/inference.GRPCInferenceService/ModelInfer", service_pb2.ModelInferResponse.FromString
        self._turn = itertools.count()
        self._calls: list[Any] = [channel.unary_unary(name, response_deserializer=answer) for channel in channels]

    def prepare(self, query: Arrays) -> bytes:
        """A query as it goes over the wire."""
        request = service_pb2.ModelInferRequest(model_name=self._load.model)
        sent = wired(query, self._load.inputs)
        for tensor in self._load.inputs:
            array = sent[tensor.name]
            request.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=array.shape)
            request.raw_input_contents.append(array.tobytes())
        return bytes(request.SerializeToString())

    def infer(self, query: bytes) -> Any:
        """Its answer; raises QueryError."""
        call = self._calls[next(self._turn) % len(self._calls)]
        try:
            return call(query, timeout=self._load.timeout_s)
        except grpc.RpcError as exc:
            raise QueryError(f"[{exc.code()}] {exc.details()}") from exc

    def outputs(self, answer: Any) -> dict[str, Array]:
        """The outputs of an answer that it has."""
        return _outputs(tritonclient.grpc.InferResult(answer), self._load.outputs)


class HttpClient:
    """Asks the addresses in turn, each thread over connections of its own."""

    def __init__(self, load: SenderSettings) -> None:
        self._load = load
        self._local = threading.local()
        self._addresses, self._turn = load.address.split(","), itertools.count()

    def prepare(self, query: Arrays) -> tuple[bytes, dict[str, str]]:
        """A query's body and headers."""
        inputs, sent = [], wired(query, self._load.inputs)
        for tensor in self._load.inputs:
            array = sent[tensor.name]
            inputs.append(tritonclient.http.InferInput(tensor.name, list(array.shape), tensor.datatype))
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

    def outputs(self, answer: tuple[bytes, str | None]) -> dict[str, Array]:
        """The outputs of an answer that it has."""
        body, length = answer
        result = tritonclient.http.InferenceServerClient.parse_response_body(
            body, header_length=int(length) if length else None
        )
        return _outputs(result, self._load.outputs)

    def _connection(self, address: str) -> http.client.HTTPConnection:
        connections: dict[str, http.client.HTTPConnection] = self._local.__dict__.setdefault("connections", {})
        if address not in connections:
            connections[address] = http.client.HTTPConnection(address, timeout=self._load.timeout_s)
        return connections[address]


def _outputs(result: Any, outputs: tuple[Tensor, ...]) -> dict[str, Array]:
    found = ((tensor, result.as_numpy(tensor.name)) for tensor in outputs)
    return {tensor.name: from_wire(array, tensor) for tensor, array in found if array is not None}


def client(load: SenderSettings) -> GrpcClient | HttpClient:
    """The one of its protocol."""
    return GrpcClient(load) if load.protocol == "grpc" else HttpClient(load)
