"""A replica whose answers are wrong as HTTP/2 or gRPC already, beside one that answers rightly."""

import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tritonclient.grpc import service_pb2 as pb

from tests.triton_backends.fake_shard import FakeShard, serving
from tests.triton_backends.fake_triton import Backend, BackendError
from tests.triton_backends.fanouts import eventually, make

NEVER_US = 600_000_000


def frame(kind: int, flags: int, stream: int, body: bytes = b"") -> bytes:
    return len(body).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + body


def literal(name: str, value: str) -> bytes:
    """A header as HPACK writes it without its tables."""
    return b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()


DATA, HEADERS, RST_STREAM, SETTINGS, GOAWAY, END_STREAM, END_HEADERS = 0, 1, 3, 4, 7, 1, 4
OK_200 = b"\x88"
GRPC = OK_200 + literal("content-type", "application/grpc")
GOOD_END = literal("grpc-status", "0")
MESSAGE = pb.ModelInferResponse(model_name="m").SerializeToString()


def prefixed(message: bytes, compressed: int = 0, size: int | None = None) -> bytes:
    return bytes([compressed]) + (len(message) if size is None else size).to_bytes(4, "big") + message


def reply(stream: int, body: bytes, headers: bytes = GRPC, trailers: bytes = GOOD_END) -> bytes:
    return (
        frame(HEADERS, END_HEADERS, stream, headers)
        + frame(DATA, 0, stream, body)
        + frame(HEADERS, END_HEADERS | END_STREAM, stream, trailers)
    )


# by name: what a server says to a query, and what the router says of it
FRAMES: dict[str, tuple[Callable[[int], bytes], str]] = {
    "compressed": (lambda s: reply(s, prefixed(MESSAGE, 1)), "INTERNAL: expected an answer that is not compressed"),
    "cut short": (lambda s: reply(s, prefixed(MESSAGE, 0, 99)), "INTERNAL: the answer is cut short"),
    "no message": (lambda s: reply(s, b""), "INTERNAL: the answer is cut short"),
    "two messages": (lambda s: reply(s, 2 * prefixed(MESSAGE)), "INTERNAL: expected one message"),
    "longer than any": (lambda s: reply(s, prefixed(b"", 0, 0xFFFFFFFF)), "INTERNAL: the answer is too long"),
    "a page": (
        lambda s: reply(s, b"<html>", OK_200 + literal("content-type", "text/html")),
        "INTERNAL: it is no gRPC server: it answers with content-type text/html",
    ),
    "an unknown status": (lambda s: reply(s, b"", trailers=literal("grpc-status", "99")), "UNKNOWN: "),
    "no status": (lambda s: reply(s, prefixed(MESSAGE), trailers=literal("x", "y")), "UNKNOWN: the stream was broken"),
    "HTTP status 500": (
        lambda s: frame(HEADERS, END_HEADERS | END_STREAM, s, b"\x8e"),
        "UNKNOWN: HTTP status 500",
    ),
    "a reset": (lambda s: frame(RST_STREAM, 0, s, (2).to_bytes(4, "big")), "UNAVAILABLE: the stream was broken off"),
    "the answer without an end": (
        lambda s: frame(HEADERS, END_HEADERS, s, GRPC) + frame(DATA, 0, s, prefixed(MESSAGE, 1)),
        "INTERNAL: expected an answer that is not compressed",
    ),
}


def answer_frames(client: socket.socket, reply_to: Callable[[int], bytes], queries: list[int]) -> None:
    """Probes get an empty message, queries what `reply_to` makes of their stream."""
    bodies: dict[int, bytes] = {}
    with client, client.makefile("rb") as stream:
        try:
            stream.read(24)  # the preface
            while head := stream.read(9):
                body = stream.read(int.from_bytes(head[:3], "big"))
                number = int.from_bytes(head[5:], "big")
                if head[3] == DATA:
                    bodies[number] = bodies.get(number, b"") + body
                if head[3] == DATA and head[4] & END_STREAM:
                    request = pb.ModelInferRequest.FromString(bodies.pop(number)[5:])
                    is_query = bool(request.raw_input_contents[0])
                    queries.extend([number] * is_query)
                    client.sendall(reply_to(number) if is_query else reply(number, prefixed(b"")))
        except OSError:
            return


@contextmanager
def framing(reply_to: Callable[[int], bytes]) -> Iterator[tuple[str, list[int]]]:
    """A server's address, and the streams of the queries that it has got."""
    queries: list[int] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            while True:
                try:
                    client, _ = listener.accept()
                except OSError:
                    return
                client.sendall(frame(SETTINGS, 0, 0))
                threading.Thread(target=answer_frames, args=[client, reply_to, queries], daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield f"127.0.0.1:{listener.getsockname()[1]}", queries
        listener.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("how", FRAMES)
def test_no_query_fails_beside_one_whose_frames_are_wrong(backend: Backend, tmp_path: Path, how: str) -> None:
    reply_to, text = FRAMES[how]
    a, good = FakeShard(2), FakeShard(2)
    with serving(a, good), framing(reply_to) as (address, queries):
        fanout = make(backend, tmp_path, [a], [good], deadline_us=NEVER_US)
        with fanout.running() as model:
            fanout.write_addresses(tier0=[a.address], tier1=[good.address, address])
            eventually(lambda: f"replica {address} serves" in fanout.log)
            fanout.check(model, *range(30))
            assert fanout.metric("replicas", service="tier1") == 2
            assert 1 <= len(queries) <= 2 + fanout.times_set_aside(address)
            fanout.write_addresses(tier0=[a.address], tier1=[address])
            eventually(lambda: f"service tier1: replicas {address}\n" in fanout.log)
            with pytest.raises(BackendError, match=f"service tier1: replica {address}: {re.escape(text)}"):
                model.infer(fanout.query(2))
