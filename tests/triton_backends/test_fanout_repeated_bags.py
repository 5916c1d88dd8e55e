"""A bag that is the row before's is asked for once: what each row gets of it, and what services are asked for."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

import grpc
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.triton_backends.drawn_cuts import draw_cut
from tests.triton_backends.fake_triton import Backend, BackendError
from tests.triton_backends.fanouts import FanOut, eventually
from tests.triton_backends.joining import BAD_ROWS, IN_FLIGHT, Choosy, answers, check, fill, joining, submit
from tests.triton_backends.kernel_router import KernelRouter
from tests.triton_backends.lookups import Cut, Drawn, Query, Region, Source, in_order, shard_inputs
from tests.triton_backends.processors import ALL, processor_up_to
from tests.triton_backends.repeated import with_repeats
from tests.triton_backends.test_fanout_lookups import assert_close, draw_whole, fleet, vectors
from triton_backends.embedding_shard.shard import EmbeddingShard


@ALL
@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 100_000))
def test_the_kernel_leaves_out_what_repeats_and_nothing_else(widest: str | None, seed: int) -> None:
    rng = np.random.default_rng(seed)
    cut = draw_cut(rng)
    while any(lookup.unpooled for lookup in cut.lookups):
        cut = draw_cut(rng)
    query = with_repeats(rng, cut, cut.query(rng))
    router = cut.router()
    with processor_up_to(widest):
        routed = KernelRouter(router.routing, router.id_maps, once=True).route(query)
    expected = {name: each for name, each in router.route(query).tensors.items() if "divisors" not in name}
    np.testing.assert_equal(in_order(cut, routed), in_order(cut, expected))


def by_python(cut: Cut, query: Query) -> list[np.ndarray]:
    """Vectors by the Python router and shards, which know nothing of bags that repeat."""
    routed = cut.router().route(query).tensors
    shards = {k: EmbeddingShard(cut.held(k), cut.matrices(k)) for k in cut.holders()}
    return cut.joined({k: shard.answer(shard_inputs(routed, f"s{k}")) for k, shard in shards.items()}, routed, query)


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 100_000), datatype=st.sampled_from(["FP32", "FP16"]))
def test_each_row_gets_the_sums_of_bags_that_repeat(backend: Backend, seed: int, datatype: str) -> None:
    """Of any look-ups; a query with a bad id among those that are handed over together spoils none."""
    rng = np.random.default_rng(seed)
    cut = draw_whole(rng)
    queries = [with_repeats(rng, cut, cut.query(rng, rng.integers(1, 13, cut.groups).tolist())) for _ in range(3)]
    spoilt = {name: np.full_like(a, 10**8) if name.startswith("ids") else a for name, a in queries[1].items()}
    in_any_order = any(len(set(services)) < len(services) for services in cut.service_of_shards)
    with tempfile.TemporaryDirectory() as folder, fleet(backend, Path(folder), cut, datatype) as (model, _):
        found = model.infer_all([queries[0], spoilt, *queries[1:]])
        for query, answer in zip(queries, [found[0], *found[2:]], strict=True):
            assert not isinstance(answer, BackendError), answer
            assert_close(vectors(cut, answer), cut.expected(query), 1e-5 if datatype == "FP32" else 0.05)
            if datatype == "FP32" and not in_any_order:
                for mine, wanted in zip(vectors(cut, answer), by_python(cut, query), strict=True):
                    np.testing.assert_array_equal(mine, wanted)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 100_000))
def test_a_missing_service_is_left_out_of_bags_that_repeat(backend: Backend, seed: int) -> None:
    """Of their sums, and of what means are divided by."""
    rng = np.random.default_rng(seed)
    cut = draw_whole(rng)
    queries = [with_repeats(rng, cut, cut.query(rng, rng.integers(1, 13, cut.groups).tolist())) for _ in range(2)]
    with tempfile.TemporaryDirectory() as folder, fleet(backend, Path(folder), cut, degrade=1) as (model, shards):
        gone = int(rng.integers(cut.services))
        shards[gone].status = (grpc.StatusCode.UNAVAILABLE, "stopping")
        for query, answer in zip(queries, model.infer_all(queries), strict=True):
            assert not isinstance(answer, BackendError), answer
            assert_close(vectors(cut, answer), cut.expected(query, [gone]))


def candidates(weighted: bool = False) -> Cut:
    """A service with the rows of tags: two bags of a user's, of 4 and of 3, the first one averaged, and one of a
    candidate's, of 2. weighted: that of 3 is.
    """
    table = np.random.default_rng(3).standard_normal((50, 3)).astype(np.float32)
    regions = [Region(0, 1, 4, 50, None, False), Region(4, 1, 3, 50, None, False), Region(7, 1, 2, 50, -1, False)]
    lookups = [
        Drawn("a", 0, 0, 0, mean=True, weighted=False),
        Drawn("b", 0, 0, 1, mean=False, weighted=weighted),
        Drawn("c", 0, 0, 2, mean=False, weighted=False),
    ]
    source = Source(0, 0, 9, np.int64, weighted, regions)
    return Cut([table], [np.zeros(50, np.uint8)], [[0]], [source], lookups, 1, 1)


def beside(rows: int) -> np.ndarray:
    """A user's columns beside so many candidates, none of whom is like the one before."""
    ids = np.tile(np.arange(9), (rows, 1))
    ids[:, 7:] = np.arange(2 * rows).reshape(rows, 2) % 50
    return ids


