"""The router's calls on servers that fail on command: retries, deadlines, hedges, missing shards, joined queries."""

import ctypes
import re
import time
from collections.abc import Callable
from pathlib import Path

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2 as pb

from tests.triton_backends.fake_shard import FakeShard, serving
from tests.triton_backends.fake_triton import Backend, BackendError
from tests.triton_backends.fanouts import eventually, make

GONE = (grpc.StatusCode.UNAVAILABLE, "stopping")
LEAST = 64  # calls before a quantile means anything
NEVER_US = 600_000_000  # a deadline that no test waits for


def shards(count: int = 2, **options: object) -> list[FakeShard]:
    return [FakeShard(2, **options) for _ in range(count)]


@pytest.mark.parametrize("datatype", ["FP32", "FP16"])
@pytest.mark.parametrize("dtype", [np.int64, np.int32])
def test_sums_are_added_up(backend: Backend, tmp_path: Path, datatype: str, dtype: type) -> None:
    a, b = FakeShard(2, 1, datatype), FakeShard(2, 4, datatype)
    with serving(a, b):
        fanout = make(backend, tmp_path, [a], [b], half_sums=int(datatype == "FP16"))
        with fanout.running() as model:
            for batch in (1, 7, 600):  # the last one's request is larger than a server's first window
                query = fanout.query(batch, batch, dtype)
                outputs = model.infer(query)
                assert list(outputs) == ["sums"]
                np.testing.assert_array_equal(outputs["sums"], fanout.sums(query))
            assert fanout.metric("remote_calls") == 6 and fanout.metric("remote_call_duration_us") > 0
            assert model.instance.good == 3


def test_answers_of_all_sizes_stay_whole_while_others_come(backend: Backend, tmp_path: Path) -> None:
    """On one connection: those that come whole are kept where they were read, the others are put together."""
    a, b = shards()
    with serving(a, b):
        fanout = make(backend, tmp_path, [a], [b], deadline_us=NEVER_US, instances=64)
        with fanout.running() as model:
            for turn in range(4):  # what is read at a time grows with them
                queries = [fanout.query(rows, turn) for rows in (1, 900, 40, 300, 2, 2000, 90, 7, 600, 150)]
                asked = [model.submit([query]) for query in queries]
                for query, answers in zip(queries, asked, strict=True):
                    (answer,) = answers.answers(60)
                    assert not isinstance(answer, BackendError), answer
                    np.testing.assert_array_equal(answer["sums"], fanout.sums(query))


def test_queries_are_joined_into_one_call_per_service(backend: Backend, tmp_path: Path) -> None:
    """Each gets its own rows; one with a bad id gets its error alone."""
    a, b = shards()
    with serving(a, b):
        fanout = make(backend, tmp_path, [a], [b])
        with fanout.running() as model:
            queries = [fanout.query(rows, rows) for rows in (2, 3, 4)]
            queries[1]["indices"][1, 4] = 9
            first, bad, last = model.infer_all(queries)
            np.testing.assert_array_equal(first["sums"], fanout.sums(queries[0]))
            np.testing.assert_array_equal(last["sums"], fanout.sums(queries[2]))
            assert "table t1: id 9 in row 1, column 4 of indices is out of range; expected 0 to 8" in str(bad)
            assert a.rows == b.rows == [6]
            assert (model.instance.good, model.instance.bad, model.instance.executions) == (2, 1, 1)


def test_a_service_without_ids_is_not_called(backend: Backend, tmp_path: Path) -> None:
    a, b = shards()
    with serving(a, b):
        fanout = make(backend, tmp_path, [a], [b])
        with fanout.running() as model:
            query = fanout.without(fanout.query(4, 1), 0)
            np.testing.assert_array_equal(model.infer(query)["sums"], fanout.sums(query))
            assert (a.calls, b.calls) == (0, 1)
            query["indices"][:] = -1
            assert not model.infer(query)["sums"].any()
            assert (a.calls, b.calls) == (0, 1)
            assert fanout.metric("remote_skipped") == 3


