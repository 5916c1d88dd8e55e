"""An ONNX file with tables in fewer bits, from the file to a proven repository: rows are stored as they came."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

import elasticrec
from repo_builder.repository.manifest import load_manifest
from tests.export.onnx_file.cutting import FLOAT, INT64, make, node

SPEC = """\
name: toy
model: {source: onnx, path: toy.onnx}
keep_under_bytes: 0
access: {source: powerlaw, locality: 0.9}
serving: {target_qps: 100, batch: 8}
rows: fp16
"""


@pytest.mark.parametrize("layout", ["single", "fleet"])
def test_rows_pass_as_they_are(layout: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = {
        "A": rng.integers(0, 256, (300, 16)).astype(np.uint8),
        "B": rng.integers(-8, 8, (200, 16)).astype(ml_dtypes.int4),
        "C": rng.standard_normal((100, 16), np.float32),
    }
    scales = {"sA": rng.uniform(0.001, 0.01, 300).astype(np.float32), "sB": np.full(200, 2.0**-6, np.float32)}
    zeros = {"zA": rng.integers(0, 256, 300).astype(np.uint8)}
    nodes = [
        node("DequantizeLinear", ["A", "sA", "zA"], "dA", axis=0), node("Gather", ["dA", "a"], "gA"),
        node("DequantizeLinear", ["B", "sB"], "dB", axis=0), node("Gather", ["dB", "b"], "gB"),
        node("Gather", ["C", "c"], "gC"), node("ReduceSum", ["gA", "one"], "pA", keepdims=0),
        node("Concat", ["pA", "gB", "gC"], "y", axis=1),
    ]  # fmt: skip
    inputs = {"a": (INT64, ("N", 4)), "b": (INT64, ("N",)), "c": (INT64, ("N",))}
    arrays = {**rows, **scales, **zeros, "one": np.array([1])}
    model = make(nodes, inputs, {"y": (FLOAT, ("N", 48))}, arrays, 21)
    (tmp_path / "toy.onnx").write_bytes(model.SerializeToString())
    (tmp_path / "toy.yaml").write_text(SPEC)
    notes: list[str] = []
    spec = elasticrec.load_spec(tmp_path / "toy.yaml")
    plan = elasticrec.plan(spec, grouping="tiered", s_max=2, least_saving=0)
    elasticrec.build(spec, tmp_path / "built", plan, layout=layout, shard_backend="native", tell=notes.append)
    assert [note.split(",")[0] for note in notes] == ["A: its rows are quantized", "B: its rows are quantized"]
    manifest = load_manifest(tmp_path / "built")
    assert [(table.name, table.format.dtype) for table in manifest.tables] == [
        ("A", "int8"),
        ("B", "int4"),
        ("C", "fp32"),
    ]
    assert manifest.proof and manifest.proof.difference <= 1e-5 and manifest.proof.score_error  # of C's rows alone
    if layout == "single":
        written = sum(path.stat().st_size for path in (tmp_path / "built").rglob("weights.bin"))
        assert 300 * 24 + 200 * 12 + 100 * 32 <= written <= 300 * 24 + 200 * 12 + 100 * 32 + 6 * 64
