"""Replicas that answer fast and wrongly beside one that answers rightly: whom the router asks, and whom it blames."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2 as pb

from tests.triton_backends.fake_shard import FakeShard, serving
from tests.triton_backends.fake_triton import Backend, BackendError
from tests.triton_backends.fanouts import FanOut, Model, eventually, make

NEVER_US = 600_000_000
AT_A_TIME = 8


def changed(**fields: object) -> Callable[[bytes], bytes]:
    """The right answer with other fields of its output, or other numbers."""

    def spoil(answer: bytes) -> bytes:
        message = pb.ModelInferResponse.FromString(answer)
        for name, value in fields.items():
            if name == "numbers":
                message.raw_output_contents[0] = value(message.raw_output_contents[0])
            elif name == "shape":
                message.outputs[0].shape[:] = value
            else:
                setattr(message.outputs[0], name, value)
        return bytes(message.SerializeToString())

    return spoil


def with_nan(raw: bytes) -> bytes:
    return np.float32("nan").tobytes() + raw[4:]


SPOILT = {
    "other rows": changed(shape=[7, 4]),
    "other width": changed(shape=[3, 5]),
    "a dimension more": changed(shape=[3, 2, 2]),
    "other type": changed(datatype="FP16"),
    "other name": changed(name="score"),
    "fewer numbers": changed(numbers=lambda raw: raw[:-1]),
    "too long": changed(numbers=lambda raw: raw + bytes(1 << 20)),
    "not a number": changed(numbers=with_nan),
    "cut": lambda answer: answer[:-20],
    "empty": lambda _: b"",
    "garbage": lambda _: b"\xff" * 40,
}
WRONG = [
    "INTERNAL",
    "UNKNOWN",
    "ABORTED",
    "DATA_LOSS",
    "RESOURCE_EXHAUSTED",
    "UNAUTHENTICATED",
    "PERMISSION_DENIED",
    "FAILED_PRECONDITION",
    "ALREADY_EXISTS",
    "DEADLINE_EXCEEDED",
    "CANCELLED",
]
GONE = ["UNAVAILABLE", "UNIMPLEMENTED", "NOT_FOUND"]


def break_down(shard: FakeShard, how: str) -> None:
    if how in SPOILT:
        shard.spoilt = SPOILT[how]
    else:
        shard.status = (grpc.StatusCode[how], "broken")


@contextmanager
def beside_a_good_one(backend: Backend, folder: Path, **settings: object) -> Iterator[tuple[FanOut, Model, FakeShard]]:
    """A router over a service of two replicas; both serve, the second one is given."""
    a, good, bad = (FakeShard(2) for _ in range(3))
    with serving(a, good, bad):
        fanout = make(backend, folder, [a], [good, bad], deadline_us=NEVER_US, **settings)
        with fanout.running() as model:
            eventually(lambda: fanout.metric("replicas_aside") == 0)
            yield fanout, model, bad


@pytest.mark.parametrize("how", [*SPOILT, *WRONG, *GONE])
def test_no_query_fails_beside_a_good_replica(backend: Backend, tmp_path: Path, how: str) -> None:
    """The bad one is soon left alone."""
    with beside_a_good_one(backend, tmp_path) as (fanout, model, bad):
        break_down(bad, how)
        fanout.check(model, *range(30))
        assert fanout.times_set_aside(bad.address) == fanout.metric("set_aside", service="tier1") >= 1
        assert bad.calls <= 2 + fanout.times_set_aside(bad.address)  # a few, and one each time that it is tried again
        reason = "gone" if how in GONE else "wrong"
        assert fanout.metric("remote_failures", service="tier1", reason=reason) == bad.calls
        assert fanout.metric("retries", service="tier1") == bad.calls


@pytest.mark.parametrize("how", ["other width", "INTERNAL", "UNAVAILABLE"])
def test_a_replica_is_back_once_it_answers_rightly(backend: Backend, tmp_path: Path, how: str) -> None:
    with beside_a_good_one(backend, tmp_path) as (fanout, model, bad):
        break_down(bad, how)
        eventually(lambda: fanout.check(model) or fanout.metric("replicas_aside", service="tier1") == 1)
        bad.spoilt = bad.status = None
        calls = bad.calls
        eventually(lambda: fanout.check(model) or bad.calls > calls + 1, 60)
        assert (fanout.metric("replicas", service="tier1"), fanout.metric("replicas_aside")) == (2, 0)


@pytest.mark.parametrize("how", ["other width", "INTERNAL", "UNAVAILABLE"])
def test_answering_fast_draws_no_load(backend: Backend, tmp_path: Path, how: str) -> None:
    """Of many queries at the same time too none fails; a bad replica gets no more than came before its first answer."""
    with beside_a_good_one(backend, tmp_path) as (fanout, model, bad):
        break_down(bad, how)
        query = fanout.query(3)
        for _ in range(10):
            for pending in [model.submit([query]) for _ in range(AT_A_TIME)]:
                (answer,) = pending.answers()
                np.testing.assert_array_equal(answer["sums"], fanout.sums(query))
        assert bad.calls <= AT_A_TIME * (1 + fanout.times_set_aside(bad.address))


def test_a_replica_rests_longer_each_time(backend: Backend, tmp_path: Path) -> None:
    """It answers probes, which hold no ids, and spoils each query that it is tried with."""
    with beside_a_good_one(backend, tmp_path) as (fanout, model, bad):
        break_down(bad, "other width")
        for rest_s in (1, 2, 4):
            text = f"set aside for {rest_s} s"
            eventually(
                lambda text=text: fanout.check(model) or f"in a row, and another's right; {text}" in fanout.log, 60
            )
        assert bad.calls == 2 + 3


def test_a_bad_query_is_no_replicas_fault(backend: Backend, tmp_path: Path) -> None:
    """Where both answer wrongly, or say that the query is at fault, both stay."""
    a, *both = (FakeShard(2) for _ in range(3))
    with serving(a, *both):
        fanout = make(backend, tmp_path, [a], both, deadline_us=NEVER_US)
        with fanout.running() as model:
            eventually(lambda: fanout.metric("replicas_aside") == 0)
            for how, tries in (("INTERNAL", 2), ("INVALID_ARGUMENT", 1), ("OUT_OF_RANGE", 1)):
                for shard in both:
                    break_down(shard, how)
                before = sum(shard.calls for shard in both)
                for _ in range(10):
                    with pytest.raises(BackendError, match=rf"service tier1: replica 127.0.0.1:\d+: {how}: broken"):
                        model.infer(fanout.query(2))
                assert sum(shard.calls for shard in both) - before == 10 * tries
            assert fanout.metric("set_aside") == 0
            for shard in both:
                shard.status = None
            fanout.check(model, *range(6))


def test_where_all_are_set_aside_they_are_asked_all_the_same(backend: Backend, tmp_path: Path) -> None:
    a, *both = (FakeShard(2) for _ in range(3))
    with serving(a, *both):
        fanout = make(backend, tmp_path, [a], both, deadline_us=NEVER_US)
        with fanout.running() as model:
            eventually(lambda: fanout.metric("replicas_aside") == 0)
            for shard in both:
                break_down(shard, "UNAVAILABLE")
            with pytest.raises(BackendError, match="UNAVAILABLE: broken"):
                model.infer(fanout.query(2))
            assert fanout.metric("replicas_aside", service="tier1") == 2
            assert "service tier1: all its replicas are set aside; they are asked all the same" in fanout.log
            for shard in both:
                shard.status = None
            fanout.check(model, *range(6))


def test_a_replica_that_was_asked_too_late_is_not_to_blame(backend: Backend, tmp_path: Path) -> None:
    """The first takes most of the query's time and fails, the second has too little left."""
    a, *both = (FakeShard(2) for _ in range(3))
    with serving(a, *both):
        fanout = make(backend, tmp_path, [a], both, deadline_us=2_000_000)
        with fanout.running() as model:
            eventually(lambda: fanout.metric("replicas_aside") == 0)
            for shard in both:
                shard.delay_s, shard.status = 1.5, (grpc.StatusCode.INTERNAL, "broken")
            with pytest.raises(BackendError, match=r"did not answer within 2\d\d\d ms, the query's deadline; asked"):
                model.infer(fanout.query(2))
            eventually(lambda: fanout.metric("remote_failures", service="tier1", reason="timeout") == 1)
            assert fanout.metric("set_aside") == 0
