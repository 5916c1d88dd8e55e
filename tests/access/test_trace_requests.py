"""Accesses counted in requests, against counts made one id at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from repo_builder.access.load import load_hotness
from repo_builder.errors import AccessError, InputError
from repo_builder.model.source import ModelFile
from repo_builder.model.types import (
    BATCH,
    Columns,
    Dense,
    Group,
    Ids,
    IdsGraph,
    Lookup,
    Model,
    Ragged,
    RowFormat,
    Table,
    Tensor,
)
from repo_builder.spec import Access, Serving, Spec

ROWS = 50
ITEMS, TAGS = Table("items", ROWS, RowFormat(4)), Table("tags", 9, RowFormat(2))
RAW = Tensor("raw", "INT64", (BATCH,))
MODEL = Model(
    name="m",
    inputs=(
        Tensor("item", "INT64", (BATCH,)),
        RAW,
        Tensor("tags", "INT64", ("tags",)),
        Tensor("counts", "INT64", (BATCH,)),
    ),
    outputs=(),
    tables=(ITEMS, TAGS),
    groups=(Group(BATCH),),
    lookups=(
        Lookup("item", 0, 0, Ids("item", Columns(0, 1, 1)), "none", 1, (BATCH, 4), 1),
        Lookup("other", 0, 0, Ids("moved", Columns(0, 1, 1)), "none", 1, (BATCH, 4), 1),
        Lookup("tag", 1, 0, Ids("tags", Ragged("counts", "lengths")), "sum", 1, (BATCH, 2), 2),
    ),
    dense=Dense((), 0, 0, batched=False),
    ids_graph=IdsGraph((RAW,), (Tensor("moved", "INT64", (BATCH,)),)),
)
REQUESTS = {
    "item": np.array([3, 3, 7]),
    "raw": np.array([1, 53, 2]),
    "tags": np.array([8, 8, 0, 8]),
    "counts": np.array([1, 0, 3]),
}


class Source:
    """Its ids graph takes ids modulo the table's rows."""

    model = MODEL
    requests: Mapping[str, Any] = REQUESTS

    def ids(self, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        return {**inputs, "moved": inputs["raw"] % ROWS}

    def samples(self) -> Mapping[str, Any]:
        return self.requests


def spec(access: Access, source: Source, **own: Access) -> Spec:
    form = ModelFile("exported", Path("m.pt2"))
    return Spec("m", form, MODEL, access, Serving(1.0), table_access=own, opened=source)  # type: ignore[arg-type] # no more of a source than is asked


def test_samples_are_counted_through_the_ids_graph() -> None:
    hotness = load_hotness(spec(Access("samples"), Source()))
    counted = Counter([3, 3, 7, 1, 3, 2])  # 53 is row 3
    for rank, row in enumerate(hotness.order(ITEMS)[: len(counted)]):
        share = hotness.cdf(ITEMS)[rank + 1] - hotness.cdf(ITEMS)[rank]
        assert share == pytest.approx(counted[int(row)] / 6)
    assert hotness.order(TAGS)[:2].tolist() == [8, 0] and hotness.cdf(TAGS)[1] == 0.75


def test_a_trace_may_hold_the_models_inputs(tmp_path: Path) -> None:
    np.savez(tmp_path / "trace.npz", **REQUESTS)
    trace = load_hotness(spec(Access("trace", tmp_path / "trace.npz"), Source()))
    samples = load_hotness(spec(Access("samples"), Source()))
    for table in MODEL.tables:
        np.testing.assert_array_equal(trace.cdf(table), samples.cdf(table))
        np.testing.assert_array_equal(trace.order(table), samples.order(table))


def test_a_trace_may_hold_the_tables_ids_all_the_same(tmp_path: Path) -> None:
    np.savez(tmp_path / "trace.npz", items=np.array([4, 4, 1]), tags=np.array([2]))
    hotness = load_hotness(spec(Access("trace", tmp_path / "trace.npz"), Source()))
    assert hotness.order(ITEMS)[:2].tolist() == [4, 1]


def test_a_table_may_have_accesses_of_its_own() -> None:
    hotness = load_hotness(spec(Access("powerlaw", None, 0.9), Source(), tags=Access("samples")))
    assert hotness.order(TAGS)[0] == 8
    alone = load_hotness(spec(Access("powerlaw", None, 0.9), Source()))
    np.testing.assert_array_equal(hotness.order(ITEMS), alone.order(ITEMS))


def test_an_id_outside_its_table_is_told() -> None:
    source = Source()
    source.requests = {**REQUESTS, "tags": np.array([8, 9, 0, 8])}
    with pytest.raises(AccessError, match=r"samples: tag: expected ids from 0 to 8 of table tags, got 9"):
        load_hotness(spec(Access("samples"), source))


def test_a_table_that_nobody_reads_is_read_evenly_and_told() -> None:
    source = Source()
    source.requests = {**REQUESTS, "tags": np.array([], np.int64), "counts": np.array([0, 0, 0])}
    told: list[str] = []
    hotness = load_hotness(spec(Access("samples"), source), tell=told.append)
    assert told == ["samples: no access to tags: all of their rows count as equally hot"]
    np.testing.assert_allclose(hotness.cdf(TAGS), np.arange(10) / 9)


def test_a_trace_of_requests_without_ids_of_a_bag_is_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "trace.npz", **{**REQUESTS, "tags": np.array([], np.int64), "counts": np.array([0, 0, 0])})
    hotness = load_hotness(spec(Access("trace", tmp_path / "trace.npz"), Source()))
    np.testing.assert_allclose(hotness.cdf(TAGS), np.arange(10) / 9)


def test_a_trace_of_no_requests_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "trace.npz"
    np.savez(path, **{name: array[:0] for name, array in REQUESTS.items()})
    with pytest.raises(AccessError) as refusal:
        load_hotness(spec(Access("trace", path), Source()))
    assert str(refusal.value) == f"{path}: expected at least one row, got 0"


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"item": np.array([3.0, 3.0, 7.0])}, "item: expected INT64 [batch], got float64 [3]"),
        ({"item": np.zeros((3, 1), np.int64)}, "item: expected INT64 [batch], got int64 [3, 1]"),
        ({"raw": np.array([1, 53])}, "raw: expected INT64 [batch = 3], got [2]"),
    ],
)
def test_a_trace_of_requests_of_another_model_is_refused(change: Any, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "trace.npz"
    np.savez(path, **{**REQUESTS, **change})
    with pytest.raises(AccessError) as refusal:
        load_hotness(spec(Access("trace", path), Source()))
    assert str(refusal.value) == f"{path}: {problem}"


def test_requests_that_the_model_refuses_are_told_with_their_file() -> None:
    class Refusing(Source):
        def ids(self, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
            raise InputError("the model refuses the query")

    with pytest.raises(AccessError, match=r"^samples: the model refuses the query$"):
        load_hotness(spec(Access("samples"), Refusing()))
    source = Source()
    source.requests = {**REQUESTS, "counts": np.array([1, 0, 9])}
    with pytest.raises(AccessError, match=r"^samples: counts: expected bounds of bags within the 4 ids of tags"):
        load_hotness(spec(Access("samples"), source))
