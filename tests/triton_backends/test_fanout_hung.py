"""What the router keeps of queries that a hung server never answers: nothing that grows with them."""

import ctypes
import socket
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes import Structure, c_size_t
from pathlib import Path

import numpy as np
import pytest
from tritonclient.grpc import service_pb2 as pb

from tests.triton_backends.fake_shard import FakeShard, serving
from tests.triton_backends.fake_triton import Backend, BackendError
from tests.triton_backends.fanouts import FEATURES, FanOut, Model, eventually, make

QUERIES, AT_A_TIME, ROWS = 1600, 64, 3000
MANY = 1024  # at a time, for small queries
SETTINGS = bytes([0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 4, 0x7F, 0xFF, 0xFF, 0xFF])  # a stream may send 2 GiB
WINDOW = bytes([0, 0, 4, 8, 0, 0, 0, 0, 0, 0x7F, 0, 0, 0])  # and so may all together
NARROW = bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
DATA, RST_STREAM, END_STREAM, CANCEL = 0, 3, 1, 8
SMALL_BUFFER = 1 << 16
HELD = 4 * AT_A_TIME  # large queries: 16 MB, more than any socket holds


class _Memory(Structure):
    """glibc's `struct mallinfo2`."""

    _fields_ = (
        ("before", c_size_t * 4),
        ("hblkhd", c_size_t),  # bytes in maps of their own
        ("between", c_size_t * 2),
        ("uordblks", c_size_t),  # bytes in the arenas that are in use
        ("after", c_size_t * 2),
    )


def allocated_bytes() -> int:
    """What this process has from malloc now."""
    mallinfo = ctypes.CDLL(None).mallinfo2
    mallinfo.restype = _Memory
    memory = mallinfo()
    return int(memory.uordblks + memory.hblkhd)


class Hung:
    """A server that takes requests and never answers.

    deaf: that does not read them before `hears` is set; narrow: that takes 64 KiB of them.
    """

    def __init__(self, *, deaf: bool, narrow: bool) -> None:
        self.hears = threading.Event()
        if not deaf:
            self.hears.set()
        self.greeting = NARROW if narrow else SETTINGS + WINDOW
        self.clients: list[socket.socket] = []
        self.resets: list[bytes] = []
        self.requests: list[bytes] = []  # those that a server that was deaf has got whole
        self.address = ""

    def accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            self.clients.append(client)
            client.sendall(self.greeting)
            threading.Thread(target=self.read, args=[client], daemon=True).start()

    def read(self, client: socket.socket) -> None:
        parts: dict[bytes, bytes] = defaultdict(bytes)
        keeps = not self.hears.is_set()
        self.hears.wait()
        with client.makefile("rb") as stream:
            try:
                stream.read(24)  # the preface
                while head := stream.read(9):
                    body = stream.read(int.from_bytes(head[:3], "big"))
                    if head[3] == RST_STREAM:
                        self.resets.append(body)
                    if head[3] == DATA and keeps:
                        parts[head[5:]] += body
                    if head[3] == DATA and keeps and head[4] & END_STREAM:
                        self.requests.append(parts.pop(head[5:]))
            except OSError:
                return


@contextmanager
def hanging(*, deaf: bool = False, narrow: bool = False) -> Iterator[Hung]:
    server = Hung(deaf=deaf, narrow=narrow)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        if deaf:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER)
        server.address = f"127.0.0.1:{listener.getsockname()[1]}"
        threading.Thread(target=server.accept, args=[listener], daemon=True).start()
        yield server
        listener.shutdown(socket.SHUT_RDWR)
        server.hears.set()
        for client in server.clients:
            client.close()


@contextmanager
def router(backend: Backend, folder: Path, hung: Hung, a: FakeShard, b: FakeShard) -> Iterator[tuple[FanOut, Model]]:
    """Over one service that answers, and one that is `hung` by the time of the first query."""
    fanout = make(backend, folder, [a], [b], deadline_us=20_000, max_in_flight=MANY, instances=MANY)  # none is joined
    with fanout.running() as model:
        fanout.write_addresses(tier0=[a.address], tier1=[hung.address])
        eventually(lambda: f"service tier1: replicas {hung.address}\n" in fanout.log)
        eventually(lambda: bool(hung.clients))
        yield fanout, model


