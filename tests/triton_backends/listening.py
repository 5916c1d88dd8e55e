"""A native shard that listens, in this process, and what is sent to it."""

from __future__ import annotations

import ctypes
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2 as pb

from tests.certificates import Certificates
from tests.triton_backends.fake_triton import Backend, Model
from tests.triton_backends.test_fanout_frames import (
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    SETTINGS,
    frame,
    literal,
    prefixed,
)
from tests.triton_backends.test_native_shard import bags, write
from triton_backends.embedding_shard.shard import EmbeddingShard

METHOD = "/inference.GRPCInferenceService/ModelInfer"
MOST_ROWS = 4096  # of a query


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


@dataclass(frozen=True)
class Listening:
    """A shard that listens, over TLS where there are certificates, and the same in Python to compare with."""

    backend: Backend
    model: Model
    port: int
    python: EmbeddingShard
    certificates: Certificates | None
    log_begin: int

    def count(self, name: str) -> int:
        return ctypes.c_int32.in_dll(self.backend.fake, name).value

    def holds(self, calls: int) -> bool:
        """Whether so many are under way."""
        return self.count("fake_under_way") == calls

    @contextmanager
    def holding(self) -> Iterator[None]:
        """No call is answered within the block."""
        self.backend.fake.fake_hold(True)
        try:
            yield
        finally:
            self.backend.fake.fake_hold(False)

    def channel(
        self, options: list[tuple[str, int]] | None = None, compression: grpc.Compression | None = None
    ) -> grpc.Channel:
        """Of real gRPC, in what the shard speaks."""
        address, pki = f"127.0.0.1:{self.port}", self.certificates
        if pki is None:
            return grpc.insecure_channel(address, options, compression)
        return grpc.secure_channel(address, pki.credentials(pki), options, compression)

    def connect(self) -> socket.socket:
        """To send bytes behind TLS, if the shard speaks that."""
        plain, pki = self.connect_plainly(), self.certificates
        return plain if pki is None else pki.context(pki).wrap_socket(plain, server_hostname="127.0.0.1")

    def connect_plainly(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)

    def idle(self) -> bool:
        """Nothing of any call is left."""
        return not any(self.count(f"fake_{what}") for what in ("under_way", "live_requests", "live_answers"))

    @property
    def log(self) -> str:
        """The server's, since the shard was loaded."""
        return log_of(self.backend)[self.log_begin :]


def log_of(backend: Backend) -> str:
    return ctypes.string_at(ctypes.addressof(ctypes.c_char.in_dll(backend.fake, "fake_log"))).decode()


@contextmanager
def listening(
    shard: Backend, folder: Path, certificates: Certificates | None, mutual: bool = True, instances: int = 4096
) -> Iterator[Listening]:
    """Afterwards nobody listens there, and no request has changed while the shard had it.

    mutual: clients must have a certificate too. instances: as many as the fake has threads, one for each call under
    way, or fewer to see what the listener does where these are busy.
    """
    folder, port, log_begin = write(folder, MOST_ROWS), free_port(), len(log_of(shard))
    model = Model(shard, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ELASTICREC_LISTEN", f"127.0.0.1:{port}")
        for name, value in (certificates.listener if certificates else {}).items():
            if mutual or not name.endswith("_CA"):
                patch.setenv(name, value)
        model.__enter__()
    for _ in range(instances - 1):
        model.add(model.instance)
    shard.fake.fake_serve(shard.library.TRITONBACKEND_ModelInstanceExecute, ctypes.byref(model.instance))
    try:
        made = Listening(shard, model, port, EmbeddingShard.open(folder / "1"), certificates, log_begin)
        yield made
    finally:
        model.__exit__()
    assert made.count("fake_changed") == 0
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))


def request(query: dict[str, np.ndarray], model: str = "m", version: str = "1") -> pb.ModelInferRequest:
    made = pb.ModelInferRequest(model_name=model, model_version=version)
    for name, array in query.items():
        made.inputs.add(name=name, datatype="INT32", shape=array.shape)
        made.raw_input_contents.append(array.tobytes())
    return made


def infer_of(channel: grpc.Channel) -> grpc.UnaryUnaryMultiCallable:
    return channel.unary_unary(METHOD, pb.ModelInferRequest.SerializeToString, pb.ModelInferResponse.FromString)


def sums(answer: pb.ModelInferResponse) -> np.ndarray:
    (output,), (raw,) = answer.outputs, answer.raw_output_contents
    assert (output.name, output.datatype) == ("sums", "FP32")
    return np.frombuffer(raw, np.float32).reshape(output.shape)


# a call byte by byte: the connection's beginning, and its first stream
REQUEST = (
    literal(":method", "POST")
    + literal(":scheme", "http")
    + literal(":path", METHOD)
    + literal(":authority", "x")
    + literal("te", "trailers")
    + literal("content-type", "application/grpc")
)
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HELLO = PREFACE + frame(SETTINGS, 0, 0)
HEAD = frame(HEADERS, END_HEADERS, 1, REQUEST)
BODY = prefixed(request(bags(1, 2)).SerializeToString())
WHOLE = HEAD + frame(DATA, END_STREAM, 1, BODY)
