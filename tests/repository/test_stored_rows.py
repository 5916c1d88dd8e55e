"""Rows in every format: what is written, what the proof says of it, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from repo_builder.access.load import load_hotness
from repo_builder.access.powerlaw import PowerLawHotness
from repo_builder.errors import CheckpointError, ExportError, SpecError
from repo_builder.export.dlrm.source import open_source
from repo_builder.model.row_rule import RowRule
from repo_builder.model.source import ModelFile
from repo_builder.model.types import BATCH, Model, RowDtype, RowFormat, Table
from repo_builder.partition.plan import Plan
from repo_builder.partition.planner import make_plan
from repo_builder.repository import weights
from repo_builder.repository.build import build
from repo_builder.repository.built_fleet import load_fleet
from repo_builder.repository.manifest import Layout, Manifest, load_manifest, read_queries
from repo_builder.repository.proof import score_error
from repo_builder.spec import Access, Serving, Spec
from tests.integration.models import CHEAP, make_spec, pytorch_scores
from tests.toy_source import TOY, ToySource, toy_spec

HOTNESS = PowerLawHotness(0.8, 0)
FEWER_BITS = get_args(RowDtype)[1:]


def planned(spec: Spec, *dtypes: RowDtype) -> Plan:
    """Tiers whose rows are stored so, from the hottest on; the last dtype is that of the others."""
    plan = make_plan(spec, HOTNESS, CHEAP, "tiered", 3)
    found = iter(dtypes)
    services = []
    last: RowDtype = "fp32"
    for service in plan.services:
        if service.kind == "embedding":
            last = next(found, last)
            service = replace(service, row_dtype=last)  # what the loop is for
        services.append(service)
    return replace(plan, services=tuple(services))


def by_hand(rows: NDArray[np.float32], dtype: RowDtype) -> NDArray[np.float32]:
    """What is left of rows, in float64 and without a look at the builder: by PyTorch, or the nearest of equal steps."""
    halves = {"fp16": torch.float16, "bf16": torch.bfloat16}
    if dtype in halves:
        return torch.from_numpy(rows).to(halves[dtype]).float().numpy()
    low, high, steps = rows.min(1, keepdims=True), rows.max(1, keepdims=True), 15 if dtype == "int4" else 255
    step = (high.astype(np.float64) - low) / steps
    return (low + step * np.rint((rows - low) / step)).astype(np.float32)


@pytest.mark.parametrize("layout", ["single", "fleet"])
@pytest.mark.parametrize("dtype", FEWER_BITS)
def test_a_format_takes_its_bytes_and_changes_scores_by_what_it_leaves_of_rows(
    dtype: RowDtype, layout: Layout, tmp_path: Path
) -> None:
    spec, source = toy_spec("toy")
    manifest = build(spec, planned(spec, dtype), HOTNESS, source, tmp_path / "out", layout=layout)
    written = sum(entry.size_bytes for entry in manifest.files if entry.path.endswith("weights.bin"))
    expected = sum(RowFormat(table.format.dim, dtype).row_bytes * table.rows for table in TOY.tables)
    assert expected <= written < expected + 3 * 3 * 64  # matrices begin at whole lines
    samples = source.samples()
    whole = source.answers(samples)
    source.tables = [by_hand(rows, dtype) for rows in source.tables]
    told, expected_error = manifest.proof, score_error(source.answers(samples), whole)
    assert told and told.score_error and told.difference <= 1e-5
    tolerance = 0.1 if dtype in ("int8_half", "int4") else 0.02  # the two have scale and bias in float16
    assert told.score_error.max == pytest.approx(expected_error.max, rel=tolerance)
    assert told.score_error.mean == pytest.approx(expected_error.mean, rel=tolerance)
    assert load_manifest(tmp_path / "out") == manifest


def test_the_error_is_of_all_numbers_that_are_no_whole_ones() -> None:
    whole = {"a": np.array([1, 2], np.float32), "b": np.array([[3.0]]), "best": np.array([7])}
    found = {"a": np.array([1.5, 2], np.float32), "b": np.array([[2.0]]), "best": np.array([9])}
    error = score_error(found, whole)
    assert (error.max, error.mean) == (1.0, 0.5)
    assert score_error({"best": np.array([9])}, {"best": np.array([7])}).max == 2
    with pytest.raises(ExportError, match="output a: expected finite numbers"):
        score_error({**found, "a": np.array([np.inf, 2], np.float32)}, whole)


def test_hot_rows_may_keep_their_bits(tmp_path: Path) -> None:
    """Less is changed, and only the cold rows are smaller."""
    spec, source = toy_spec("toy")
    plans = {"mixed": planned(spec, "fp32", "int8"), "int8": planned(spec, "int8"), "fp32": planned(spec, "fp32")}
    found = {name: build(spec, plan, HOTNESS, source, tmp_path / name) for name, plan in plans.items()}
    sizes = {
        name: {entry.path: entry.size_bytes for entry in manifest.files if entry.path.endswith("weights.bin")}
        for name, manifest in found.items()
    }
    hot, *cold = sorted(sizes["mixed"])
    assert cold
    assert sizes["mixed"][hot] == sizes["fp32"][hot] > sizes["int8"][hot]
    assert all(sizes["mixed"][path] == sizes["int8"][path] < sizes["fp32"][path] for path in cold)
    errors = {name: manifest.proof and manifest.proof.score_error for name, manifest in found.items()}
    assert errors["fp32"] is None
    assert errors["mixed"] and errors["int8"] and errors["mixed"].mean <= errors["int8"].mean
    documents = {name: json.loads((tmp_path / name / "manifest.json").read_text())["proof"] for name in found}
    assert "score_error" not in documents["fp32"] and "score_error" in documents["mixed"]


def test_the_error_of_a_dlrm_is_that_of_its_drawn_queries(tmp_path: Path) -> None:
    spec = make_spec(tmp_path)
    hotness = load_hotness(spec)
    manifest = build(spec, planned(spec, "int8"), hotness, open_source(spec), tmp_path / "out")
    query = read_queries(tmp_path / "out", 32)
    whole = pytorch_scores(spec, query["dense"], query["indices"])
    state = torch.load(spec.dlrm.weights.path, weights_only=True)
    tables = {key: torch.from_numpy(by_hand(state[key].numpy(), "int8")) for key in state if key.startswith("emb_l")}
    torch.save({**state, **tables}, spec.dlrm.weights.path)
    apart = np.abs(pytorch_scores(spec, query["dense"], query["indices"]) - whole)
    assert manifest.proof and manifest.proof.score_error
    assert manifest.proof.score_error.max == pytest.approx(apart.max(), rel=0.02, abs=1e-6)
    assert manifest.proof.score_error.mean == pytest.approx(apart.mean(), rel=0.02, abs=1e-6)


def with_budget(budget: float) -> tuple[Spec, ToySource]:
    spec, source = toy_spec("toy")
    return replace(spec, rows=RowRule(budget=budget)), source


def test_what_costs_more_than_the_budget_is_refused(tmp_path: Path) -> None:
    spec, source = with_budget(1e-4)
    told = r"rows.budget: expected a score error of at most 0.0001 on samples, got .* \(tier0 fp32, tier1 int4"
    with pytest.raises(SpecError, match=told):
        build(spec, planned(spec, "fp32", "int4"), HOTNESS, source, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
    build(spec, planned(spec, "fp32"), HOTNESS, source, tmp_path / "same")
    spec, source = with_budget(10.0)
    build(spec, planned(spec, "fp32", "int4"), HOTNESS, source, tmp_path / "wide")


@pytest.mark.parametrize("dtype", ["fp16", "int4"])
def test_a_number_that_a_format_cannot_hold_is_told_with_its_table(dtype: RowDtype, tmp_path: Path) -> None:
    spec, source = toy_spec("toy")
    source.tables[1][39, 2] = 1e6
    with pytest.raises(CheckpointError, match=f"table tags: expected numbers that {dtype} can hold.* say fp32 or bf16"):
        build(spec, planned(spec, dtype), HOTNESS, source, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("dtype", get_args(RowDtype))
def test_a_bit_that_is_written_otherwise_is_told_by_table_and_row(
    dtype: RowDtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last of each number's, or of each row's bias: less than look-ups would tell."""
    write = weights.stored_rows

    def flipping(rows: NDArray[np.float32], dtype: RowDtype) -> NDArray[np.uint8]:
        stored = write(rows, dtype).copy()
        stored[:, {"int8": -4, "int8_half": -4, "int4": -4}.get(dtype, 0)] ^= 1
        return stored

    if dtype in ("fp16", "bf16", "int8_half", "int4"):  # a last bit of theirs is more than 1e-5
        monkeypatch.setattr("repo_builder.repository.proof.TOLERANCE", 1.0)
    monkeypatch.setattr(weights, "stored_rows", flipping)
    spec, source = toy_spec("toy")
    with pytest.raises(ExportError, match=r"table items: row \d+ is written otherwise in service tier\d than it"):
        build(spec, planned(spec, dtype), HOTNESS, source, tmp_path / "out")


