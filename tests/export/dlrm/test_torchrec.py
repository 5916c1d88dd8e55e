"""TorchRec checkpoints: proved by outputs, for the wrong column order loads without an error."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from repo_builder.errors import CheckpointError
from repo_builder.export.dlrm.reference import reference_scores
from repo_builder.export.dlrm.source import open_weights
from repo_builder.model.interaction import Cross, Dot, Interaction, Projection
from repo_builder.model.types import PoolingMode
from tests.export.dlrm.oracles import OracleTorchRec, bags_of, make_spec, random_indices, torchrec_oracle

CROSS, PROJECTION = Cross(layers=2, rank=3), Projection(branch1=(10, 8), branch2=(12,))
INTERACTIONS = pytest.mark.parametrize("interaction", [Dot(), CROSS, PROJECTION], ids=lambda each: each.kind)


@INTERACTIONS
@pytest.mark.parametrize("head", ["", "model."])
@pytest.mark.parametrize(("rows", "top"), [((9,), (8, 1)), ((11, 7, 5), (8, 1)), ((3,) * 7, (8, 6, 1)), ((5, 5), (1,))])
def test_scores_equal_torchrecs_forward(
    interaction: Interaction, head: str, rows: tuple[int, ...], top: tuple[int, ...], tmp_path: Path
) -> None:
    spec = make_spec(rows=rows, top=top, source="torchrec", path=tmp_path / "m.pt", interaction=interaction)
    torch.manual_seed(5)
    model = torchrec_oracle(spec)
    torch.save(model.saved(head), spec.weights.path)
    dense, indices = torch.rand(9, 3), random_indices(spec, 9)
    scores = reference_scores(spec, open_weights(spec), dense.numpy(), indices.numpy())
    expected = torch.sigmoid(model(dense, bags_of(spec, indices))).detach().numpy()
    np.testing.assert_allclose(scores, expected, atol=1e-6)


@INTERACTIONS
@pytest.mark.parametrize("head", ["", "model."])
def test_a_compiled_dense_path_is_read(interaction: Interaction, head: str, tmp_path: Path) -> None:
    """TorchRec's compile_dense_path() wraps all parts but the tables, one by one."""
    spec = make_spec(source="torchrec", path=tmp_path / "m.pt", interaction=interaction)
    torch.manual_seed(5)
    model = torchrec_oracle(spec)
    saved = {key.replace("_arch.", "_arch._orig_mod."): value for key, value in model.saved(head).items()}
    saved = {key.replace("sparse_arch._orig_mod.", "sparse_arch."): value for key, value in saved.items()}
    torch.save(saved, spec.weights.path)
    dense, indices = torch.rand(9, 3), random_indices(spec, 9)
    scores = reference_scores(spec, open_weights(spec), dense.numpy(), indices.numpy())
    expected = torch.sigmoid(model(dense, bags_of(spec, indices))).detach().numpy()
    np.testing.assert_allclose(scores, expected, atol=1e-6)


@pytest.mark.parametrize("head", ["", "model."])
@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("inter_arch.crossnet.kernels.0", "a LowRankCrossNet"),
        ("inter_arch.crossnet.W_kernels.0.extra", "a LowRankCrossNet"),
        ("inter_arch.interaction_branch1.layers.0.weight", "DLRM_Projection"),
        ("inter_arch.interaction_branch3.model._mlp.0._linear.weight", "DLRM_Projection"),
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


@INTERACTIONS
@pytest.mark.parametrize("listed", [(0, 1, 2), (2, 0, 1), (1, 2, 0), (2, 1, 0)])
@pytest.mark.parametrize("modes", [("sum", "sum", "sum"), ("mean", "sum", "mean")])
def test_the_spec_may_list_the_tables_in_any_order(
    interaction: Interaction, listed: tuple[int, ...], modes: tuple[PoolingMode, ...], tmp_path: Path
) -> None:
    """The interaction's order is that of the file's keys: the scores are the same whatever the spec's."""
    path = tmp_path / "m.pt"
    trained = make_spec(rows=(11, 7, 5), source="torchrec", path=path, modes=modes, interaction=interaction)
    torch.manual_seed(5)
    model = torchrec_oracle(trained)
    torch.save(model.saved(), trained.weights.path)
    dense, indices = torch.rand(9, 3), random_indices(trained, 9)
    expected = torch.sigmoid(model(dense, bags_of(trained, indices))).detach().numpy()
    spec = replace(trained, tables=tuple(trained.tables[i] for i in listed))
    columns = torch.cat([indices[:, 3 * i : 3 * i + 3] for i in listed], dim=1)
    scores = reference_scores(spec, open_weights(spec), dense.numpy(), columns.numpy())
    np.testing.assert_allclose(scores, expected, atol=1e-6)


