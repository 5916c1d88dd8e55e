"""The native shard's own port, with TLS and without: calls of real gRPC, bytes of a hostile client, many at once."""

import os
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2 as pb

from tests.certificates import Certificates
from tests.triton_backends.fake_triton import Backend, BackendError, Model
from tests.triton_backends.fanouts import eventually
from tests.triton_backends.listening import (
    BODY,
    HEAD,
    HELLO,
    METHOD,
    MOST_ROWS,
    PREFACE,
    REQUEST,
    WHOLE,
    Listening,
    free_port,
    infer_of,
    request,
    sums,
)
from tests.triton_backends.listening import listening as opened
from tests.triton_backends.test_fanout_frames import (
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    RST_STREAM,
    frame,
    prefixed,
)
from tests.triton_backends.test_native_shard import bags, write

WINDOW_UPDATE = 8


@pytest.fixture(scope="module", params=["plain text", "TLS"])
def listening(
    request: pytest.FixtureRequest, shard: Backend, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Listening]:
    folder = tmp_path_factory.mktemp("listening")
    certificates = Certificates(folder / "pki") if request.param == "TLS" else None
    with opened(shard, folder, certificates) as made:
        yield made


@pytest.fixture
def call(listening: Listening) -> Iterator[grpc.UnaryUnaryMultiCallable]:
    """ModelInfer of real gRPC; afterwards nothing is left of any call."""
    with listening.channel() as channel:
        yield infer_of(channel)
    eventually(listening.idle)
    assert listening.count("fake_live_errors") == 0


@pytest.mark.parametrize("batch", [0, 1, 16, MOST_ROWS])
def test_an_answer_is_that_of_the_python_shard(
    listening: Listening, call: grpc.UnaryUnaryMultiCallable, batch: int
) -> None:
    query = bags(batch, batch)
    answer = call(request(query, version=""))
    assert (answer.model_name, answer.model_version) == ("m", "1")
    np.testing.assert_array_equal(sums(answer), listening.python.answer(query)["sums"])


