"""Any look-ups in a fleet: several groups, units and tensors a call, answered by real shards behind gRPC."""

from __future__ import annotations

import ctypes
import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2 as pb

from tests.triton_backends.drawn_cuts import draw_cut
from tests.triton_backends.fake_shard import DTYPES, FakeShard, serving
from tests.triton_backends.fake_triton import Backend, BackendError, Model
from tests.triton_backends.lookups import Cut, Query, divisors_of
from triton_backends.embedding_shard.shard import Shard
from triton_backends.router.routing import suffix

NEVER_US = 600_000_000


@pytest.fixture(scope="module")
def backend(fake: ctypes.CDLL) -> Backend:
    loaded = Backend(fake, "elasticrec_fanout")
    loaded.initialize()
    return loaded


@dataclass
class RealShard(FakeShard):
    """Sums what it holds; its outputs come in another order each time."""

    shard: Shard | None = None

    def answer(self, inputs: Mapping[str, np.ndarray]) -> bytes:
        assert self.shard is not None
        sums = list(self.shard.sums({name: each[None] for name, each in inputs.items()}).items())
        answer = pb.ModelInferResponse(model_name="m")
        answer.outputs.add(name="other", datatype="INT32", shape=[1])
        answer.raw_output_contents.append(bytes(4))
        for i in np.random.default_rng(self.begun).permutation(len(sums)):
            name, each = sums[i]
            answer.outputs.add(name=name, datatype=self.datatype, shape=each.shape)
            answer.raw_output_contents.append(each.astype(DTYPES[self.datatype]).tobytes())
        return bytes(answer.SerializeToString())


def groups_of(cut: Cut, service: int) -> list[dict[str, object]]:
    """A service's groups as `fanout.json` has them: where its columns go, one run a look-up."""
    found = []
    for group in range(cut.groups):
        columns = cut.columns(service, group)
        joined = {i: sum(cut.width(j) for j in cut.in_group(group) if j < i) for i in cut.in_group(group)}
        pieces = [{"from": columns[i], "to": joined[i], "columns": cut.width(i)} for i in columns]
        width = sum(cut.width(i) for i in columns)
        if columns:
            found.append({"group": group, "width": width, "pieces": pieces})
    return found


@contextmanager
def fleet(
    backend: Backend, folder: Path, cut: Cut, datatype: str = "FP32", **changed: object
) -> Iterator[tuple[Model, list[RealShard]]]:
    """The fan-out router of a model and a replica of each service."""
    cut.write_router(folder / "1")
    shards = [RealShard(1, datatype=datatype, shard=Shard(cut.held(k), cut.matrices(k))) for k in range(cut.services)]
    document = {
        "name": "m_router",
        "version": "7",
        "widths": [sum(cut.width(i) for i in cut.in_group(g)) for g in range(cut.groups)],
        "deadline_us": NEVER_US,
        "hedge_quantile_ppm": 0,
        "max_in_flight": 64,
        "degrade": 0,
        "half_sums": int(datatype == "FP16"),
        **changed,
        "services": [{"name": f"s{k}", "model": f"m_s{k}", "groups": groups_of(cut, k)} for k in range(cut.services)],
    }
    (folder / "1/fanout.json").write_text(json.dumps(document))
    with serving(*shards):
        addresses = {f"s{k}": [shard.address] for k, shard in enumerate(shards)}
        (folder / "1/fleet.json").write_text(json.dumps(addresses))
        with Model(backend, folder) as model:
            yield model, shards


def vectors(cut: Cut, outputs: Query) -> list[np.ndarray]:
    """Each look-up's vectors of what the router answered."""
    found = []
    divisors = divisors_of(outputs, cut.groups)
    for i, lookup in enumerate(cut.lookups):
        group = cut.sources[lookup.source].group
        begin = sum(cut.width(j) for j in cut.in_group(group) if j < i)
        sums = outputs[f"sums{suffix(group)}"][:, begin : begin + cut.width(i)]
        found.append(cut.divided(i, sums, divisors.get(group)))
    return found


def assert_close(found: list[np.ndarray], expected: list[np.ndarray], tolerance: float = 1e-5) -> None:
    for each, wanted in zip(found, expected, strict=True):
        np.testing.assert_allclose(each, wanted, rtol=tolerance, atol=tolerance)