@INTERACTIONS
def test_safetensors_keep_no_order_so_the_spec_must_state_it(interaction: Interaction, tmp_path: Path) -> None:
    spec = make_spec(source="torchrec", path=tmp_path / "m.safetensors", interaction=interaction)
    save_file(torchrec_oracle(spec).saved(), spec.weights.path)
    with pytest.raises(CheckpointError, match=r"m\.safetensors: expected a file that keeps the tables' order.*true"):
        open_weights(spec)
    stated = replace(spec, weights=replace(spec.weights, tables_in_order=True))
    open_weights(stated)
    as_sorted = make_spec(source="torchrec", path=tmp_path / "sorted.pt", interaction=interaction)
    torch.save(dict(sorted(torchrec_oracle(spec).saved().items())), as_sorted.weights.path)
    with pytest.raises(CheckpointError, match=r"sorted\.pt: expected a file that keeps the tables' order"):
        open_weights(as_sorted)
    single = make_spec(rows=(11,), source="torchrec", path=tmp_path / "single.safetensors", interaction=interaction)
    save_file(torchrec_oracle(single).saved(), single.weights.path)
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
    for problem, table in zip(raised.value.problems, spec.tables, strict=True):
        assert f"got uint8 ({table.rows}, 12), the bytes of quantized rows; set dtype: int8 for table" in problem


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


def test_bytes_that_are_no_rows_are_refused(tmp_path: Path) -> None:
    spec = make_spec(source="torchrec", path=tmp_path / "m.pt")
    key = "sparse_arch.embedding_bag_collection.embedding_bags.C2.weight"
    torch.save(OracleTorchRec(spec).saved() | {key: torch.ones(7, 4, dtype=torch.uint8)}, spec.weights.path)
    with pytest.raises(CheckpointError, match=r"C2\.weight: .*got uint8 \(7, 4\), the bytes .*; save the float"):
        open_weights(spec)


TOLD = {
    Dot(): "interaction: dot",
    CROSS: "interaction: dcn, cross_layers: 2, cross_rank: 3",
    Cross(1, 3): "interaction: dcn, cross_layers: 1, cross_rank: 3",
    Cross(2, 4): "interaction: dcn, cross_layers: 2, cross_rank: 4",
    PROJECTION: "interaction: projection, branch1_mlp: [10, 8], branch2_mlp: [12]",
    Projection((8,), (12,)): "interaction: projection, branch1_mlp: [8], branch2_mlp: [12]",
}


@pytest.mark.parametrize("held", [Dot(), CROSS, PROJECTION], ids=lambda each: each.kind)
@pytest.mark.parametrize("named", TOLD, ids=TOLD.values())
def test_another_interaction_than_the_files_is_told_in_one_line(
    held: Interaction, named: Interaction, tmp_path: Path
) -> None:
    spec = make_spec(source="torchrec", path=tmp_path / "m.pt", interaction=held)
    torch.save(torchrec_oracle(spec).saved(), spec.weights.path)
    if held == named:
        open_weights(spec)
        return
    with pytest.raises(CheckpointError) as raised:
        open_weights(replace(spec, interaction=named))
    expected = f"interaction: expected the checkpoint's, {TOLD[held]}, got {TOLD[named]}; set {TOLD[held]} in the spec"
    assert raised.value.problems == (f"{spec.weights.path}: {expected}",)


CROSSNET, BRANCH = "inter_arch.crossnet", "inter_arch.interaction_branch1.model._mlp"


