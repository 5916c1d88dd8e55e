"""Checkpoints of the open-source DLRM: scores, and the problems they are refused for."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from repo_builder.errors import CheckpointError
from repo_builder.export.dlrm.reference import reference_scores
from repo_builder.export.dlrm.source import open_weights
from repo_builder.model.dlrm import Dlrm
from tests.export.dlrm.oracles import OracleDlrm, bags_of, dlrm_state, make_spec, random_indices


def problems_of(state: dict[str, torch.Tensor], spec: Dlrm) -> list[str]:
    save_file(state, spec.weights.path)
    with pytest.raises(CheckpointError) as raised:
        open_weights(spec)
    assert all(line.startswith(f"{spec.weights.path}: ") for line in raised.value.problems)
    return [line.removeprefix(f"{spec.weights.path}: ") for line in raised.value.problems]


@pytest.fixture
def spec(tmp_path: Path) -> Dlrm:
    return make_spec(source="dlrm", path=tmp_path / "m.safetensors")


def test_scores_equal_the_models_own(spec: Dlrm) -> None:
    torch.manual_seed(3)
    model = OracleDlrm(spec)
    save_file(model.state_dict(), spec.weights.path)
    dense, indices = torch.rand(6, 3), random_indices(spec, 6)
    scores = reference_scores(spec, open_weights(spec), dense.numpy(), indices.numpy())
    np.testing.assert_allclose(scores, model(dense, bags_of(spec, indices)).detach().numpy(), atol=1e-6)


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("emb_l.0.weight_q", "quotient-remainder"),
        ("emb_l.0.weight_r", "quotient-remainder"),
        ("emb_l.1.embs.weight", "mixed dimensions"),
        ("emb_l.1.proj.weight", "mixed dimensions"),
        ("v_W_l.0", "learned weighted pooling"),
        ("bot_l.module.0.weight", "DistributedDataParallel"),
        ("module.emb_l.0.weight", "DistributedDataParallel"),
    ],
)
def test_variants_are_refused_by_name_with_the_reason(key: str, reason: str, spec: Dlrm) -> None:
    (problem,) = problems_of(dlrm_state(spec) | {key: torch.ones(2, 2)}, spec)
    assert problem.startswith(f"{key}: ") and reason in problem and "not supported" in problem


def test_all_problems_of_keys_and_shapes_come_at_once(spec: Dlrm) -> None:
    state = dlrm_state(spec)
    del state["emb_l.1.weight"], state["top_l.0.bias"]
    state |= {
        "emb_l.0.weight": torch.ones(12, 4),
        "bot_l.2.weight": torch.ones(4, 9),
        "emb_l.3.weight": torch.ones(2, 4),
    }
    state["top_l.2.weight"] = torch.ones(1, 8, dtype=torch.int32)
    problems = problems_of(state, spec)
    found = {problem.split(": ")[0]: problem for problem in problems}
    assert len(found) == len(problems) == 6
    assert "expected (11, 4) for table C1, got (12, 4); set rows: 12" in found["emb_l.0.weight"]
    assert "expected (7, 4) for table C2, got no such key" in found["emb_l.1.weight"]
    assert "expected (8,) for top_mlp[0], got no such key" in found["top_l.0.bias"]
    assert "expected (4, 6) for bottom_mlp[1], got (4, 9)" in found["bot_l.2.weight"]
    assert "expected only the keys of the spec's 3 tables" in found["emb_l.3.weight"]
    assert "got I32; quantized and integer" in found["top_l.2.weight"]


@pytest.mark.parametrize(
    ("width", "reason"), [(4 + 10, "--arch-interaction-itself"), (16, "--arch-interaction-op=cat")]
)
def test_other_interactions_are_told_by_the_width_of_the_top_mlp(width: int, reason: str, spec: Dlrm) -> None:
    (problem,) = problems_of(dlrm_state(spec) | {"top_l.0.weight": torch.ones(8, width)}, spec)
    assert re.match(r"top_l\.0\.weight: expected \(8, 10\) ", problem) and reason in problem


def test_a_table_too_few_in_the_spec_is_told_as_that(spec: Dlrm) -> None:
    """Its width is that of --arch-interaction-itself as well: the tables in the file decide."""
    (problem,) = problems_of(dlrm_state(spec), replace(spec, tables=spec.tables[:-1]))
    assert problem.startswith("emb_l.2.weight: expected only the keys of the spec's 2 tables, got this (5, 4) too")


def test_a_width_that_says_two_things_names_both_the_likelier_first(spec: Dlrm) -> None:
    (problem,) = problems_of(dlrm_state(spec) | {"top_l.0.weight": torch.ones(8, 4 + 10)}, spec)
    assert re.search("a table more than the checkpoint holds, or trained with --arch-interaction-itself", problem)


@pytest.mark.parametrize(
    ("field", "wrong", "told"),
    [
        (
            "bottom_mlp",
            (7, 4),
            "bottom_mlp: expected the checkpoint's widths [6, 4], got [7, 4]; set bottom_mlp: [6, 4]",
        ),
        ("bottom_mlp", (4,), "bottom_mlp: expected the checkpoint's widths [6, 4], got [4]; set bottom_mlp: [6, 4]"),
        ("top_mlp", (8, 3, 1), "top_mlp: expected the checkpoint's widths [8, 1], got [8, 3, 1]; set top_mlp: [8, 1]"),
        ("dense_features", 5, "dense_features: expected 3, which bot_l.0 takes, got 5; set dense_features: 3"),
    ],
)
def test_a_wrong_width_is_one_line_that_names_the_field(field: str, wrong: object, told: str, spec: Dlrm) -> None:
    (problem,) = problems_of(dlrm_state(spec), replace(spec, **{field: wrong}))
    assert problem == f"{told} in the spec"


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "net.ranker.", "_orig_mod.module."])
def test_a_wrappers_prefix_is_stripped_and_said(prefix: str, spec: Dlrm) -> None:
    state = dlrm_state(spec)
    save_file({prefix + key: value for key, value in state.items()}, spec.weights.path)
    source = open_weights(spec)
    assert list(source.notes) == [f"{spec.weights.path}: every key begins with {prefix}: read without it"]
    np.testing.assert_array_equal(np.concatenate(list(source.table_chunks(spec.tables[1]))), state["emb_l.1.weight"])
    save_file(state, spec.weights.path)
    assert not open_weights(spec).notes


def test_a_table_of_another_dim_is_refused(spec: Dlrm) -> None:
    (problem,) = problems_of(dlrm_state(spec) | {"emb_l.2.weight": torch.ones(5, 8)}, spec)
    assert "got (5, 8); set the rows and dim of table C3" in problem