def test_a_gone_replica_is_replaced_once_and_set_aside(backend: Backend, tmp_path: Path) -> None:
    a, b, gone = shards(3)
    with serving(a, b, gone):
        fanout = make(backend, tmp_path, [a], [b, gone])
        with fanout.running() as model:
            eventually(lambda: f"replica {gone.address} serves" in fanout.log)
            gone.status = GONE
            fanout.check(model, *range(6))
            assert (gone.calls, b.calls) == (1, 6)
            assert fanout.metric("retries", service="tier1") == 1
            assert fanout.metric("remote_failures", service="tier1", reason="gone") == 1
            aside = f"service tier1: replica {gone.address}: UNAVAILABLE: stopping; set aside until it answers"
            assert aside in fanout.log
            gone.status = None
            eventually(lambda: fanout.log.count(f"replica {gone.address} serves") == 2)
            fanout.check(model, *range(6))
            assert gone.calls > 1


def test_where_all_are_gone_the_error_names_service_and_replica(backend: Backend, tmp_path: Path) -> None:
    a, *gone = shards(4)
    with serving(a, *gone):
        fanout = make(backend, tmp_path, [a], gone)
        with fanout.running() as model:
            for shard in gone:
                shard.status = GONE
            with pytest.raises(BackendError, match=r"service tier1: replica 127.0.0.1:\d+: UNAVAILABLE: stopping"):
                model.infer(fanout.query(2))
            assert sum(shard.calls for shard in gone) == 2  # one retry, not one each


def test_a_refused_call_is_not_sent_again(backend: Backend, tmp_path: Path) -> None:
    a, *refusing = shards(3)
    with serving(a, *refusing):
        fanout = make(backend, tmp_path, [a], refusing)
        with fanout.running() as model:
            for shard in refusing:
                shard.status = (grpc.StatusCode.INVALID_ARGUMENT, "ids: 100% ünknown")
            with pytest.raises(BackendError, match="INVALID_ARGUMENT: ids: 100% ünknown"):
                model.infer(fanout.query(2))
            assert sum(shard.calls for shard in refusing) == 1
            for shard in refusing:
                shard.status = None
            fanout.check(model)


def test_a_replica_without_room_for_a_call_is_replaced_once_and_kept(backend: Backend, tmp_path: Path) -> None:
    """Triton's words of a full /dev/shm: smaller calls may fit, so it is not set aside."""
    a, b, full = shards(3)
    with serving(a, b, full):
        fanout = make(backend, tmp_path, [a], [b, full])
        with fanout.running() as model:
            eventually(lambda: f"replica {full.address} serves" in fanout.log)
            full.status = (grpc.StatusCode.INTERNAL, "Failed to increase the shared memory pool size for key 'x'")
            fanout.check(model, *range(6))
            assert full.calls > 1
            assert fanout.metric("retries", service="tier1") == full.calls
            assert fanout.metric("remote_failures", service="tier1", reason="full") == full.calls
            assert f"replica {full.address}: INTERNAL" not in fanout.log  # as it would be if it were set aside


def test_a_query_ends_at_its_deadline(backend: Backend, tmp_path: Path) -> None:
    """No sooner, though its call began later; the call goes unheard, and is not cancelled: that may crash Triton."""
    a, b = shards()
    with serving(a, b):
        fanout = make(backend, tmp_path, [a], [b])
        with fanout.running() as model:
            b.hold()
            started = time.monotonic()
            with pytest.raises(BackendError) as raised:
                model.infer(fanout.query(2))
            assert time.monotonic() - started >= 0.3
            told = re.search(
                r"service tier1: replica .* did not answer within (\d+) ms, the query's deadline", str(raised)
            )
            assert told and int(told[1]) >= 300
            assert fanout.metric("remote_failures", service="tier1", reason="timeout") == 1
            b.let_go()
            eventually(lambda: b.over == b.begun)
            assert b.cancelled == 0
            eventually(lambda: fanout.log.count(f"replica {b.address} serves") == 2)
            fanout.check(model)


