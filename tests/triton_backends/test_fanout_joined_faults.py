"""Joined calls at shards that refuse, fail, hang or lie: no query pays for another, and none gets another's part."""

from __future__ import annotations

from pathlib import Path

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2 as pb

from tests.triton_backends.fake_shard import FakeShard
from tests.triton_backends.fake_triton import Backend
from tests.triton_backends.fanouts import eventually
from tests.triton_backends.joining import (
    ALONE_ROWS,
    BAD_ROWS,
    IN_FLIGHT,
    LEAST,
    NEVER_US,
    Choosy,
    Status,
    answers,
    check,
    fill,
    joining,
    let_on,
    submit,
)


@pytest.mark.parametrize(
    "status",
    [
        (grpc.StatusCode.INVALID_ARGUMENT, "ids: expected rows in"),
        (grpc.StatusCode.OUT_OF_RANGE, "too much"),
        (grpc.StatusCode.INTERNAL, "what it made of this"),
        (grpc.StatusCode.INTERNAL, "Failed to increase the shared memory pool size for key 'x'"),
    ],
    ids=["refused", "out of range", "wrong", "full"],
)
@pytest.mark.parametrize("replicas", [1, 2])
def test_a_bad_query_fails_alone(backend: Backend, tmp_path: Path, status: Status, replicas: int) -> None:
    """The call that it is part of fails as a whole; then each query goes alone."""
    shards = [Choosy(2, refusal=status) for _ in range(replicas)]
    with joining(backend, tmp_path, *shards) as (fanout, model):
        sent = fill(fanout, model, *shards)
        queries = [fanout.query(rows, rows) for rows in (3, BAD_ROWS, 7, 2)]
        waiting = submit(model, queries)
        eventually(lambda: fanout.metric("remote_queries", service="tier0") == len(sent) + 4)
        for shard in shards:
            shard.let_go()
        first, bad, *others = answers(waiting)
        check(fanout, [queries[0], *queries[2:]], [first, *others])
        assert status[1] in str(bad) and status[0].name in str(bad)
        assert all(isinstance(answer, dict) for answer in answers(sent))
        assert fanout.metric("set_aside") == 0
        fanout.check(model, *range(6))


