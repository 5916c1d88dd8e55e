"""Calls that would wait for a busy service go together: what each query gets of it, and what it must not get."""

from __future__ import annotations

import ctypes
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.triton_backends.fake_shard import FakeShard, serving
from tests.triton_backends.fake_triton import Backend, BackendError, Pending
from tests.triton_backends.fanouts import eventually, make
from tests.triton_backends.joining import (
    ALONE_ROWS,
    IN_FLIGHT,
    NEVER_US,
    answers,
    check,
    fill,
    joining,
    let_on,
    submit,
    wait_for_calls,
)
from tests.triton_backends.lookups import Cut, Drawn, Region, Source
from tests.triton_backends.test_fanout_lookups import assert_close, draw_whole, fleet, histories, vectors


@pytest.mark.parametrize("datatype", ["FP32", "FP16"])
def test_calls_that_would_wait_go_together(backend: Backend, tmp_path: Path, datatype: str) -> None:
    """Each query gets its own rows, in whatever order they came; the others do not wait for a busy service."""
    a, b = (FakeShard(2, datatype=datatype) for _ in range(2))
    with serving(a, b):
        fanout = make(backend, tmp_path, [a], [b], half_sums=int(datatype == "FP16"), deadline_us=NEVER_US)
        with fanout.running() as model:
            sent = fill(fanout, model, b)
            queries = [fanout.query(rows, rows) for rows in (3, 1, 7, 2)]
            waiting = submit(model, queries)
            eventually(lambda: fanout.metric("remote_queries", service="tier0") == IN_FLIGHT + 4)
            b.let_go()
            check(fanout, queries, answers(waiting))
            check(fanout, [fanout.query(ALONE_ROWS, number) for number in range(IN_FLIGHT)], answers(sent))
            assert b.rows == [ALONE_ROWS] * IN_FLIGHT + [13]
            assert fanout.metric("remote_calls", service="tier1") == IN_FLIGHT + 1
            assert fanout.metric("remote_queries", service="tier1") == IN_FLIGHT + 4
            assert fanout.metric("remote_wait_us", service="tier1") > 0


def test_no_call_waits_while_a_replica_is_free(backend: Backend, tmp_path: Path) -> None:
    b, other = FakeShard(2), FakeShard(2)
    with joining(backend, tmp_path, b, other) as (fanout, model):
        b.hold()
        waiting: list[Pending] = []
        while b.calls < 1:
            waiting += submit(model, [fanout.query(2)])
            wait_for_calls(len(waiting), b, other)
        fanout.check(model, *range(20))
        b.let_go()
        check(fanout, [fanout.query(2)] * len(waiting), answers(waiting))
        assert set(b.rows) | set(other.rows) <= {2, 3}  # none was joined


def test_a_replica_that_comes_takes_those_that_wait(backend: Backend, tmp_path: Path) -> None:
    b, other = FakeShard(2), FakeShard(2)
    with serving(other), joining(backend, tmp_path, b) as (fanout, model):
        sent = fill(fanout, model, b)
        queries = [fanout.query(2, seed) for seed in range(6)]
        waiting = submit(model, queries)
        eventually(lambda: fanout.metric("remote_queries", service="tier0") == IN_FLIGHT + 6)
        fanout.write_addresses(
            tier0=[shard.address for shard in fanout.shards["tier0"]], tier1=[b.address, other.address]
        )
        check(fanout, queries, answers(waiting))
        assert (b.calls, other.rows) == (IN_FLIGHT, [12])
        b.let_go()
        assert all(isinstance(answer, dict) for answer in answers(sent))


def test_a_query_whose_deadline_passes_leaves_the_others_alone(backend: Backend, tmp_path: Path) -> None:
    """Two go together, the first of which came a while before the other."""
    b = FakeShard(2)
    with joining(backend, tmp_path, b, deadline_us=3_000_000) as (fanout, model):
        sent = fill(fanout, model, b)
        early, late = fanout.query(3, 1), fanout.query(5, 2)
        (first,) = submit(model, [early])
        b.ended.wait(1.5)
        (second,) = submit(model, [late])
        eventually(lambda: fanout.metric("remote_queries", service="tier0") == IN_FLIGHT + 2)
        let_on(b)
        eventually(lambda: b.rows[-1] == 8)
        (told,) = answers([first])
        assert isinstance(told, BackendError) and "the query's deadline" in str(told)
        b.let_go()
        check(fanout, [late], answers([second]))
        assert len(answers(sent)) == IN_FLIGHT
        assert fanout.metric("remote_failures", service="tier1", reason="timeout") == 1
        eventually(lambda: b.over == b.begun)
        assert b.cancelled == 0


def test_a_query_that_no_replica_is_free_for_ends_at_its_deadline(backend: Backend, tmp_path: Path) -> None:
    b = FakeShard(2)
    with joining(backend, tmp_path, b, deadline_us=500_000) as (fanout, model):
        sent = fill(fanout, model, b)
        told = answers([*sent, *submit(model, [fanout.query(2, seed) for seed in range(20)])])
        assert all("the query's deadline" in str(answer) for answer in told)
        b.let_go()
        eventually(lambda: b.over == b.begun)
        eventually(lambda: fanout.metric("replicas_aside") == 0)
        fanout.check(model, *range(4))
        assert b.cancelled == 0


def test_no_more_go_together_than_a_service_takes(backend: Backend, tmp_path: Path) -> None:
    """4096 rows, as a query's."""
    b = FakeShard(2)
    with joining(backend, tmp_path, b) as (fanout, model):
        sent = fill(fanout, model, b)
        queries = [fanout.query(rows, rows) for rows in (2000, 2096, 1, 4096, 5)]
        waiting = submit(model, queries)
        eventually(lambda: fanout.metric("remote_queries", service="tier0") == IN_FLIGHT + 5)
        b.let_go()
        check(fanout, queries, answers(waiting))
        assert len(answers(sent)) == IN_FLIGHT
        assert sorted(b.rows[IN_FLIGHT:]) == [1, 5, 4096, 4096]


