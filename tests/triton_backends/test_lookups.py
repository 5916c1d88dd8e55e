"""Any look-ups, from a query's tensors to vectors, routed, summed in shards and joined, against PyTorch's own."""

import tempfile
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.triton_backends.drawn_cuts import by_hand, draw_cut
from tests.triton_backends.fake_triton import Asked, Backend, Given, Model
from tests.triton_backends.kernel_router import KernelRouter
from tests.triton_backends.lookups import in_order, shard_inputs
from tests.triton_backends.processors import ALL, processor_up_to
from triton_backends.embedding_shard.shard import EmbeddingShard
from triton_backends.embedding_shard.torch_shard import TorchShard


def assert_close(found: list[np.ndarray], expected: list[np.ndarray]) -> None:
    assert len(found) == len(expected)
    for each, wanted in zip(found, expected, strict=True):
        np.testing.assert_allclose(each, wanted, rtol=1e-5, atol=1e-5)


@ALL
@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 100_000))
def test_any_look_up_is_served_by_the_python_parts(widest: str | None, seed: int) -> None:
    rng = np.random.default_rng(seed)
    cut = draw_cut(rng)
    query = cut.query(rng)
    answers, answers_by_torch = {}, {}
    router = cut.router()
    with processor_up_to(widest):
        routed = router.route(query).tensors
        if not any(lookup.unpooled for lookup in cut.lookups):
            found = in_order(cut, KernelRouter(router.routing, router.id_maps).route(query))
            expected = {name: each for name, each in in_order(cut, routed).items() if "divisors" not in name}
            np.testing.assert_equal(found, expected)
        for k in cut.holders():
            own = EmbeddingShard(cut.held(k), cut.matrices(k))
            inputs = shard_inputs(routed, f"s{k}")
            answers[k], answers_by_torch[k] = own.answer(inputs), TorchShard(own, "cpu").answer(inputs)
    for found in (answers, answers_by_torch):
        assert_close(cut.joined(found, routed, query), cut.expected(query))


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 100_000), pieces=st.integers(1, 3), offset=st.integers(0, 3))
def test_any_look_up_is_served_by_the_native_parts(
    router: Backend, shard: Backend, seed: int, pieces: int, offset: int
) -> None:
    """They give what the Python parts do, to the bit, however their tensors lie."""
    rng = np.random.default_rng(seed)
    cut = draw_cut(rng)
    query = cut.query(rng)
    asked = Asked(offset=offset)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        cut.write_router(folder / "router/1")
        with Model(router, folder / "router") as model:
            routed = model.infer({name: Given(a, pieces, offset) for name, a in query.items()}, asked)
        wanted = cut.router().route(query).tensors
        assert list(routed) == list(wanted)
        found, expected = in_order(cut, routed), in_order(cut, wanted)
        for name, tensor in expected.items():
            assert found[name].dtype == tensor.dtype, name
            np.testing.assert_array_equal(found[name], tensor, name)
        answers = {}
        for k in cut.holders():
            cut.write_shard(k, folder / f"s{k}/1")
            inputs = shard_inputs(routed, f"s{k}")
            with Model(shard, folder / f"s{k}") as model:
                answer = model.infer({name: Given(a, pieces, offset) for name, a in inputs.items()}, asked)
            by_python = EmbeddingShard.open(folder / f"s{k}/1").answer(inputs)
            assert list(answer) == list(by_python)
            for name, tensor in by_python.items():
                np.testing.assert_array_equal(answer[name], tensor, name)
            answers[k] = answer
    assert_close(cut.joined(answers, routed, query), cut.expected(query))


def test_no_ids_at_all_are_zeros(router: Backend, tmp_path: Path) -> None:
    """Bags without ids, in tensors without a number."""
    cut, query = by_hand()
    query.update(
        ids1=np.zeros(0, np.int32), bounds1=np.zeros(6, np.int64), weights1=np.zeros(0, np.float32),
        ids2=np.zeros(0, np.int64), bounds2=np.zeros(2, np.int64), ids3=np.zeros(0, np.int64),
        bounds3=np.zeros(3, np.int32), ids4=np.zeros((2, 0), np.int64), ids5=np.full((2, 2), -1),
    )  # fmt: skip
    cut.write_router(tmp_path / "1")
    with Model(router, tmp_path) as model:
        routed = model.infer(query)
    assert sum(routed[f"s{k}_ids"].size for k in range(2)) == 12  # of ids0
    assert not any(routed[f"s{k}_ids_1"].size for k in range(2))
    answers = {k: EmbeddingShard(cut.held(k), cut.matrices(k)).answer(shard_inputs(routed, f"s{k}")) for k in range(2)}
    assert_close(cut.joined(answers, routed, query), cut.expected(query))
