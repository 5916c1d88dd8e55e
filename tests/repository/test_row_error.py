"""The score error of stored rows is what the model itself answers of tables that were stored so, by loops."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from repo_builder.access.hotness import Hotness
from repo_builder.access.powerlaw import PowerLawHotness
from repo_builder.errors import InputError, ModelFileError
from repo_builder.export.queries import read_labels, read_samples
from repo_builder.model.source import ModelFile
from repo_builder.model.types import RowDtype
from repo_builder.output import silent
from repo_builder.partition.plan import Plan, Service, Shard
from repo_builder.repository.row_error import RowTrial, auc
from repo_builder.repository.samples import SampleQueries, kept_queries, proof_query, sample_queries
from tests.toy_source import MODELS, ToySource, toy_spec

HOTNESS = PowerLawHotness(0.8, 3)


def plan_of(source: ToySource, dtypes: tuple[RowDtype, ...]) -> Plan:
    """Tiers of all tables, cut at fifths of each: so many as there are dtypes."""
    services = []
    for i, dtype in enumerate(dtypes):
        ends = [
            [table.rows * k // len(dtypes) for k in (i, i + 1)] if len(dtypes) > 1 else [0, table.rows]
            for table in source.model.tables
        ]
        shards = tuple(Shard(table.name, *span) for table, span in zip(source.model.tables, ends, strict=True))
        services.append(Service(f"tier{i}", "embedding", "cpu", 1, 1, 0, 0.0, 1.0, shards, row_dtype=dtype))
    dense = Service("dense", "dense", "cpu", 1, 1, 0, 0.0, 1.0, ())
    return Plan(source.model.name, "tiered", (dense, *services))


def stored(row: NDArray[np.float32], dtype: RowDtype) -> NDArray[np.float32]:
    """A row as it is read back, by the formats' definitions, a number after the other."""
    sides = {"int8": (255, np.float32), "int8_half": (255, np.float16), "int4": (15, np.float16)}
    if dtype in sides:
        steps, kind = sides[dtype]
        bias = np.float32(kind(row.min()))
        scale = np.float32(kind((row.max() - bias) / np.float32(steps)))
        levels = [min(steps, max(0, round((float(number) - float(bias)) / float(scale)))) for number in row]
        return np.array([np.float32(np.float32(level) * scale) + bias for level in levels], np.float32)
    kinds: Mapping[str, Any] = {"fp32": np.float32, "fp16": np.float16, "bf16": ml_dtypes.bfloat16}
    return np.array([np.float32(kinds[dtype](number)) for number in row], np.float32)


def with_stored_tables(source: ToySource, plan: Plan, hotness: Hotness) -> ToySource:
    """The same model whose tables' rows are what their services give."""
    other = type(source)(source.model)
    for rows, table in zip(other.tables, source.model.tables, strict=True):
        order = hotness.order(table)
        for service in plan.embedding_services:
            for shard in (each for each in service.shards if each.table == table.name):
                for rank in range(shard.begin, shard.end):
                    rows[order[rank]] = stored(rows[order[rank]], service.row_dtype)
    return other


def pairs_auc(scores: NDArray[np.float64], labels: NDArray[np.bool_]) -> float:
    """All pairs."""
    ones, zeros = scores[labels], scores[~labels]
    wins = sum(float(one > zero) + 0.5 * float(one == zero) for one in ones for zero in zeros)
    return wins / (len(ones) * len(zeros))


@pytest.mark.parametrize(
    "dtypes", [("fp16",), ("bf16", "int8"), ("int8_half",), ("fp32", "int4"), ("int8", "int4", "fp16")]
)
@pytest.mark.parametrize("kind", MODELS)
def test_error_is_that_of_the_whole_model_with_stored_tables(kind: str, dtypes: tuple[RowDtype, ...]) -> None:
    _, source = toy_spec(kind)
    queries = (source.query(40, seed=7), source.query(5, seed=8))
    trial = RowTrial(source, HOTNESS, SampleQueries(queries, {}, ""), silent)
    plan = plan_of(source, dtypes)
    found = trial.error(plan)
    other = with_stored_tables(source, plan, HOTNESS)
    for output in found.outputs:
        pairs = [(other.answers(query)[output.name], source.answers(query)[output.name]) for query in queries]
        apart = np.concatenate([np.abs(one.astype(np.float64) - own).reshape(-1) for one, own in pairs])
        assert apart.max() > 1e-6
        assert output.max == pytest.approx(apart.max(), rel=1e-3, abs=2e-6)
        assert output.mean == pytest.approx(apart.mean(), rel=1e-3, abs=1e-6)
    assert found.max == max(output.max for output in found.outputs)


@pytest.mark.parametrize("kind", MODELS)
def test_rows_in_float32_have_no_error_and_their_scores_are_the_models(kind: str) -> None:
    _, source = toy_spec(kind)
    query = source.query(30, seed=9)
    trial = RowTrial(source, HOTNESS, SampleQueries((query,), {}, ""), silent)
    for output in trial.error(plan_of(source, ("fp32", "fp32"))).outputs:
        assert (output.max, output.mean) == (0.0, 0.0)
        assert output.auc == output.auc_fp32 is not None


def test_auc_of_labels_is_that_of_all_pairs() -> None:
    _, source = toy_spec("rows")
    query, rng = source.query(60, seed=10), np.random.default_rng(1)
    labels = {"click": rng.integers(0, 2, 60), "watch": rng.integers(0, 2, (60, 2)).astype(np.float32)}
    trial = RowTrial(source, HOTNESS, SampleQueries((query,), labels, ""), silent)
    plan = plan_of(source, ("int4",))
    other = with_stored_tables(source, plan, HOTNESS)
    for output in trial.error(plan).outputs:
        of = labels[output.name].reshape(-1).astype(bool)
        assert output.labelled
        assert output.auc == pytest.approx(pairs_auc(other.answers(query)[output.name].reshape(-1), of), abs=2e-3)
        assert output.auc_fp32 == pytest.approx(pairs_auc(source.answers(query)[output.name].reshape(-1), of), abs=1e-9)
        assert output.auc != output.auc_fp32


