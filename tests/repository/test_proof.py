"""A build that would answer otherwise than the model is refused, by where that begins; nothing is left of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from repo_builder.access.powerlaw import PowerLawHotness
from repo_builder.errors import ExportError, InputError
from repo_builder.model.source import HALF_TOLERANCE, ModelFile, Partial
from repo_builder.partition.planner import make_plan
from repo_builder.repository import weights
from repo_builder.repository.build import build
from repo_builder.repository.manifest import Layout, Manifest
from repo_builder.spec import Access, Serving, Spec
from tests.export.onnx_file.cutting import FLOAT, INT64, make, node, opened, table
from tests.integration.models import CHEAP
from tests.toy_source import ToySource, toy_spec
from triton_backends.router.idmap import build_id_map

HOTNESS = PowerLawHotness(0.8, 0)


def built(kind: str, target: Path, change: Callable[[ToySource], None], layout: Layout = "single") -> Manifest:
    spec, source = toy_spec(kind)
    plan = make_plan(spec, HOTNESS, CHEAP, "tiered", 3)
    change(source)
    return build(spec, plan, HOTNESS, source, target, layout=layout)


def nothing(_: ToySource) -> None:
    """As it is."""


def other_dense_weights(source: ToySource) -> None:
    """The second output's column is written a little off."""
    write, weight = source.write_dense, source.weight

    def write_dense(partials: Sequence[Partial], folder: Path) -> Sequence[str]:
        source.weight = weight * np.array([1, 1, 1.001], np.float32)
        names = write(partials, folder)
        source.weight = weight
        return names

    source.write_dense = write_dense  # type: ignore[method-assign] # broken on purpose


def another_input(source: ToySource) -> None:
    """The graph wants what nobody gives."""
    write = source.write_dense

    def write_dense(partials: Sequence[Partial], folder: Path) -> Sequence[str]:
        return write([replace(partials[0], name="mine"), *partials[1:]], folder)

    source.write_dense = write_dense  # type: ignore[method-assign] # broken on purpose


