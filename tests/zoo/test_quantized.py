"""What TorchRec quantized is read as it is: scores are those of its quantized models."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from repo_builder.export.dlrm.reference import reference_scores
from repo_builder.export.dlrm.source import open_weights
from repo_builder.export.dlrm.trained import read_dlrm_of

pytestmark = [pytest.mark.zoo, pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("quantized")
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-m", "tests.zoo.quantized", path], cwd=root, check=True, timeout=600)
    return path


@pytest.mark.parametrize("name", ["int8", "int8_split", "int4", "int4_split"])
def test_scores_are_those_of_torchrecs_quantized_model(name: str, folder: Path) -> None:
    found, ordered = read_dlrm_of(folder / f"{name}.pt")
    assert ordered
    dtype = {"int8": "int8_half", "int4": "int4"}[name.removesuffix("_split")]  # TorchRec's scales are float16
    assert [(table.name, table.rows, table.dim, table.dtype) for table in found.tables] == [
        ("a", 500, 32, dtype),
        ("b", 200, 32, dtype),
    ]
    dlrm = replace(found, tables=tuple(replace(table, pooling=3) for table in found.tables))
    with np.load(folder / f"{name}.npz") as query:
        scores = reference_scores(dlrm, open_weights(dlrm), query["dense"], query["indices"])
        np.testing.assert_allclose(scores, query["score"], atol=1e-6)