def test_a_users_bags_are_asked_for_once(backend: Backend, tmp_path: Path) -> None:
    """And stand close together: 2 bags and 40 in 14 rows of 3. The next user's are none of those before."""
    cut = candidates()
    queries = [{"ids0": beside(40)}, {"ids0": beside(20) + 1}]
    with fleet(backend, tmp_path, cut) as (model, (shard,)):
        assert_close(vectors(cut, model.infer(queries[0])), cut.expected(queries[0]))
        assert (shard.asked["ids"].size, shard.asked["lengths"].size) == (4 + 3 + 2 * 40, 14 * 3)
        for query, answer in zip(queries, model.infer_all(queries), strict=True):
            assert not isinstance(answer, BackendError), answer
            assert_close(vectors(cut, answer), cut.expected(query))
        assert (shard.asked["ids"].size, shard.asked["lengths"].size) == (2 * (4 + 3) + 2 * 60, 22 * 3)


@pytest.mark.parametrize("other", [False, True])
def test_bags_with_other_weights_are_others(backend: Backend, tmp_path: Path, other: bool) -> None:
    cut = candidates(weighted=True)
    weights = np.tile(np.arange(9, dtype=np.float32), (40, 1))
    weights[1::2, 4:7] += other
    query = {"ids0": beside(40), "weights0": weights}
    with fleet(backend, tmp_path, cut) as (model, (shard,)):
        assert_close(vectors(cut, model.infer(query)), cut.expected(query))
        assert shard.asked["weights"].size == (3 * 40 if other else 3)


def test_rows_of_which_most_bags_are_empty_are_asked_for_as_few(backend: Backend, tmp_path: Path) -> None:
    """A cold tier holds no id of most bags."""
    cut = candidates()
    query = {"ids0": np.arange(9 * 20).reshape(20, 9) % 50}
    shard_of_rows = [(np.arange(50) % 10 == 0).astype(np.uint8)]
    cut = Cut(cut.tables, shard_of_rows, [[0, 1]], cut.sources, cut.lookups, 1, 2)
    with fleet(backend, tmp_path, cut) as (model, shards):
        assert_close(vectors(cut, model.infer(query)), cut.expected(query))
        assert shards[0].asked["lengths"].size == 20 * 3
        lengths = shards[1].asked["lengths"]
        assert shards[1].asked["ids"].size == lengths.sum() == 18 and lengths.size == 18


@pytest.mark.parametrize(("row", "column"), [(0, 2), (7, 2), (7, 8)])
def test_a_bad_id_is_told_where_it_comes_first(backend: Backend, tmp_path: Path, row: int, column: int) -> None:
    """A user's, or a candidate's beside bags that repeat: as by the Python router."""
    cut = candidates()
    query = {"ids0": beside(12)}
    query["ids0"][row:, column] = 50
    with pytest.raises(ValueError, match=f"in row {row}, column {column} ") as told:
        cut.router().route(query)
    with (
        fleet(backend, tmp_path, cut) as (model, _),
        pytest.raises(BackendError, match=f"{re.escape(str(told.value))}$"),
    ):
        model.infer(query)


def repeated(fanout: FanOut, query: Query) -> Query:
    """The query with each second row's first bag the row before's."""
    indices, bag = query["indices"].copy(), fanout.tiered.lookups[0].bag
    indices[1::2, :bag] = indices[: len(indices) // 2 * 2 : 2, :bag]
    return {**query, "indices": indices}


def test_calls_with_bags_that_repeat_go_together(backend: Backend, tmp_path: Path) -> None:
    """And what repeats is counted for each service."""
    shard = Choosy(2)
    with joining(backend, tmp_path, shard) as (fanout, model):
        sent = fill(fanout, model, shard)
        queries = [repeated(fanout, fanout.query(rows, rows)) for rows in (9, 1, 12, 5)]
        waiting = submit(model, queries)
        eventually(lambda: fanout.metric("remote_queries", service="tier0") == IN_FLIGHT + 4)
        shard.let_go()
        check(fanout, queries, answers(waiting))
        assert all(isinstance(answer, dict) for answer in answers(sent))
        assert shard.calls == IN_FLIGHT + 1 and shard.rows[-1] < 27
        again = sum(fanout.repeats(query["indices"]) for query in queries)
        assert again >= 4 + 6 + 2
        for service in ("tier0", "tier1"):
            assert fanout.metric("remote_repeated_bags", service=service) == again


def test_joined_calls_with_bags_that_repeat_are_retried_each_alone(backend: Backend, tmp_path: Path) -> None:
    """One of them is refused, and the other replica refuses it too: the others get their own sums."""
    refusal = (grpc.StatusCode.RESOURCE_EXHAUSTED, "too large")
    shards = [Choosy(2, refusal=refusal), Choosy(2, refusal=refusal)]
    with joining(backend, tmp_path, *shards) as (fanout, model):
        sent = fill(fanout, model, *shards)
        queries = [repeated(fanout, fanout.query(rows, rows)) for rows in (9, 2, 12, 5)]
        large = fanout.query(2 * BAD_ROWS)
        waiting = submit(model, [*queries[:2], large, *queries[2:]])
        eventually(lambda: fanout.metric("remote_queries", service="tier0") == IN_FLIGHT * 2 + 5)
        for shard in shards:
            shard.let_go()
        first, second, refused, *others = answers(waiting)
        check(fanout, queries, [first, second, *others])
        assert isinstance(refused, BackendError) and "too large" in str(refused)
        assert all(isinstance(answer, dict) for answer in answers(sent))