def draw_whole(rng: np.random.Generator) -> Cut:
    """A model each of whose services holds rows, as a plan's do."""
    while True:
        cut = draw_cut(rng)
        if len(cut.holders()) == cut.services:
            return cut


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 100_000), datatype=st.sampled_from(["FP32", "FP16"]))
def test_any_look_up_is_asked_of_its_services(backend: Backend, seed: int, datatype: str) -> None:
    """Queries handed over together are joined, and each gets its own rows of every group; a bad one its error alone."""
    rng = np.random.default_rng(seed)
    cut = draw_whole(rng)
    queries = [cut.query(rng) for _ in range(4)]
    spoilt = {name: np.full_like(a, 10**8) if name.startswith("ids") else a for name, a in queries[1].items()}
    bad = any(a.size for name, a in spoilt.items() if name.startswith("ids"))
    with (
        tempfile.TemporaryDirectory() as folder,
        fleet(backend, Path(folder), cut, datatype) as (model, _),
    ):
        answers = model.infer_all([queries[0], spoilt, *queries[2:]])
        if bad:
            assert "is out of range" in str(answers[1])
        for query, answer in zip([queries[0], *queries[2:]], [answers[0], *answers[2:]], strict=True):
            assert not isinstance(answer, BackendError), answer
            assert_close(vectors(cut, answer), cut.expected(query), 1e-5 if datatype == "FP32" else 0.05)


@settings(deadline=None, max_examples=8)
@given(seed=st.integers(0, 100_000))
def test_a_missing_service_is_left_out_of_sums_and_means(backend: Backend, seed: int) -> None:
    rng = np.random.default_rng(seed)
    cut = draw_whole(rng)
    query = cut.query(rng)
    with (
        tempfile.TemporaryDirectory() as folder,
        fleet(backend, Path(folder), cut, degrade=1) as (model, shards),
    ):
        gone = int(rng.integers(cut.services))
        shards[gone].status = (grpc.StatusCode.UNAVAILABLE, "stopping")
        answer = model.infer(query)
        rows = len(answer["sums"])
        assert answer["degraded"].tolist() == [[bool(shards[gone].calls)]] * rows  # it holds none of the query's ids
        assert_close(vectors(cut, answer), cut.expected(query, [gone]))


def two_groups() -> Cut:
    """A model of one service and two groups, of few look-ups."""
    for seed in range(1000):
        cut = draw_whole(np.random.default_rng(seed))
        if cut.groups == 2 and cut.services == 1:
            return cut
    raise AssertionError("none was drawn")


def renamed(message: pb.ModelInferResponse) -> None:
    next(each for each in message.outputs if each.name == "sums_1").name = "sums_2"


def resized(message: pb.ModelInferResponse) -> None:
    next(each for each in message.outputs if each.name == "sums_1").shape[0] += 1


def shortened(message: pb.ModelInferResponse) -> None:
    del message.raw_output_contents[-1]


def emptied(message: pb.ModelInferResponse) -> None:
    for i in range(len(message.raw_output_contents)):
        message.raw_output_contents[i] = b""


def with_nan(message: pb.ModelInferResponse) -> None:
    index = [each.name for each in message.outputs].index("sums_1")
    raw = message.raw_output_contents[index]
    message.raw_output_contents[index] = np.float32("nan").tobytes() + raw[4:]


SPOILT = {
    renamed: "sums_1: expected an inference response",
    resized: "sums_1: expected FP32 of",
    shortened: "sums(_1)?: expected",
    emptied: "sums: expected FP32 of",
    with_nan: "sums_1: expected finite numbers",
}


@pytest.mark.parametrize("change", SPOILT, ids=lambda each: each.__name__)
def test_each_of_an_answers_tensors_is_checked(backend: Backend, tmp_path: Path, change: object) -> None:
    def spoil(answer: bytes) -> bytes:
        message = pb.ModelInferResponse.FromString(answer)
        change(message)
        return bytes(message.SerializeToString())

    cut = two_groups()
    query = cut.query(np.random.default_rng(1))
    with fleet(backend, tmp_path, cut) as (model, (shard,)):
        shard.spoilt = spoil
        with pytest.raises(BackendError, match=f"INTERNAL: .*{SPOILT[change]}"):
            model.infer(query)
        shard.spoilt = None
        assert_close(vectors(cut, model.infer(query)), cut.expected(query))


def test_no_answers_of_several_tensors_crash_it(backend: Backend, tmp_path: Path) -> None:
    """Bytes changed anywhere but in the numbers: right shapes, or an error."""
    rng = np.random.default_rng(0)
    cut = two_groups()
    query = cut.query(rng)

    def spoil(answer: bytes) -> bytes:
        changed = bytearray(answer[: rng.integers(len(answer) // 2, len(answer) + 1)])
        for _ in range(rng.integers(1, 4)):
            changed[rng.integers(0, min(len(changed), 120))] = rng.integers(256)
        return bytes(changed)

    with fleet(backend, tmp_path, cut) as (model, (shard,)):
        shard.spoilt = spoil
        answers = [model.infer_all([query])[0] for _ in range(300)]
        errors = [answer for answer in answers if isinstance(answer, BackendError)]
        assert all("expected" in str(error) for error in errors) and len(errors) > 100