def other_ids(source: ToySource) -> None:
    ids = source.ids

    def moved(inputs: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
        return {**ids(inputs), "computed": ids(inputs)["computed"] ^ 1}

    source.ids = moved  # type: ignore[method-assign] # broken on purpose


def another_shape(source: ToySource) -> None:
    answers = source.answers
    source.answers = lambda inputs: {**answers(inputs), "click": answers(inputs)["click"][:, None]}  # type: ignore[method-assign] # broken on purpose


def not_a_number(source: ToySource) -> None:
    answers = source.answers
    source.answers = lambda inputs: {**answers(inputs), "click": answers(inputs)["click"] * np.nan}  # type: ignore[method-assign] # broken on purpose


def a_bad_sample(source: ToySource) -> None:
    samples = source.samples()
    source.samples = lambda: {**samples, "user": np.array([[3, 90]])}  # type: ignore[method-assign] # broken on purpose


@pytest.mark.parametrize(
    ("kind", "change", "error", "told"),
    [
        ("toy", other_dense_weights, ExportError, r"output watch: what was written differs by [\d.e-]+ from the whole"),
        ("rows", another_input, ExportError, "toy_dense: what was written does not run on samples: .*'mine'"),
        ("toy", not_a_number, ExportError, "output click: what was written differs by nan"),
        ("rows", another_shape, ExportError, r"output click: expected shape \(11, 1\) on samples, .* got \(11,\)"),
        ("ids", other_ids, ExportError, "ids computed: the written ids graph makes others of samples than the model"),
        ("toy", a_bad_sample, InputError, "samples: who: id 90 is none of the 90 rows of users"),
    ],
)
def test_it_is_told_where_a_difference_begins(
    kind: str, change: Callable[[ToySource], None], error: type[Exception], told: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=told):
        built(kind, tmp_path / "out", change)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("layout", ["single", "fleet"])
def test_rows_at_other_places_are_told_by_look_up_and_table(
    layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An id map that says the wrong shards for the items' rows."""

    def turned(shard_of_row: NDArray[np.uint8], shards: int) -> NDArray[np.uint64]:
        return build_id_map(shard_of_row[::-1] if len(shard_of_row) == 500 else shard_of_row, shards)

    monkeypatch.setattr(weights, "build_id_map", turned)
    with pytest.raises(ExportError, match=r"look-up item of table items: what was written of it differs by"):
        built("toy", tmp_path / "out", nothing, layout)
    assert list(tmp_path.iterdir()) == []


def test_a_row_that_is_written_otherwise_than_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bit of each number in a weight file, flipped once it is written."""
    write = weights.write_shards

    def flipping(*args: Any) -> None:
        write(*args)
        outputs = args[2]
        path = Path(outputs[0]._file.name)
        content = np.fromfile(path, np.uint32)
        (content ^ 0x40000000).tofile(path)  # of the exponent

    monkeypatch.setattr(weights, "write_shards", flipping)
    with pytest.raises(ExportError, match=r"look-up \w+ of table \w+: what was written of it differs"):
        built("toy", tmp_path / "out", nothing)


def test_the_manifest_says_what_was_seen(tmp_path: Path) -> None:
    """The same samples in every layout; the difference is that of float32 sums."""
    single, fleet = (built("toy", tmp_path / layout, nothing, layout) for layout in ("single", "fleet"))
    assert single.proof and fleet.proof
    assert single.proof.samples_sha256 == fleet.proof.samples_sha256 != built("rows", tmp_path / "r", nothing).proof
    assert 0 <= single.proof.difference <= 1e-5
    assert single.proof.samples_sha256 != getattr(built("ids", tmp_path / "i", nothing).proof, "samples_sha256", "")


def test_a_model_in_half_precision_may_differ_more(tmp_path: Path) -> None:
    """By what the order of sums shows there; the same difference is refused of another, as above."""

    def coarse(source: ToySource) -> None:
        other_dense_weights(source)
        source.tolerance = HALF_TOLERANCE

    proof = built("toy", tmp_path / "out", coarse).proof
    assert proof is not None and 1e-5 < proof.difference <= HALF_TOLERANCE


def test_an_onnx_file_without_samples_is_proven_by_its_answers(tmp_path: Path) -> None:
    """It was opened with a query that it takes: its written dense graph is run on that too."""
    nodes = [
        node("Gather", ["rows", "ids"], "vector"),
        node("MatMul", ["vector", "weight"], "product"),
        node("Sigmoid", ["product"], "score"),
    ]
    arrays = {"rows": table(50, 4), "weight": table(4, 1)}
    model = make(nodes, {"ids": (INT64, ["N"])}, {"score": (FLOAT, ["N", 1])}, arrays)
    source = opened(model, tmp_path)
    form, access = ModelFile("onnx", tmp_path / "model.onnx"), Access("powerlaw", locality=0.8)
    spec = Spec("small", form, source.model, access, Serving(target_qps=300, batch=8), opened=source)
    plan = make_plan(spec, HOTNESS, CHEAP, "tiered", 2)
    assert source.samples() is None
    proof = build(spec, plan, HOTNESS, source, tmp_path / "out").proof
    assert proof is not None and proof.difference <= 1e-5
    write = source.write_dense

    def write_dense(partials: Sequence[Partial], folder: Path) -> Sequence[str]:
        names = write(partials, folder)
        content = (folder / "model.onnx").read_bytes()
        assert content.count(table(4, 1).tobytes()) == 1
        (folder / "model.onnx").write_bytes(content.replace(table(4, 1).tobytes(), (table(4, 1) * 1.01).tobytes()))
        return names

    source.write_dense = write_dense  # type: ignore[method-assign] # broken on purpose
    with pytest.raises(ExportError, match=r"output score: what was written differs by [\d.e-]+ from the whole"):
        build(spec, plan, HOTNESS, source, tmp_path / "out")