def test_what_a_pod_needs_follows_the_rows(tmp_path: Path) -> None:
    """The plan's bytes, and with them memory requests and what `up` counts, are those of the files."""
    spec, source = toy_spec("toy")
    spec = replace(spec, rows=RowRule("fp32", "int8"))
    build(spec, make_plan(spec, HOTNESS, CHEAP, "tiered", 3), HOTNESS, source, tmp_path / "out", layout="fleet")
    dims = {table.name: table.format.dim for table in TOY.tables}
    shards = load_fleet(tmp_path / "out").shards
    assert [service.planned.row_dtype for service in shards][:2] == ["fp32", "int8"]
    for service in shards:
        dtype = service.planned.row_dtype
        held = sum(each.rows * RowFormat(dims[each.table], dtype).row_bytes for each in service.planned.shards)
        weights_bytes = sum(path.stat().st_size for path in (tmp_path / "out" / service.folder).glob("**/weights.bin"))
        assert held <= weights_bytes < held + 3 * 64
        assert service.planned.memory_bytes == held + CHEAP.min_memory_bytes
        assert service.memory_bytes == max(held + CHEAP.min_memory_bytes, service.files_bytes) + service.shm_bytes


def mixed_model(*dtypes: RowDtype) -> Model:
    """The toy with tables of one dim that come in these formats."""
    tables = tuple(Table(t.name, t.rows, RowFormat(8, dtype)) for t, dtype in zip(TOY.tables, dtypes, strict=True))
    shapes = {"tag": (BATCH, 8), "who": (1, 2, 8)}
    lookups = tuple(replace(each, shape=shapes.get(each.name, each.shape)) for each in TOY.lookups)
    return replace(TOY, tables=tables, lookups=lookups)


