"""The plain-PyTorch reference against an independent EmbeddingBag model with a written-out interaction."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from repo_builder.errors import InputError
from repo_builder.export.dlrm.reference import reference_scores
from repo_builder.export.dlrm.source import open_weights
from tests.export.dlrm.oracles import OracleDlrm, bags_of, make_spec, random_indices


@pytest.mark.parametrize("rows", [(9,), (11, 7, 5)])
def test_scores_equal_the_oracles(rows: tuple[int, ...], tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    spec = make_spec(rows=rows, source="dlrm", path=path)
    torch.manual_seed(0)
    oracle = OracleDlrm(spec)
    torch.save(oracle.state_dict(), path)
    dense, indices = torch.rand(5, 3), random_indices(spec, 5)
    scores = reference_scores(spec, open_weights(spec), dense.numpy(), indices.numpy())
    assert scores.shape == (5, 1) and scores.dtype == np.float32
    expected = oracle(dense, bags_of(spec, indices)).detach().numpy()
    np.testing.assert_allclose(scores, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("dense", "indices", "message"),
    [
        (np.zeros((2, 4), np.float32), np.zeros((2, 9), np.int64), r"dense: expected \(B, 3\)"),
        (np.zeros((2, 3), np.float64), np.zeros((2, 9), np.int64), "float64"),
        (np.zeros((2, 3), np.float32), np.zeros((2, 8), np.int64), r"indices: expected \(2, 9\)"),
        (np.zeros((2, 3), np.float32), np.zeros((2, 9), np.float32), "float32"),
        (np.zeros((1, 3), np.float32), np.full((1, 9), 5), r"indices\[0, 6\]: expected an id from 0 to 4, .* got 5"),
        (np.zeros((1, 3), np.float32), np.full((1, 9), -2), "got -2"),
    ],
)
def test_bad_inputs_are_refused(dense: NDArray[Any], indices: NDArray[Any], message: str) -> None:
    spec = make_spec()
    with pytest.raises(InputError, match=message):
        reference_scores(spec, open_weights(spec), dense, indices)