def held_by_the_hung(fanout: FanOut, rows: int) -> dict[str, np.ndarray]:
    """A query of the second service's rows alone; no bag is the row before's."""
    rng, columns = np.random.default_rng(0), []
    for lookup, shards in zip(fanout.tiered.lookups, fanout.tiered.shard_of_rows, strict=True):
        held = np.flatnonzero(shards == 1)
        ids = held[rng.integers(0, held.size, (rows, lookup.bag))]
        ids[:, 0] = np.resize(held, rows)
        columns.append(ids)
    return {"dense": np.zeros((rows, FEATURES), np.float32), "indices": np.hstack(columns)}


def time_out(fanout: FanOut, model: Model, count: int, rows: int, at_a_time: int = AT_A_TIME) -> None:
    """Queries that only the hung service is asked for."""
    query = held_by_the_hung(fanout, rows)
    for _ in range(0, count, at_a_time):
        waiting = [model.submit([query]) for _ in range(at_a_time)]
        for pending in waiting:
            assert all(isinstance(answer, BackendError) for answer in pending.answers())


@pytest.mark.parametrize("deaf", [False, True], ids=["reads", "deaf"])
def test_queries_are_freed_at_their_deadline(backend: Backend, tmp_path: Path, deaf: bool) -> None:
    a, b = FakeShard(2), FakeShard(2)
    with serving(a, b), hanging(deaf=deaf) as hung, router(backend, tmp_path, hung, a, b) as (fanout, model):
        time_out(fanout, model, AT_A_TIME, ROWS)
        before = allocated_bytes()
        time_out(fanout, model, QUERIES, ROWS)
        assert allocated_bytes() - before < 8 << 20  # a query alone has some 200 KiB


def test_a_request_is_cancelled_only_where_the_server_has_not_got_all_of_it(backend: Backend, tmp_path: Path) -> None:
    """Triton 2.51 crashes on a call that is cancelled while it works on it."""
    a, b = FakeShard(2), FakeShard(2)
    with serving(a, b), hanging() as hung, router(backend, tmp_path, hung, a, b) as (fanout, model):
        time_out(fanout, model, AT_A_TIME, 1)
        assert fanout.metric("remote_failures", reason="timeout") == AT_A_TIME
        time_out(fanout, model, AT_A_TIME, ROWS)  # a reset would have come before these
        assert not hung.resets
    with serving(a, b), hanging(narrow=True) as hung, router(backend, tmp_path, hung, a, b) as (fanout, model):
        time_out(fanout, model, AT_A_TIME, ROWS)
        eventually(lambda: bool(hung.resets))
        assert {int.from_bytes(code, "big") for code in hung.resets} == {CANCEL}


def test_a_server_that_leaves_thousands_of_calls_unanswered_is_hung_up_on(backend: Backend, tmp_path: Path) -> None:
    a, b = FakeShard(2), FakeShard(2)
    with serving(a, b), hanging() as hung, router(backend, tmp_path, hung, a, b) as (fanout, model):
        calls = 0
        while len(hung.clients) == 1:
            assert calls < 20_000, "it was not hung up on"
            time_out(fanout, model, MANY, 1, MANY)
            calls += MANY
        assert calls > 8_000
        assert "the server has left too many calls unanswered" in fanout.log


def queries(requests: list[bytes]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The ids and lengths of requests that have come whole; probes have no ids."""
    for request in requests:
        message = pb.ModelInferRequest.FromString(request[5:])
        ids, lengths = (np.frombuffer(raw, np.int32) for raw in message.raw_input_contents)
        if ids.size:
            yield ids, lengths


def test_what_a_full_connection_held_back_arrives_as_it_was(backend: Backend, tmp_path: Path) -> None:
    """By then its queries are over, and their memory is others'."""
    a, b = FakeShard(2), FakeShard(2)
    with serving(a, b), hanging(deaf=True) as hung, router(backend, tmp_path, hung, a, b) as (fanout, model):
        time_out(fanout, model, HELD, ROWS)
        hung.hears.set()

        def another_arrives() -> bool:
            time_out(fanout, model, 1, 1, 1)
            return any(lengths.size == b.tables for _, lengths in queries(hung.requests[-1:]))

        eventually(another_arrives)
        sums = fanout.sums(held_by_the_hung(fanout, ROWS))
        large = [(ids, lengths) for ids, lengths in queries(hung.requests) if lengths.size == b.tables * ROWS]
        assert 0 < len(large) < HELD
        for ids, lengths in large:
            (raw,) = pb.ModelInferResponse.FromString(b.answer({"ids": ids, "lengths": lengths})).raw_output_contents
            np.testing.assert_array_equal(np.frombuffer(raw, np.float32).reshape(ROWS, -1), sums)