def test_drawn_labels_are_as_likely_as_scores_say() -> None:
    """Chances, and logits of the other output; over many rows the AUC is that of the scores' own chances."""
    _, source = toy_spec("rows")
    query = source.query(3000, seed=11)
    trial = RowTrial(source, HOTNESS, SampleQueries((query,), {}, ""), silent)
    click, watch = trial.error(plan_of(source, ("fp32",))).outputs
    for output, chances in (
        (click, source.answers(query)["click"]),
        (watch, 1 / (1 + np.exp(-source.answers(query)["watch"].reshape(-1)))),
    ):
        above = chances[:, None] > chances
        weights = chances[:, None] * (1 - chances)
        assert not output.labelled
        assert output.auc_fp32 == pytest.approx(weights[above].sum() / weights[~np.eye(len(chances), dtype=bool)].sum(),
                                                abs=0.02)  # fmt: skip


def test_auc_with_ties_is_that_of_all_pairs() -> None:
    rng = np.random.default_rng(2)
    for size in range(2, 40):
        scores, labels = rng.integers(0, 6, size).astype(float), rng.random(size) < 0.5
        labels[:2] = True, False
        assert auc(scores, labels) == pytest.approx(pairs_auc(scores, labels), abs=1e-12)
    assert auc(np.arange(3.0), np.ones(3, bool)) is None
    assert auc(np.array([0, np.nan]), np.array([True, False])) is None


def test_tables_are_read_once_for_all_plans() -> None:
    _, source = toy_spec("rows")
    reads = []
    chunks = source.table_chunks
    source.table_chunks = lambda table: reads.append(table.name) or chunks(table)  # type: ignore[method-assign,func-returns-value] # counted
    done = []
    samples = SampleQueries((source.query(20, seed=1),), {}, "")
    trial = RowTrial(source, HOTNESS, samples, lambda *step: done.append(step))
    for dtype in ("fp32", "fp16", "int8", "int8_half", "int4"):
        trial.error(plan_of(source, (dtype,)))
    assert reads == ["items"]
    assert done[-1] == (source.model.size_bytes, source.model.size_bytes)


def test_rows_that_came_in_fewer_bits_stay_as_they_came() -> None:
    _, source = toy_spec("rows")
    came = replace(source.model.tables[0], format=replace(source.model.tables[0].format, dtype="int8"))
    source = ToySource(replace(source.model, tables=(came,)))
    trial = RowTrial(source, HOTNESS, SampleQueries((source.query(20, seed=1),), {}, ""), silent)
    assert trial.error(plan_of(source, ("int4",))).max == 0


def test_samples_are_taken_where_the_spec_names_them_and_drawn_elsewhere(tmp_path: Path) -> None:
    spec, source = toy_spec("rows")
    drawn = sample_queries(spec, source, HOTNESS)
    proof, query = drawn.queries
    assert (len(query["price"]), drawn.told) == (2048, "2,048 drawn rows")
    kept = proof_query(source, kept_queries(spec, source, HOTNESS))
    assert all(np.array_equal(proof[name], kept[name]) for name in kept)
    np.savez(tmp_path / "samples.npz", **source.samples(), **{"labels/click": np.arange(11) % 2})
    assert read_samples(tmp_path / "samples.npz", source.model.inputs).keys() == source.samples().keys()
    named = replace(spec, form=ModelFile("onnx", Path("toy.onnx"), tmp_path / "samples.npz"))
    found = sample_queries(named, source, HOTNESS)
    assert found.told == "the samples of samples.npz (11 rows)"
    np.testing.assert_array_equal(found.queries[0]["item"], source.samples()["item"])
    np.testing.assert_array_equal(found.labels["click"], np.arange(11) % 2)


def test_queries_of_other_models_are_drawn_one_by_one() -> None:
    spec, source = toy_spec("toy")
    drawn = sample_queries(spec, source, HOTNESS)
    assert len(drawn.queries) == 1 + 64
    assert all(len(query["price"]) == spec.serving.batch for query in drawn.queries[1:])
    assert RowTrial(source, HOTNESS, drawn, silent).error(plan_of(source, ("int8",))).max > 0


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        ({"labels/click": np.array([0, 2])}, "labels/click: expected labels of 0 and 1, got int64 \\[0, 2\\]"),
        ({"labels/click": np.array(["a"])}, "labels/click: expected labels of 0 and 1, got <U1"),
    ],
)
def test_labels_that_are_none_are_told(tmp_path: Path, labels: Mapping[str, NDArray[Any]], told: str) -> None:
    np.savez(tmp_path / "samples.npz", **labels)
    with pytest.raises(ModelFileError, match=told):
        read_labels(tmp_path / "samples.npz")


@pytest.mark.parametrize(("name", "size"), [("other", 20), ("click", 19)])
def test_labels_of_no_output_or_of_another_size_are_told(name: str, size: int) -> None:
    _, source = toy_spec("rows")
    samples = SampleQueries((source.query(20, seed=1),), {name: np.zeros(size)}, "the samples of r.npz (20 rows)")
    with pytest.raises(InputError, match=rf"the samples of r\.npz \(20 rows\): labels/{name}: expected "):
        RowTrial(source, HOTNESS, samples, silent)