def test_calls_that_wait_end_with_the_model(backend: Backend, tmp_path: Path) -> None:
    b = FakeShard(2)
    with joining(backend, tmp_path, b) as (fanout, model):
        pending = [*fill(fanout, model, b), *submit(model, [fanout.query(2, seed) for seed in range(5)])]
        let_on(b)
        eventually(lambda: fanout.metric("remote_queries", service="tier0") == IN_FLIGHT + 5)
        pending += submit(model, [fanout.query(2, seed) for seed in range(5)])
        joined = answers(pending[:IN_FLIGHT])
        assert all(isinstance(answer, dict) for answer in joined)
    assert all("the router stops" in str(answer) for answer in answers(pending[IN_FLIGHT:]))
    assert ctypes.c_int32.in_dll(backend.fake, "fake_live_metrics").value == 0
    assert ctypes.c_int32.in_dll(backend.fake, "fake_live_errors").value == 0


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 100_000), datatype=st.sampled_from(["FP32", "FP16"]))
def test_joined_calls_of_any_look_ups_get_their_own(backend: Backend, seed: int, datatype: str) -> None:
    """Groups of their own numbers of rows, weights, un-pooled rows: against PyTorch."""
    rng = np.random.default_rng(seed)
    cut = draw_whole(rng)
    queries = [cut.query(rng) for _ in range(IN_FLIGHT + 5)]
    with (
        tempfile.TemporaryDirectory() as folder,
        fleet(backend, Path(folder), cut, datatype) as (model, shards),
    ):
        for shard in shards:
            shard.hold()
        pending = submit(model, queries)
        asked = {k for k, shard in enumerate(shards) if shard.begun > 1}
        for shard in shards:
            shard.let_go()
        for query, answer in zip(queries, answers(pending), strict=True):
            assert isinstance(answer, dict), (answer, asked)
            assert_close(vectors(cut, answer), cut.expected(query), 1e-5 if datatype == "FP32" else 0.05)


def test_joined_calls_ask_for_a_row_once(backend: Backend, tmp_path: Path) -> None:
    """Three queries of one history, beside other items each."""
    cut = histories()
    history = np.tile(np.array([4, 5, 6, 7, 4, 5, 6, 19]), (2, 1))
    queries = [
        {"ids0": history, "ids1": np.array([[1 + 2 * number], [2 + 2 * number]], np.int32)} for number in range(3)
    ]
    with fleet(backend, tmp_path, cut) as (model, shards):
        for shard in shards:
            shard.hold()
        sent: list[Pending] = []
        for number in range(IN_FLIGHT):
            sent += submit(model, queries[:1])
            eventually(lambda number=number: all(shard.calls == number + 1 for shard in shards))
        waiting = submit(model, queries)
        for shard in shards:
            shard.let_go()
        for query, answer in zip(queries, answers(waiting), strict=True):
            assert isinstance(answer, dict), answer
            assert_close(vectors(cut, answer), cut.expected(query))
        assert len(answers(sent)) == IN_FLIGHT
        assert [shard.calls for shard in shards] == [IN_FLIGHT + 1] * 2
        found = [shard.asked for shard in shards]
    lengths = [found[k]["lengths"][-len(cut.members(k, 0)) + 1 :].tolist() for k in range(2)]
    # items 1 ... 7 and 19 by the evens and the odds; tags 4, 5, 6, 7 and 19 likewise, the odds in service 0
    assert lengths == [[3, 3], [5, 2]]


def test_a_replica_of_several_instances_gets_as_many_calls(backend: Backend, tmp_path: Path) -> None:
    b = FakeShard(2)
    with joining(backend, tmp_path, b, instances=3) as (fanout, model):
        b.hold()
        queries = [fanout.query(2, seed) for seed in range(6)]
        sent: list[Pending] = []
        for number in range(3):
            sent += submit(model, queries[number : number + 1])
            wait_for_calls(number + 1, b)
        sent += submit(model, queries[3:])
        eventually(lambda: fanout.metric("remote_queries", service="tier0") == 6)
        assert b.rows == [2, 2, 2]
        b.let_go()
        check(fanout, queries, answers(sent))
        assert sum(b.rows) == 12  # those that waited went together, or to the places that were free by then


def test_no_more_bytes_go_together_than_4_mb(backend: Backend, tmp_path: Path) -> None:
    """A row of this model's has 8,192 numbers: 200 of them make 6.5 MB of sums, 90 make 2.9."""
    rng = np.random.default_rng(0)
    table = rng.standard_normal((5, 8192)).astype(np.float32)
    source = Source(0, 0, 9, np.int64, False, [Region(0, 1, 9, 5, None, False)])  # hardly a bag is the row before's
    cut = Cut([table], [np.zeros(5, np.uint8)], [[0]], [source], [Drawn("l", 0, 0, 0, False, False)], 1, 1)
    queries = [cut.query(rng, [rows]) for rows in (1, 200, 90, 90, 30)]
    with fleet(backend, tmp_path, cut) as (model, (shard,)):
        shard.hold()
        sent = submit(model, queries[:1])
        eventually(lambda: shard.calls == 1)
        sent += submit(model, queries[1:])
        time.sleep(0.1)  # so that all are there; else fewer are joined
        shard.let_go()
        for query, answer in zip(queries, answers(sent), strict=True):
            assert isinstance(answer, dict), answer
            assert_close(vectors(cut, answer), cut.expected(query))
        assert shard.rows in ([1, 200, 90, 120], [1, 200, 90, 90, 30])