def test_a_wait_of_less_than_a_millisecond_is_told_as_it_was(backend: Backend, tmp_path: Path) -> None:
    """A second try may begin just before the deadline; here the deadline itself is that short."""
    a, b = shards()
    with serving(a, b):
        fanout = make(backend, tmp_path, [a], [b], deadline_us=300)
        with fanout.running() as model:
            a.delay_s = b.delay_s = 0.2
            with pytest.raises(
                BackendError, match=r"(did not answer|no replica was free) within \d+(\.\d\d)? ms"
            ) as told:
                model.infer(fanout.query(2))
    assert "within 0 ms" not in str(told.value)


def test_a_missing_shard_fails_the_query_at_once(backend: Backend, tmp_path: Path) -> None:
    """The other call is not waited for."""
    a, b = shards()
    with serving(a, b):
        fanout = make(backend, tmp_path, [a], [b], deadline_us=NEVER_US)
        with fanout.running() as model:
            a.hold()
            b.status = GONE
            with pytest.raises(BackendError, match=r"service tier1: replica .*: UNAVAILABLE"):
                model.infer(fanout.query(2))
            a.let_go()
            eventually(lambda: a.over == a.begun)
            assert a.cancelled == 0


def test_a_slow_call_is_hedged_and_the_slower_one_goes_unheard(backend: Backend, tmp_path: Path) -> None:
    a, b, second = shards(3)
    with serving(a, b, second):
        fanout = make(backend, tmp_path, [a], [b, second], hedge_quantile_ppm=900_000, deadline_us=NEVER_US)
        with fanout.running() as model:
            for _ in range(LEAST):
                model.infer(fanout.query(2))
            assert fanout.metric("hedges", service="tier1") == 0
            b.hold()
            fanout.check(model, *range(4))
            assert fanout.metric("hedges", service="tier1") > 0
            b.let_go()
            eventually(lambda: b.over == b.begun)
            assert b.cancelled == 0


@pytest.mark.parametrize("how", ["gone", "frozen"])
def test_a_missing_shard_is_left_out_where_that_is_asked_for(backend: Backend, tmp_path: Path, how: str) -> None:
    a, b = shards()
    with serving(a, b):
        fanout = make(backend, tmp_path, [a], [b], degrade=1)
        with fanout.running() as model:
            query = fanout.query(3, 1)
            whole = model.infer(query)
            assert whole["degraded"].shape == (3, 1) and not whole["degraded"].any()
            if how == "frozen":
                b.hold()
            else:
                b.status = GONE
            for _ in range(2):
                outputs = model.infer(query)
                assert outputs["degraded"].all()
                np.testing.assert_array_equal(outputs["sums"], fanout.sums(fanout.without(query, 1)))
            assert b.calls == 2  # known by the second time: not asked again, nor waited for
            assert fanout.metric("degraded_queries", service="tier1") == 2


def reshaped(*shape: int, datatype: str = "FP32", size: int | None = None) -> Callable[[bytes], bytes]:
    def spoil(answer: bytes) -> bytes:
        message = pb.ModelInferResponse.FromString(answer)
        message.outputs[0].shape[:] = shape
        message.outputs[0].datatype = datatype
        if size is not None:
            message.raw_output_contents[0] = bytes(size)
        return bytes(message.SerializeToString())

    return spoil


