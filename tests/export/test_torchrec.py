"""TorchRec checkpoints: proved by outputs, for the wrong column order loads without an error."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from repo_builder.errors import CheckpointError
from repo_builder.export.reference import reference_scores
from repo_builder.export.weights import open_weights
from repo_builder.model.types import PoolingMode
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
    where = f"{spec.weights.path} (keys without {head})" if head else str(spec.weights.path)
    assert problem.startswith(f"{where}: {key}: ") and reason in problem and "not supported" in problem


@pytest.mark.parametrize("listed", [(0, 1, 2), (2, 0, 1), (1, 2, 0), (2, 1, 0)])
@pytest.mark.parametrize("modes", [("sum", "sum", "sum"), ("mean", "sum", "mean")])
def test_the_spec_may_list_the_tables_in_any_order(
    listed: tuple[int, ...], modes: tuple[PoolingMode, ...], tmp_path: Path
) -> None:
    """The interaction's order is that of the file's keys: the scores are the same whatever the spec's."""
    trained = make_spec(rows=(11, 7, 5), source="torchrec", path=tmp_path / "m.pt", modes=modes)
    torch.manual_seed(5)
    model = OracleTorchRec(trained)
    torch.save(model.saved(), trained.weights.path)
    dense, indices = torch.rand(9, 3), random_indices(trained, 9)
    expected = torch.sigmoid(model(dense, bags_of(trained, indices))).detach().numpy()
    spec = replace(trained, tables=tuple(trained.tables[i] for i in listed))
    columns = torch.cat([indices[:, 3 * i : 3 * i + 3] for i in listed], dim=1)
    scores = reference_scores(spec, open_weights(spec), dense.numpy(), columns.numpy())
    np.testing.assert_allclose(scores, expected, atol=1e-6)


def test_safetensors_keep_no_order_so_the_spec_must_state_it(tmp_path: Path) -> None:
    spec = make_spec(source="torchrec", path=tmp_path / "m.safetensors")
    save_file(OracleTorchRec(spec).saved(), spec.weights.path)
    with pytest.raises(CheckpointError, match=r"m\.safetensors: expected a file that keeps the tables' order.*true"):
        open_weights(spec)
    stated = replace(spec, weights=replace(spec.weights, tables_in_order=True))
    open_weights(stated)
    as_sorted = make_spec(source="torchrec", path=tmp_path / "sorted.pt")
    torch.save(dict(sorted(OracleTorchRec(spec).saved().items())), as_sorted.weights.path)
    with pytest.raises(CheckpointError, match=r"sorted\.pt: expected a file that keeps the tables' order"):
        open_weights(as_sorted)
    single = make_spec(rows=(11,), source="torchrec", path=tmp_path / "single.safetensors")
    save_file(OracleTorchRec(single).saved(), single.weights.path)
    open_weights(single)  # nothing to order


def test_a_stated_order_that_the_file_contradicts_is_refused(tmp_path: Path) -> None:
    spec = make_spec(source="torchrec", path=tmp_path / "m.pt")
    torch.save(OracleTorchRec(spec).saved(), spec.weights.path)
    weights = replace(spec.weights, tables_in_order=True)
    open_weights(replace(spec, weights=weights))
    with pytest.raises(CheckpointError, match="tables in the file's order, C1, C2, C3, got another"):
        open_weights(replace(spec, weights=weights, tables=spec.tables[::-1]))


def test_a_shared_feature_is_told_by_the_width(tmp_path: Path) -> None:
    """Three tables of which one serves two features: five interacting vectors."""
    spec = make_spec(source="torchrec", path=tmp_path / "m.pt")
    state = OracleTorchRec(spec).saved() | {"over_arch.model.0._mlp.0._linear.weight": torch.ones(8, 4 + 10)}
    torch.save(state, spec.weights.path)
    with pytest.raises(CheckpointError) as raised:
        open_weights(spec)
    (problem,) = raised.value.problems
    assert "expected (8, 10) for top_mlp[0], got (8, 14)" in problem
    assert "a table that several features share" in problem and "itself" not in problem


def test_a_row_wise_quantised_table_is_told_by_its_dtype(tmp_path: Path) -> None:
    """FBGEMM stores a row's scale and bias beside its bytes: rows of dim + 8."""
    spec = make_spec(source="torchrec", path=tmp_path / "m.pt")
    stem = "sparse_arch.embedding_bag_collection.embedding_bags"
    state = OracleTorchRec(spec).saved()
    state |= {f"{stem}.{t.name}.weight": torch.ones(t.rows, t.dim + 8, dtype=torch.uint8) for t in spec.tables}
    torch.save(state, spec.weights.path)
    with pytest.raises(CheckpointError) as raised:
        open_weights(spec)
    assert len(raised.value.problems) == 3
    assert all("got uint8; quantized" in problem and "set rows" not in problem for problem in raised.value.problems)


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
