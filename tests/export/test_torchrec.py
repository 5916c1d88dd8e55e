"""TorchRec checkpoints: proved by outputs, for the wrong column order loads without an error."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from repo_builder.errors import CheckpointError
from repo_builder.export.reference import reference_scores
from repo_builder.export.weights import open_weights
from tests.export.export_oracles import OracleTorchRec, bags_of, make_spec, random_indices


@pytest.mark.parametrize("head", ["", "model."])
@pytest.mark.parametrize(("rows", "top"), [((9,), (8, 1)), ((11, 7, 5), (8, 1)), ((3,) * 7, (8, 6, 1)), ((5, 5), (1,))])
def test_scores_equal_torchrecs_forward(head: str, rows: tuple[int, ...], top: tuple[int, ...], tmp_path: Path) -> None:
    spec = make_spec(rows=rows, top=top, source="torchrec", path=tmp_path / "m.pt")
    torch.manual_seed(5)
    model = OracleTorchRec(spec)
    torch.save(model.saved(head), spec.weights.path)
    dense, indices = torch.rand(9, 3), random_indices(spec, 9)
    scores = reference_scores(spec, open_weights(spec), dense.numpy(), indices.numpy())
    expected = torch.sigmoid(model(dense, bags_of(spec, indices))).detach().numpy()
    np.testing.assert_allclose(scores, expected, atol=1e-6)


@pytest.mark.parametrize("head", ["", "model."])
@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("inter_arch.crossnet.W_kernels.0", "DLRM_DCN"),
        ("inter_arch.interaction_branch1.layers.0.weight", "weights of its own"),
        ("sparse_arch.embedding_bag_collection.embedding_bags.C1.weight_qscale", "quantized"),
    ],
)
def test_variants_are_refused_by_name_with_the_reason(head: str, key: str, reason: str, tmp_path: Path) -> None:
    spec = make_spec(source="torchrec", path=tmp_path / "m.pt")
    torch.save(OracleTorchRec(spec).saved(head) | {head + key: torch.ones(2)}, spec.weights.path)
    with pytest.raises(CheckpointError) as raised:
        open_weights(spec)
    (problem,) = raised.value.problems
    assert f"{head}{key}: " in problem and reason in problem and "not supported" in problem


def test_a_table_under_another_name_is_refused_with_both_names(tmp_path: Path) -> None:
    spec = make_spec(source="torchrec", path=tmp_path / "m.pt")
    state = OracleTorchRec(spec).saved()
    stem = "sparse_arch.embedding_bag_collection.embedding_bags"
    state[f"{stem}.t_cat_0.weight"] = state.pop(f"{stem}.C1.weight")
    torch.save(state, spec.weights.path)
    with pytest.raises(CheckpointError) as raised:
        open_weights(spec)
    missing, extra = raised.value.problems
    assert f"{stem}.C1.weight: expected (11, 4) for table C1, got no such key" in missing
    assert f"{stem}.t_cat_0.weight: expected only" in extra


def test_quantized_tables_are_refused(tmp_path: Path) -> None:
    spec = make_spec(source="torchrec", path=tmp_path / "m.pt")
    key = "sparse_arch.embedding_bag_collection.embedding_bags.C2.weight"
    torch.save(OracleTorchRec(spec).saved() | {key: torch.ones(7, 4, dtype=torch.uint8)}, spec.weights.path)
    with pytest.raises(CheckpointError, match=r"C2\.weight: .*got uint8; quantized"):
        open_weights(spec)