SPOILT = {
    "other rows": (reshaped(3, 4), "sums: expected FP32 of 2 x 4, got FP32 of 2 dimensions, 3 x 4"),
    "other width": (reshaped(2, 5), "sums: expected FP32 of 2 x 4"),
    "a dimension more": (reshaped(2, 2, 2), "got FP32 of 3 dimensions"),
    "dimensions without end": (reshaped(*range(99)), "expected an inference response"),
    "other type": (reshaped(2, 4, datatype="FP16"), "got FP16"),
    "a long type": (reshaped(2, 4, datatype="F" * 400), "expected an inference response"),
    "fewer bytes": (reshaped(2, 4, size=31), "in 31 bytes"),
    "too long": (reshaped(2, 4, size=10_000_000), "the answer is too long"),
    "no numbers": (lambda answer: answer[:-34], "expected an inference response"),
    "nothing": (lambda _: b"", "expected an inference response, got 0"),
    "no message": (lambda _: b"\xff" * 40, "expected an inference response"),
}


@pytest.mark.parametrize("case", SPOILT)
def test_an_answer_that_does_not_fit_is_an_error_even_where_a_shard_may_be_missing(
    backend: Backend, tmp_path: Path, case: str
) -> None:
    """It is no outage: leaving it out would hide that the fleet was put together wrongly."""
    spoilt, message = SPOILT[case]
    a, b = shards()
    with serving(a, b):
        fanout = make(backend, tmp_path, [a], [b], degrade=1)
        with fanout.running() as model:
            b.spoilt = spoilt
            with pytest.raises(BackendError, match=f"INTERNAL: .*{message}"):
                model.infer(fanout.query(2))
            b.spoilt = None
            fanout.check(model)


def test_answers_with_any_bytes_changed_crash_nothing(backend: Backend, tmp_path: Path) -> None:
    """Each is the right shape's, whatever its numbers are, or an error."""
    rng = np.random.default_rng(0)

    def spoil(answer: bytes) -> bytes:
        changed = bytearray(answer[: rng.integers(len(answer) // 2, len(answer) + 1)])
        for _ in range(rng.integers(1, 4)):
            changed[rng.integers(0, min(len(changed), 50))] = rng.integers(256)
        return bytes(changed)

    a, b = shards()
    with serving(a, b):
        fanout = make(backend, tmp_path, [a], [b], deadline_us=NEVER_US)
        with fanout.running() as model:
            b.spoilt = spoil
            answers = [model.infer_all([fanout.query(2)])[0] for _ in range(400)]
            refused = [answer for answer in answers if isinstance(answer, BackendError)]
            assert all("sums: expected" in str(error) for error in refused) and len(refused) > 100
            assert all(answer["sums"].shape == (2, 4) for answer in answers if isinstance(answer, dict))


def test_one_query_too_many_is_refused_at_once(backend: Backend, tmp_path: Path) -> None:
    a, b = shards()
    with serving(a, b):
        fanout = make(backend, tmp_path, [a], [b], max_in_flight=2, deadline_us=NEVER_US)
        with fanout.running() as model:
            a.hold()
            waiting = [model.submit([fanout.query(2)]) for _ in range(2)]
            with pytest.raises(BackendError, match="overloaded: 2 queries are under way and max_in_flight is 2"):
                model.infer(fanout.query(2))
            a.let_go()
            assert all(isinstance(answer, dict) for pending in waiting for answer in pending.answers())
            fanout.check(model)
            assert fanout.metric("overloaded_queries") == 1


def test_queries_under_way_get_an_error_when_the_model_ends(backend: Backend, tmp_path: Path) -> None:
    a, b = shards()
    with serving(a, b):
        fanout = make(backend, tmp_path, [a], [b], deadline_us=NEVER_US)
        with fanout.running() as model:
            b.hold()
            pending = model.submit([fanout.query(2), fanout.query(1)])
            eventually(lambda: b.calls == 1)
        assert all("the router stops" in str(answer) for answer in pending.answers(1))
    assert ctypes.c_int32.in_dll(backend.fake, "fake_live_metrics").value == 0
    assert ctypes.c_int32.in_dll(backend.fake, "fake_live_errors").value == 0