@pytest.mark.parametrize(
    ("interaction", "key", "value", "problem"),
    [
        (CROSS, "V_kernels.1", None, "V_kernels.1: expected (3, 16), got no such key; save the whole state_dict"),
        (CROSS, "bias.0", None, "bias.0: expected (16,), got no such key"),
        (
            CROSS,
            "W_kernels.0",
            None,
            "W_kernels.0: expected a matrix, as wide as the cross network's rank, got no such",
        ),
        (CROSS, "W_kernels.0", torch.ones(16), "W_kernels.0: expected a matrix, as wide as the cross network's rank"),
        (
            CROSS,
            "W_kernels.1",
            torch.ones(16, 2),
            "W_kernels.1: expected (16, 3), got (16, 2); save the whole state_dict",
        ),
        (CROSS, "bias.1", torch.ones(16, 1), "bias.1: expected (16,), got (16, 1)"),
        (CROSS, "V_kernels.0", torch.ones(3, 16, dtype=torch.int8), "V_kernels.0: expected float32"),
        (CROSS, "bias.0", torch.full((16,), torch.nan), "bias.0: expected finite"),
        (PROJECTION, "0._linear.bias", None, "0._linear.bias: expected (10,), got no such key"),
        (
            PROJECTION,
            "1._linear.weight",
            None,
            "branch1: expected a matrix as each layer's weight, got (10, 16) for 2 layers",
        ),
        (PROJECTION, "1._linear.weight", torch.ones(8, 9), "1._linear.weight: expected (8, 10), got (8, 9)"),
        (PROJECTION, "1._linear.weight", torch.ones(8), "branch1: expected a matrix as each layer's weight, got"),
        (PROJECTION, "1._linear.bias", torch.full((8,), torch.inf), "1._linear.bias: expected finite"),
    ],
)
def test_flaws_of_an_interactions_arrays_are_told_by_key(
    interaction: Interaction, key: str, value: torch.Tensor | None, problem: str, tmp_path: Path
) -> None:
    spec = make_spec(source="torchrec", path=tmp_path / "m.pt", interaction=interaction)
    state = torchrec_oracle(spec).saved()
    whole = f"{CROSSNET if interaction is CROSS else BRANCH}.{key}"
    del state[whole]
    torch.save(state if value is None else state | {whole: value}, spec.weights.path)
    with pytest.raises(CheckpointError) as raised:
        open_weights(spec)
    (told,) = raised.value.problems
    assert problem in told and str(spec.weights.path) in told


@pytest.mark.parametrize("interaction", [CROSS, PROJECTION], ids=lambda each: each.kind)
def test_a_shared_feature_is_told_by_the_interactions_width_once(interaction: Interaction, tmp_path: Path) -> None:
    """Four tables' arrays, of which the file holds three."""
    spec = make_spec(rows=(11, 7, 5, 3), source="torchrec", path=tmp_path / "m.pt", interaction=interaction)
    state = torchrec_oracle(spec).saved()
    del state["sparse_arch.embedding_bag_collection.embedding_bags.C4.weight"]
    torch.save(state, spec.weights.path)
    with pytest.raises(CheckpointError) as raised:
        open_weights(replace(spec, tables=spec.tables[:3]))
    (problem,) = raised.value.problems
    assert "for 4 vectors of 4, got" in problem and "a table that several features share" in problem


@pytest.mark.parametrize("interaction", [CROSS, PROJECTION], ids=lambda each: each.kind)
def test_a_top_mlp_of_another_model_is_told(interaction: Interaction, tmp_path: Path) -> None:
    spec = make_spec(source="torchrec", path=tmp_path / "m.pt", interaction=interaction)
    state = torchrec_oracle(spec).saved() | {"over_arch.model.0._mlp.0._linear.weight": torch.ones(8, 99)}
    torch.save(state, spec.weights.path)
    with pytest.raises(CheckpointError) as raised:
        open_weights(spec)
    (problem,) = raised.value.problems
    assert "for top_mlp[0], got (8, 99)" in problem and problem.endswith("save the whole state_dict of one model")


def test_arrays_of_both_interactions_are_of_no_model(tmp_path: Path) -> None:
    spec = make_spec(source="torchrec", path=tmp_path / "m.pt", interaction=CROSS)
    state = torchrec_oracle(spec).saved() | {f"{BRANCH}.0._linear.weight": torch.ones(4, 16)}
    torch.save(state, spec.weights.path)
    with pytest.raises(CheckpointError) as raised:
        open_weights(spec)
    (problem,) = raised.value.problems
    assert f"{BRANCH}.0._linear.weight: expected only tables and linear layers" in problem