def test_what_is_too_much_together_goes_alone(backend: Backend, tmp_path: Path) -> None:
    b = Choosy(2, refusal=(grpc.StatusCode.INTERNAL, "Failed to increase the shared memory pool size for key 'x'"))
    with joining(backend, tmp_path, b) as (fanout, model):
        sent = fill(fanout, model, b)
        queries = [fanout.query(BAD_ROWS // 4, seed) for seed in range(6)]
        waiting = submit(model, queries)
        eventually(lambda: fanout.metric("remote_queries", service="tier0") == IN_FLIGHT + 6)
        b.let_go()
        check(fanout, queries, answers(waiting))
        assert all(isinstance(answer, dict) for answer in answers(sent))


@pytest.mark.parametrize("status", [(grpc.StatusCode.UNAVAILABLE, "stopping"), (grpc.StatusCode.INTERNAL, "broken")])
def test_joined_calls_survive_a_replica(backend: Backend, tmp_path: Path, status: Status) -> None:
    """One that is gone is replaced for all together; what answers wrongly, for each alone."""
    b, other = FakeShard(2), FakeShard(2)
    with joining(backend, tmp_path, b, other) as (fanout, model):
        sent = fill(fanout, model, b, other)
        queries = [fanout.query(rows, rows) for rows in (3, 1, 7, 2)]
        waiting = submit(model, queries)
        eventually(lambda: fanout.metric("remote_queries", service="tier0") == 2 * IN_FLIGHT + 4)
        b.status = status
        let_on(b)  # what it has fails; the calls go to the other, and those that wait come here
        eventually(lambda: b.calls > IN_FLIGHT or other.calls > IN_FLIGHT)
        b.let_go()
        other.let_go()
        check(fanout, queries, answers(waiting))
        assert all(isinstance(answer, dict) for answer in answers(sent))
        assert fanout.metric("retries", service="tier1") > 0
        assert fanout.metric("remote_queries", service="tier1") == 2 * IN_FLIGHT + 4  # none twice


def test_joined_calls_are_hedged(backend: Backend, tmp_path: Path) -> None:
    b, other = FakeShard(2), FakeShard(2)
    with joining(backend, tmp_path, b, other, hedge_quantile_ppm=900_000) as (fanout, model):
        for _ in range(2 * LEAST):
            model.infer(fanout.query(2))
        b.hold()
        other.hold()
        before = b.calls + other.calls
        sent = submit(model, [fanout.query(ALONE_ROWS)] * IN_FLIGHT * 2)
        eventually(lambda: b.calls + other.calls >= before + 2 * IN_FLIGHT)
        queries = [fanout.query(rows, rows) for rows in (3, 1, 7, 2)]
        waiting = submit(model, queries)
        other.let_go()
        check(fanout, queries, answers(waiting))
        assert all(isinstance(answer, dict) for answer in answers(sent))
        assert fanout.metric("hedges", service="tier1") > 0
        b.let_go()
        eventually(lambda: b.over == b.begun)
        assert b.cancelled == 0


@pytest.mark.parametrize("how", ["gone", "frozen"])
def test_joined_queries_are_scored_without_a_missing_shard(backend: Backend, tmp_path: Path, how: str) -> None:
    """Those that wait for it too, and as soon as it is known to be missing."""
    b = FakeShard(2)
    deadline_us = NEVER_US if how == "gone" else 1_000_000
    with joining(backend, tmp_path, b, degrade=1, deadline_us=deadline_us) as (fanout, model):
        sent = fill(fanout, model, b)
        queries = [fanout.query(rows, rows) for rows in (3, 1, 7, 2)]
        waiting = submit(model, queries)
        if how == "gone":
            b.status = (grpc.StatusCode.UNAVAILABLE, "stopping")
            b.let_go()
        for query, answer in zip(queries, answers(waiting), strict=True):
            assert isinstance(answer, dict) and answer["degraded"].all()
            np.testing.assert_array_equal(answer["sums"], fanout.sums(fanout.without(query, 1)))
        assert all(isinstance(answer, dict) for answer in answers(sent))
        assert fanout.metric("degraded_queries", service="tier1") == IN_FLIGHT + 4


def of_one_query(answer: bytes) -> bytes:
    message = pb.ModelInferResponse.FromString(answer)
    message.outputs[0].shape[0] = 2
    message.raw_output_contents[0] = message.raw_output_contents[0][: 2 * 16]
    return bytes(message.SerializeToString())


def of_one_more(answer: bytes) -> bytes:
    message = pb.ModelInferResponse.FromString(answer)
    message.outputs[0].shape[0] += 1
    message.raw_output_contents[0] += bytes(16)
    return bytes(message.SerializeToString())


def with_nan_at_the_end(answer: bytes) -> bytes:
    message = pb.ModelInferResponse.FromString(answer)
    message.raw_output_contents[0] = message.raw_output_contents[0][:-4] + np.float32("nan").tobytes()
    return bytes(message.SerializeToString())


HOSTILE = {
    "one query's": of_one_query,
    "a row more": of_one_more,
    "not a number": with_nan_at_the_end,
    "nothing": lambda _: b"",
    "cut short": lambda answer: answer[:-3],
    "noise": lambda _: b"\xff" * 90,
}


@pytest.mark.parametrize("how", HOSTILE)
def test_a_wrong_answer_to_joined_calls_is_nobodys(backend: Backend, tmp_path: Path, how: str) -> None:
    """Nor is it taken for a query's that it would fit: each is asked alone."""
    b = Choosy(2, spoilt_joined=HOSTILE[how], at_once=2)
    with joining(backend, tmp_path, b) as (fanout, model):
        sent = fill(fanout, model, b)
        queries = [fanout.query(2, seed) for seed in range(5)]
        waiting = submit(model, queries)
        eventually(lambda: fanout.metric("remote_queries", service="tier0") == IN_FLIGHT + 5)
        b.let_go()
        check(fanout, queries, answers(waiting))
        assert all(isinstance(answer, dict) for answer in answers(sent))
        assert fanout.metric("remote_failures", service="tier1", reason="wrong") == 1
        assert fanout.metric("retries", service="tier1") == 5


def test_answers_to_joined_calls_with_any_bytes_changed_crash_nothing(backend: Backend, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)

    def spoil(answer: bytes) -> bytes:
        changed = bytearray(answer[: rng.integers(len(answer) // 2, len(answer) + 1)])
        for _ in range(rng.integers(1, 4)):
            changed[rng.integers(0, min(len(changed), 50))] = rng.integers(256)
        return bytes(changed)

    b = Choosy(2, spoilt_joined=spoil, at_once=2)
    with joining(backend, tmp_path, b) as (fanout, model):
        for number in range(40):
            sent = fill(fanout, model, b)
            waiting = submit(model, [fanout.query(2, number)] * 4)
            b.let_go()
            found = answers([*sent, *waiting])
            assert all(isinstance(answer, dict) and answer["sums"].shape[1] == 4 for answer in found)
