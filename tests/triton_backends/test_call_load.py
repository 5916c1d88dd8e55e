"""The load of calls in C, on a gRPC server in this process: what arrives, how much at a time, what faults are told."""

import itertools
import signal
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2 as pb

from repo_builder.profiling.call_load import run
from repo_builder.profiling.perf_analyzer import LoadTestError
from tests.triton_backends.fake_shard import FakeShard, serving

TABLES = 2
SECONDS = 0.5
Call = Mapping[str, NDArray[Any]]


@dataclass
class Watched(FakeShard):
    """Notes each call's message, the connections, and the most calls that were under way at a time."""

    messages: list[pb.ModelInferRequest] = field(default_factory=list)
    peers: set[str] = field(default_factory=set)
    under_way: int = 0
    most: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def infer(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        with self.lock:
            self.messages.append(pb.ModelInferRequest.FromString(request))
            self.peers.add(context.peer())
            self.under_way += 1
            self.most = max(self.most, self.under_way)
        try:
            return super().infer(request, context)
        finally:
            with self.lock:
                self.under_way -= 1


def call(first: int, count: int) -> Call:
    """A query of so many ids in the first of two bags, and of weights, which may be none."""
    return {
        "ids": np.arange(first, first + count, dtype=np.int32),
        "lengths": np.array([count, 0], np.int32),
        "weights": np.full(first % 2, 0.5, np.float32),
    }


CALLS = [call(10, 1), call(21, 5), call(30, 20_000)]


@pytest.fixture
def shard() -> Iterator[Watched]:
    watched = Watched(TABLES)
    with serving(watched):
        yield watched


def load(shard: FakeShard, calls: list[Call], in_flight: int = 1, seconds: float = SECONDS, **more: float) -> int:
    """Run it, and return how many calls its figures are of."""
    begin = time.monotonic()
    measured = run(shard.address, "m_tier0", "7", calls, in_flight, seconds, **more)
    took_s = time.monotonic() - begin
    count = shard.begun - in_flight  # but for the first ones, which open the connections
    assert count / took_s <= measured.throughput_qps <= count / seconds
    assert 0 < measured.p50_ms <= measured.p95_ms <= measured.p99_ms <= 1000 * took_s
    return count


def tensors(message: pb.ModelInferRequest) -> dict[str, list[float]]:
    dtypes = {"INT32": np.int32, "FP32": np.float32}
    pairs = zip(message.inputs, message.raw_input_contents, strict=True)
    return {each.name: np.frombuffer(raw, dtypes[each.datatype]).tolist() for each, raw in pairs}


def test_calls_arrive_in_turn_as_they_were_given(shard: Watched) -> None:
    count = load(shard, CALLS)
    assert count >= len(CALLS) and shard.most == 1 and shard.under_way == 0
    assert {(message.model_name, message.model_version) for message in shard.messages} == {("m_tier0", "7")}
    given = [{name: array.tolist() for name, array in each.items()} for each in CALLS]
    for number, message in enumerate(shard.messages[1 : 3 * len(CALLS)]):
        assert tensors(message) == given[number % len(CALLS)]


@pytest.mark.parametrize("in_flight", [1, 4, 7])
def test_as_many_as_asked_are_under_way_each_on_a_connection_of_its_own(in_flight: int, shard: Watched) -> None:
    shard.delay_s = 0.1
    assert load(shard, CALLS[:2], in_flight) >= in_flight
    assert shard.most == len(shard.peers) == in_flight and shard.under_way == 0 and shard.cancelled == 0


def test_numbers_that_do_not_lie_one_after_another_are_sent_all_the_same(shard: Watched) -> None:
    ids = np.arange(20, dtype=np.int32)
    load(shard, [{"ids": ids[::2], "lengths": np.array([10, 0], np.int32)}])
    assert tensors(shard.messages[-1])["ids"] == ids[::2].tolist()


def test_a_call_is_counted_though_it_takes_longer_than_the_load(shard: Watched) -> None:
    shard.delay_s = 0.2
    assert load(shard, CALLS, 2, 0.01) == 2


def test_of_more_calls_than_there_is_room_for_the_first_ones_times_are_kept(
    shard: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("repo_builder.profiling.call_load._MOST_LATENCIES", 3)
    assert load(shard, CALLS[:1], 4) > 3


def test_two_loads_at_once_do_not_disturb_each_other(shard: Watched) -> None:
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda _: run(shard.address, "m", "", CALLS[:2], 2, SECONDS), range(2)))
    assert all(each.throughput_qps > 0 for each in found) and shard.most <= 4


