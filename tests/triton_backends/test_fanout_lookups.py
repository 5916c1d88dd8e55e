"""Any look-ups in a fleet: several groups, units and tensors a call, answered by real shards behind gRPC."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
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
from tests.triton_backends.lookups import Cut, Drawn, Query, Region, Source, divisors_of
from triton_backends.embedding_shard.shard import EmbeddingShard
from triton_backends.router.routing import suffix

NEVER_US = 600_000_000


@dataclass
class RealShard(FakeShard):
    """Answers what it holds; its outputs come in another order each time. asked: what it got last."""

    shard: EmbeddingShard | None = None
    asked: Mapping[str, np.ndarray] = field(default_factory=dict)

    def answer(self, inputs: Mapping[str, np.ndarray]) -> bytes:
        assert self.shard is not None
        self.asked = inputs
        sums = list(self.shard.answer({name: each[None] for name, each in inputs.items()}).items())
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
        columns, units = cut.columns(service, group), cut.members(service, group)
        joined = {i: sum(cut.width(j) for j in cut.in_group(group) if j < i) for i in cut.in_group(group)}
        pieces = [{"from": columns[i], "to": joined[i], "columns": cut.width(i)} for i in columns]
        width = sum(cut.width(i) for i in columns)
        dims = [cut.tables[cut.lookups[unit[0]].table].shape[1] for unit in units if cut.bags_of(unit)]
        if units:
            found.append({"group": group, "width": width, "dims": dims, "pieces": pieces})
    return found


def rows_of(cut: Cut) -> list[dict[str, int]]:
    """Where the rows of un-pooled look-ups go, as `fanout.json` has it."""
    return [
        {
            "lookup": i,
            "to": sum(cut.width(j) for j in cut.in_group(group) if j < i),
            "dim": cut.tables[cut.lookups[i].table].shape[1],
        }
        for group in range(cut.groups)
        for i in cut.in_group(group)
        if cut.lookups[i].unpooled
    ]


def write_fleet(folder: Path, cut: Cut, datatype: str = "FP32", **changed: object) -> None:
    """The router's files, but for the addresses."""
    cut.write_router(folder / "1")
    document = {
        "name": "m_router",
        "version": "7",
        "widths": [sum(cut.width(i) for i in cut.in_group(g)) for g in range(cut.groups)],
        "deadline_us": NEVER_US,
        "hedge_quantile_ppm": 0,
        "max_in_flight": 64,
        "degrade": 0,
        "half_sums": int(datatype == "FP16"),
        "services": [
            {"name": f"s{k}", "model": f"m_s{k}", "instances": 1, "groups": groups_of(cut, k)}
            for k in range(cut.services)
        ],
    }
    if rows := rows_of(cut):
        document["rows"] = rows
    document.update(changed)
    (folder / "1/fanout.json").write_text(json.dumps(document))


@contextmanager
def fleet(
    backend: Backend, folder: Path, cut: Cut, datatype: str = "FP32", **changed: object
) -> Iterator[tuple[Model, list[RealShard]]]:
    """The fan-out router of a model and a replica of each service."""
    write_fleet(folder, cut, datatype, **changed)
    shards = [
        RealShard(1, datatype=datatype, shard=EmbeddingShard(cut.held(k), cut.matrices(k))) for k in range(cut.services)
    ]
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


def histories() -> Cut:
    """Two services with the rows of items of dim 3 and of tags of dim 2: histories of both beside an item, un-pooled,
    and the sum of the history's items. The item's id 0 stands for none.
    """
    rng = np.random.default_rng(3)
    tables = [rng.standard_normal((rows, dim)).astype(np.float32) for rows, dim in ((50, 3), (20, 2))]
    sources = [
        Source(0, 0, 8, np.int64, False, [Region(0, 8, 1, 20, None, False), Region(0, 1, 8, 20, None, False)]),
        Source(0, 0, 1, np.int32, False, [Region(0, 1, 1, 50, 0, False)]),
    ]
    lookups = [
        Drawn("sum", 0, 0, 1, mean=False, weighted=False),
        Drawn("items", 0, 0, 0, mean=False, weighted=False, unpooled=True),
        Drawn("tags", 1, 0, 0, mean=False, weighted=False, unpooled=True),
        Drawn("item", 0, 1, 0, mean=False, weighted=False, unpooled=True),
    ]
    shard_of_rows = [np.arange(len(table), dtype=np.uint8) % 2 for table in tables]
    return Cut(tables, shard_of_rows, [[0, 1], [1, 0]], sources, lookups, 1, 2)