@pytest.mark.parametrize(
    ("came", "dtype", "layout"),
    [
        (("int8", "int8", "int8"), "fp32", "single"),
        (("int8", "fp32", "int4"), "fp32", "fleet"),
        (("fp32", "int8", "int4"), "int4", "single"),
        (("int4", "bf16", "fp32"), "int8", "fleet"),
    ],
)
def test_tables_that_come_in_fewer_bits_are_taken_as_they_are(
    came: tuple[RowDtype, RowDtype, RowDtype], dtype: RowDtype, layout: Layout, tmp_path: Path
) -> None:
    """Whatever the services' own format; the whole model is that of their numbers, and the rest is encoded."""
    source = ToySource(mixed_model(*came))
    access, serving = Access("powerlaw", locality=0.8), Serving(target_qps=300, batch=8)
    spec = Spec("toy", ModelFile("onnx", Path("toy.onnx")), source.model, access, serving, opened=source)
    manifest: Manifest = build(spec, planned(spec, "fp32", dtype), HOTNESS, source, tmp_path / "out", layout=layout)
    assert manifest.proof and manifest.proof.difference <= 1e-5
    assert (manifest.proof.score_error is None) == ("fp32" not in came or dtype == "fp32")
    assert load_manifest(tmp_path / "out") == manifest
    files = sorted((tmp_path / "out").glob("**/weights.bin"))
    content = b"".join(file.read_bytes() for file in files)
    for rows, each in zip(source.stored, came, strict=True):
        assert each == "fp32" or all(row.tobytes() in content for row in rows[:5])