def refused(shard: FakeShard, calls: list[Call], seconds: float = 60, **more: float) -> str:
    """What it says that is wrong, long before the load would be over."""
    begin = time.monotonic()
    with pytest.raises(LoadTestError) as caught:
        run(shard.address, "m", "7", calls, 4, seconds, **more)
    assert time.monotonic() - begin < 30
    return str(caught.value).removeprefix(f"m at {shard.address}: ")


def test_a_call_that_fails_ends_it_with_the_servers_words(shard: Watched) -> None:
    shard.status = (grpc.StatusCode.INVALID_ARGUMENT, "ids: expected rows in [0, 9), got 10")
    assert refused(shard, CALLS) == "INVALID_ARGUMENT: ids: expected rows in [0, 9), got 10"
    assert shard.begun == 4  # the connections' first ones


def test_what_is_under_way_beside_a_failed_call_is_waited_for(shard: Watched) -> None:
    """None is cancelled, which an old server would die of."""

    def fail(answer: bytes) -> bytes:
        shard.status = (grpc.StatusCode.INTERNAL, "later")
        return answer

    shard.spoilt = fail
    shard.delay_s = 0.02
    assert refused(shard, CALLS) == "INTERNAL: later"
    assert shard.under_way == 0 and shard.cancelled == 0


def test_a_server_that_is_not_there_is_told() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        shard = FakeShard(TABLES, address=f"127.0.0.1:{listener.getsockname()[1]}")
    assert "UNAVAILABLE: failed to connect" in refused(shard, CALLS)


def test_a_server_that_says_nothing_is_told() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        shard = FakeShard(TABLES, address=f"127.0.0.1:{listener.getsockname()[1]}")
        assert "the server says nothing in time" in refused(shard, CALLS)


def test_a_server_that_goes_away_is_told() -> None:
    shard = Watched(TABLES)
    with ThreadPoolExecutor(1) as pool:
        with serving(shard):
            told = pool.submit(refused, shard, CALLS)
            while shard.begun < 9:
                time.sleep(0.01)
        assert told.result().startswith(("UNAVAILABLE", "CANCELLED"))


@pytest.mark.parametrize("answered", [0, 4])
def test_a_server_that_answers_no_more_is_told(answered: int, shard: Watched) -> None:
    """After the load's time, and some patience: be it never, or not after the first calls of each connection."""
    numbers = itertools.count(1)

    def hold(answer: bytes) -> bytes:
        if next(numbers) == answered:
            shard.hold()
        return answer

    shard.spoilt = hold
    if answered == 0:
        shard.hold()
    said = refused(shard, CALLS, 0.3, patience_s=0.3)
    assert said == "UNAVAILABLE: 4 calls were not answered in time"


@pytest.mark.parametrize("address", ["localhost:80", "127.0.0.1:http", "127.0.0.1"])
def test_an_address_is_of_numbers(address: str) -> None:
    assert "expected a numeric HOST:PORT" in refused(FakeShard(TABLES, address=address), CALLS)


@pytest.mark.parametrize("bad", [{"x" * 32: np.ones(1, np.int32)}, {f"t{i}": np.ones(1, np.int32) for i in range(257)}])
def test_a_query_that_no_service_has_is_refused(bad: Call, shard: Watched) -> None:
    assert "a query is too large" in refused(shard, [*CALLS, bad])
    assert shard.begun == 0


@pytest.mark.parametrize(("queries", "in_flight"), [([], 1), (CALLS, 0)])
def test_nothing_to_send_is_refused(queries: list[Call], in_flight: int, shard: Watched) -> None:
    with pytest.raises(LoadTestError, match="expected queries, and calls under way, got"):
        run(shard.address, "m", "7", queries, in_flight, SECONDS)


def test_ctrl_c_ends_it(shard: Watched) -> None:
    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    former = signal.signal(signal.SIGUSR1, interrupt)
    timer = threading.Timer(0.3, signal.pthread_kill, (threading.get_ident(), signal.SIGUSR1))
    timer.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            run(shard.address, "m", "7", CALLS, 1, 3600)  # longer than a test may take
    finally:
        timer.join()
        signal.signal(signal.SIGUSR1, former)
    assert shard.cancelled == 0