def test_a_row_is_asked_for_once_however_often_its_id_comes(backend: Backend, tmp_path: Path) -> None:
    """In a query, and in those that are asked as one: a user's history beside 40 items, and the same user's again."""
    cut = histories()
    query = {
        "ids0": np.tile(np.array([4, 5, 6, 7, 4, 5, 6, 19]), (40, 1)),
        "ids1": np.arange(40, dtype=np.int32)[:, None] % 8,
    }
    with fleet(backend, tmp_path, cut) as (model, shards):
        for answer in model.infer_all([query, query]):
            assert not isinstance(answer, BackendError), answer
            assert_close(vectors(cut, answer), cut.expected(query))
        found = [shard.asked for shard in shards]
    units = [unit for unit in cut.units() if cut.lookups[unit[2][0]].unpooled]
    lengths = [found[k]["lengths"][-len(cut.members(k, 0)) + 1 :].tolist() for k in range(2)]
    # items 1 ... 7 and 19 by the evens and the odds; tags 4, 5, 6, 7 and 19 likewise, the odds in service 0
    assert len(units) == 4 and lengths == [[3, 3], [5, 2]]


@pytest.mark.parametrize("datatype", ["FP32", "FP16"])
@pytest.mark.parametrize("gone", [0, 1])
def test_rows_of_a_missing_service_are_zeros(backend: Backend, tmp_path: Path, gone: int, datatype: str) -> None:
    cut = histories()
    query = cut.query(np.random.default_rng(5), [7])
    with fleet(backend, tmp_path, cut, datatype, degrade=1) as (model, shards):
        shards[gone].status = (grpc.StatusCode.UNAVAILABLE, "stopping")
        answer = model.infer(query)
        assert answer["degraded"].all()
        assert_close(vectors(cut, answer), cut.expected(query, [gone]), 1e-5 if datatype == "FP32" else 0.01)


ROWS = rows_of(histories())


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        (ROWS[:-1], "rows: expected one of each un-pooled look-up"),
        ([*ROWS, ROWS[-1]], "expected"),
        ([ROWS[1], ROWS[0], ROWS[2]], "expected a number from 1 to 1"),
        ([{**ROWS[0], "lookup": 0}, *ROWS[1:]], "expected a number from 1 to 1"),
        ([{**ROWS[0], "to": 28}, *ROWS[1:]], "look-up items: its columns are not there"),
        ([{**ROWS[0], "to": -1}, *ROWS[1:]], "expected a number from 0"),
        ([*ROWS[:2], {**ROWS[2], "dim": 4, "to": 0}], "look-up item: expected rows of one dim in a unit, got 3 and 4"),
        ([{**ROWS[0], "dim": 0}, *ROWS[1:]], "expected a number from 1"),
        ([], "expected"),
    ],
)
def test_where_rows_go_is_checked(backend: Backend, tmp_path: Path, rows: object, told: str) -> None:
    write_fleet(tmp_path, histories(), rows=rows)
    (tmp_path / "1/fleet.json").write_text("{}")
    with pytest.raises(BackendError, match=f"fanout.json: .*{told}"), Model(backend, tmp_path):
        pass


def test_rows_are_told_where_there_are_such(backend: Backend, tmp_path: Path) -> None:
    write_fleet(tmp_path, histories())
    path = tmp_path / "1/fanout.json"
    document = json.loads(path.read_text())
    del document["rows"]
    path.write_text(json.dumps(document))
    with pytest.raises(BackendError, match=r"fanout.json: expected ','"), Model(backend, tmp_path):
        pass


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


def a_row_less(output: pb.ModelInferResponse.InferOutputTensor, raw: bytes) -> bytes:
    output.shape[1] -= 3
    return raw[:-12]


def cut_short(output: pb.ModelInferResponse.InferOutputTensor, raw: bytes) -> bytes:
    return raw[:-4]


def infinite(output: pb.ModelInferResponse.InferOutputTensor, raw: bytes) -> bytes:
    return raw[:-4] + np.float32("inf").tobytes()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (a_row_less, "rows: expected FP32 of 1 x"),
        (cut_short, "rows: expected FP32 of 1 x"),
        (infinite, "rows: expected finite numbers"),
    ],
)
def test_rows_as_they_are_are_checked(backend: Backend, tmp_path: Path, change: Callable, told: str) -> None:
    def spoil(answer: bytes) -> bytes:
        message = pb.ModelInferResponse.FromString(answer)
        place = [each.name for each in message.outputs].index("rows")
        message.raw_output_contents[place] = change(message.outputs[place], message.raw_output_contents[place])
        return bytes(message.SerializeToString())

    cut = histories()
    query = cut.query(np.random.default_rng(1), [9])
    with fleet(backend, tmp_path, cut) as (model, shards):
        shards[0].spoilt = spoil
        with pytest.raises(BackendError, match=f"INTERNAL: .*{told}"):
            model.infer(query)
        shards[0].spoilt = None
        assert_close(vectors(cut, model.infer(query)), cut.expected(query))


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