def ask_at_once(listening: Listening) -> None:
    """Eight clients with forty calls under way each, and every answer is right."""
    wrong: list[int] = []

    def client(seed: int) -> None:
        with listening.channel(options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
            infer = infer_of(channel)
            queries = [bags(100 * seed + i, i % 16) for i in range(40)]
            futures = [infer.future(request(query)) for query in queries]
            for query, future in zip(queries, futures, strict=True):
                expected = listening.python.answer(query)["sums"]
                if not np.array_equal(sums(future.result()), expected):
                    wrong.append(seed)

    threads = [threading.Thread(target=client, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    eventually(listening.idle)


def test_many_connections_get_each_their_own(listening: Listening) -> None:
    """Answered by as many threads as there are calls."""
    ask_at_once(listening)


def test_requests_that_wait_stay_as_they_came(listening: Listening) -> None:
    """Each comes by itself, while those before it lie where they were read."""
    queries = {2 * seed + 1: bags(seed, 100 + 20 * seed) for seed in range(20)}  # by their streams
    with listening.connect() as client:
        client.sendall(HELLO)
        with listening.holding():
            for stream, query in queries.items():
                body = prefixed(request(query).SerializeToString())
                client.sendall(frame(HEADERS, END_HEADERS, stream, REQUEST) + frame(DATA, END_STREAM, stream, body))
                eventually(partial(listening.holds, (stream + 1) // 2))
        answers = take_answers(client, queries)
    for stream, query in queries.items():
        got = sums(pb.ModelInferResponse.FromString(answers[stream][5:]))
        np.testing.assert_array_equal(got, listening.python.answer(query)["sums"])


@pytest.fixture
def busy(shard: Backend, tmp_path: Path) -> Iterator[Listening]:
    """A listener on the core of the model's one instance, which has answered a call."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})  # the threads that are made now inherit it
    try:
        with opened(shard, tmp_path, None, instances=1) as made:
            os.sched_setaffinity(0, cores)
            with made.channel() as channel:
                infer_of(channel)(request(bags(0, 1)))
            eventually(made.idle)
            yield made
    finally:
        os.sched_setaffinity(0, cores)


def test_nothing_is_read_while_calls_wait_for_an_instance(busy: Listening) -> None:
    """It would wait as well. Afterwards all of it is answered."""
    query = bags(1, 2)
    with busy.channel([("grpc.use_local_subchannel_pool", 1)]) as early, busy.channel() as late:
        with busy.holding():
            waiting = [infer_of(early).future(request(query)) for _ in range(2)]
            eventually(lambda: busy.count("fake_under_way") == 2)
            waiting.append(infer_of(late).future(request(query)))
            time.sleep(0.3)
            assert busy.count("fake_under_way") == 2
        for future in waiting:
            np.testing.assert_array_equal(sums(future.result(20)), busy.python.answer(query)["sums"])


def test_what_is_half_sent_goes_on_while_calls_wait(busy: Listening) -> None:
    """A client that makes room for the rest of its answer needs the listener then."""
    long, query = bags(2, 600), bags(1, 2)
    streams = range(1, 9, 2)  # four answers of 28 KB, of which the connection takes 64 KB
    with busy.connect() as slow, busy.channel() as channel:
        body = prefixed(request(long).SerializeToString())
        calls = [frame(HEADERS, END_HEADERS, i, REQUEST) + frame(DATA, END_STREAM, i, body) for i in streams]
        slow.sendall(HELLO + b"".join(calls))
        eventually(lambda: busy.count("fake_under_way") == 0 and busy.count("fake_live_answers") > 0)
        with busy.holding():
            waiting = [infer_of(channel).future(request(query)) for _ in range(2)]
            eventually(lambda: busy.count("fake_under_way") == 2)
            answers = take_answers(slow, streams)
            assert busy.count("fake_under_way") == 2
        for answer in answers.values():
            got = sums(pb.ModelInferResponse.FromString(answer[5:]))
            np.testing.assert_array_equal(got, busy.python.answer(long)["sums"])
        for future in waiting:
            np.testing.assert_array_equal(sums(future.result(20)), busy.python.answer(query)["sums"])


@pytest.mark.parametrize("turn", range(3))
def test_calls_that_wait_are_answered_whoever_is_first(busy: Listening, turn: int) -> None:
    """Instances become idle while the listener reads."""
    ask_at_once(busy)


BAD = {
    "another model": (request(bags(0, 1), model="n"), "NOT_FOUND", "Request for unknown model\n(100% sure)"),
    "another version": (request(bags(0, 1), version="7"), "NOT_FOUND", "unknown model"),
    "a version that is none": (request(bags(0, 1), version="x"), "INVALID_ARGUMENT", "model_version"),
    "an input too few": (request({"ids": bags(0, 1)["ids"]}), "INVALID_ARGUMENT", "expected 2 inputs"),
    "a bad id": (
        request({**bags(3, 2), "ids": np.full_like(bags(3, 2)["ids"], 99)}),
        "INVALID_ARGUMENT",
        "ids: expected rows in [0, 50), got 99",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong_is_told_as_triton_would(call: grpc.UnaryUnaryMultiCallable, case: str) -> None:
    asked, status, details = BAD[case]
    with pytest.raises(grpc.RpcError, match=re.escape(details)) as caught:
        call(asked)
    assert caught.value.code().name == status


def contents_too_few() -> pb.ModelInferRequest:
    made = request(bags(0, 1))
    del made.raw_input_contents[1]
    return made


def contents_too_many() -> pb.ModelInferRequest:
    made = request(bags(0, 1))
    made.raw_input_contents.append(b"more")
    return made


def typed_contents() -> pb.ModelInferRequest:
    made = request({})
    made.inputs.add(name="ids", datatype="INT32", shape=[1, 1]).contents.int_contents.append(1)
    return made


MESSAGES = {
    "no protobuf": b"\xff" * 20,
    "cut short": request(bags(0, 4)).SerializeToString()[:-3],
    "a long name": request(bags(0, 1), model="m" * 300).SerializeToString(),
    "a name with a zero": request(bags(0, 1), model="m\0").SerializeToString(),
    "contents too few": contents_too_few().SerializeToString(),
    "contents too many": contents_too_many().SerializeToString(),
    "typed contents": typed_contents().SerializeToString(),
    "many dimensions": pb.ModelInferRequest(
        model_name="m", inputs=[pb.ModelInferRequest.InferInputTensor(name="ids", datatype="INT32", shape=[1] * 9)]
    ).SerializeToString(),
}


@pytest.mark.parametrize("case", MESSAGES)
def test_a_message_that_is_no_request_is_refused(listening: Listening, case: str) -> None:
    with listening.channel() as channel:
        send = channel.unary_unary(METHOD, lambda data: data, lambda data: data)
        with pytest.raises(grpc.RpcError, match="expected a ModelInferRequest's") as caught:
            send(MESSAGES[case])
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    eventually(listening.idle)


def test_other_methods_are_not_served(listening: Listening) -> None:
    with listening.channel() as channel:
        live = channel.unary_unary("/inference.GRPCInferenceService/ServerLive", lambda data: data, lambda data: data)
        with pytest.raises(grpc.RpcError, match="only ModelInfer") as caught:
            live(b"")
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_compression_is_refused(listening: Listening) -> None:
    with listening.channel(compression=grpc.Compression.Gzip) as channel:
        infer = infer_of(channel)
        with pytest.raises(grpc.RpcError, match="not compressed") as caught:
            infer(request(bags(0, 9)))
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


# by name: what a client sends, and whether the connection is closed on it; else the next call on another is answered
HOSTILE: dict[str, tuple[bytes, bool]] = {
    "HTTP/1": (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", True),
    "noise": (bytes(range(256)) * 8, True),
    "nothing but the preface": (PREFACE, False),
    "no request's end": (HELLO + HEAD + frame(DATA, 0, 1, BODY), False),
    "a message cut short": (HELLO + HEAD + frame(DATA, END_STREAM, 1, BODY[:-1]), False),
    "no message": (HELLO + frame(HEADERS, END_HEADERS | END_STREAM, 1, REQUEST), False),
    "two messages": (HELLO + HEAD + frame(DATA, END_STREAM, 1, BODY + BODY), False),
    "a size of 4 GB": (HELLO + HEAD + frame(DATA, END_STREAM, 1, prefixed(b"x", 0, 0xFFFFFFFF)), False),
    "a size of 200 MB that never come": (HELLO + HEAD + frame(DATA, 0, 1, prefixed(b"x", 0, 200_000_000)), False),
    "a call, then a reset": (HELLO + WHOLE + frame(RST_STREAM, 0, 1, (8).to_bytes(4, "big")), False),
    "a reset, then its data": (
        HELLO + HEAD + frame(RST_STREAM, 0, 1, (8).to_bytes(4, "big")) + frame(DATA, END_STREAM, 1, BODY),
        False,
    ),
    "an empty frame of data, a thousand times": (HELLO + HEAD + 1000 * frame(DATA, 0, 1), False),
    "a reset of no stream": (HELLO + frame(RST_STREAM, 0, 9, (8).to_bytes(4, "big")), True),
    "a frame longer than any": (HELLO + (0xFFFFFF).to_bytes(3, "big") + b"\0\0\0\0\0\1" + b"x" * 100, True),
}


def is_closed(client: socket.socket) -> bool:
    """Read until the other side hangs up."""
    client.settimeout(5)
    try:
        while client.recv(65536):
            pass
    except TimeoutError:
        return False
    except (ConnectionError, ssl.SSLError):
        return True
    return True


@pytest.mark.parametrize("case", HOSTILE)
def test_bytes_of_any_kind_harm_nobody_else(
    listening: Listening, call: grpc.UnaryUnaryMultiCallable, case: str
) -> None:
    sent, closes = HOSTILE[case]
    query = bags(5, 3)
    with listening.connect() as client:
        client.sendall(sent)
        if closes:
            assert is_closed(client)
        np.testing.assert_array_equal(sums(call(request(query))), listening.python.answer(query)["sums"])


def test_a_client_that_leaves_its_calls_harms_nobody(listening: Listening, call: grpc.UnaryUnaryMultiCallable) -> None:
    """Connections that end and streams that are reset while Triton works on their calls."""
    query = bags(5, 3)
    with listening.holding():
        with listening.connect() as leaving, listening.connect() as resetting:
            leaving.sendall(HELLO + WHOLE)
            resetting.sendall(HELLO + WHOLE)
            eventually(lambda: listening.count("fake_under_way") == 2)
            resetting.sendall(frame(RST_STREAM, 0, 1, (8).to_bytes(4, "big")))
        future = call.future(request(query))
        eventually(lambda: listening.count("fake_under_way") == 3)
        time.sleep(0.1)
    np.testing.assert_array_equal(sums(future.result()), listening.python.answer(query)["sums"])


def test_resets_do_not_bring_more_calls_than_a_connection_may_have(listening: Listening) -> None:
    """A call that was reset counts until it is answered, so that no flood of them fills Triton's queue."""
    reset = (8).to_bytes(4, "big")
    with listening.holding(), listening.connect() as client:
        client.sendall(HELLO)
        for stream in range(1, 2 * 700, 2):
            call = frame(HEADERS, END_HEADERS, stream, REQUEST) + frame(DATA, END_STREAM, stream, BODY)
            client.sendall(call + frame(RST_STREAM, 0, stream, reset))
        eventually(lambda: listening.count("fake_under_way") == 512, 60)
        time.sleep(0.5)
        assert listening.count("fake_under_way") == 512
    eventually(listening.idle, 60)


def take_answers(client: socket.socket, streams: Iterable[int]) -> dict[int, bytes]:
    """The bodies of these streams, whose client makes room for as much as it reads."""
    bodies = dict.fromkeys(streams, b"")
    left = set(bodies)
    client.settimeout(20)
    with client.makefile("rb") as stream:
        while left:
            head = stream.read(9)
            payload, number = stream.read(int.from_bytes(head[:3], "big")), int.from_bytes(head[5:], "big")
            if head[3] == DATA and payload:
                bodies[number] += payload
                room = len(payload).to_bytes(4, "big")
                client.sendall(frame(WINDOW_UPDATE, 0, 0, room) + frame(WINDOW_UPDATE, 0, number, room))
            elif head[3] == HEADERS and head[4] & END_STREAM:
                left.remove(number)
    return bodies


def test_a_slow_reader_gets_all_of_a_long_answer(listening: Listening) -> None:
    """More answers than the socket takes wait for it; one connection's do not hold up another's."""
    query = bags(2, 16)
    with listening.connect() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
        calls = 250
        slow.sendall(HELLO)
        body = prefixed(request(query).SerializeToString())
        for stream in range(1, 2 * calls, 2):
            slow.sendall(frame(HEADERS, END_HEADERS, stream, REQUEST) + frame(DATA, END_STREAM, stream, body))
        with listening.channel() as channel:
            infer = infer_of(channel)
            np.testing.assert_array_equal(sums(infer(request(query))), listening.python.answer(query)["sums"])
        bodies = take_answers(slow, range(1, 2 * calls, 2))
        for body in bodies.values():
            answer = pb.ModelInferResponse.FromString(body[5:])
            np.testing.assert_array_equal(sums(answer), listening.python.answer(query)["sums"])
    eventually(listening.idle)


@pytest.mark.parametrize(
    ("where", "why"),
    [
        ("127.0.0.1", "no port"),
        (":8001", "no host"),
        ("localhost:8001", "HOST:PORT"),
        ("127.0.0.1:x", "HOST:PORT"),
        ("192.0.2.1:18001", "Cannot assign requested address"),
    ],
)
def test_where_it_cannot_listen_is_told(
    shard: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, why: str
) -> None:
    monkeypatch.setenv("ELASTICREC_LISTEN", where)
    with pytest.raises(BackendError, match=re.escape(why)) as caught, Model(shard, write(tmp_path)):
        pass
    assert f"ELASTICREC_LISTEN={where}" in str(caught.value)


def test_a_port_that_is_taken_is_told(
    listening: Listening, shard: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ELASTICREC_LISTEN", f"127.0.0.1:{listening.port}")
    with pytest.raises(BackendError, match="Address already in use"), Model(shard, write(tmp_path)):
        pass


def test_ipv6_is_taken_in_brackets(shard: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    monkeypatch.setenv("ELASTICREC_LISTEN", f"[::1]:{port}")
    with Model(shard, write(tmp_path)):
        socket.create_connection(("::1", port)).close()
