"""What is read off a state dict for a first spec: of the open-source DLRM, and of TorchRec's three."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from repo_builder.errors import CheckpointError
from repo_builder.export.dlrm.trained import read_dlrm_of
from repo_builder.model.dlrm import Dlrm, WeightsSource
from repo_builder.model.interaction import Cross, Dot, Interaction, Projection
from tests.export.dlrm.oracles import dlrm_state, make_spec, torchrec_oracle

INTERACTIONS: list[Interaction] = [Dot(), Cross(layers=2, rank=3), Projection(branch1=(10, 8), branch2=(12,))]
TABLE = "sparse_arch.embedding_bag_collection.embedding_bags.C2.weight"


def of_a_file(spec: Dlrm) -> Dlrm:
    """What a file can tell of it: bags of one id, since none tells more."""
    return replace(spec, tables=tuple(replace(table, pooling=1) for table in spec.tables))


def save(state: dict[str, torch.Tensor], path: Path) -> None:
    if path.suffix == ".safetensors":
        save_file({key: value.clone() for key, value in state.items()}, path)
    else:
        torch.save(state, path)


@pytest.mark.parametrize("name", ["m.pt", "m.pth", "m.safetensors"])
def test_the_open_source_dlrms_tables_are_numbered(name: str, tmp_path: Path) -> None:
    spec = make_spec(rows=(11, 7, *(3,) * 9), source="dlrm", path=tmp_path / name)  # emb_l.10 sorts before emb_l.2
    save(dlrm_state(spec), tmp_path / name)
    assert read_dlrm_of(tmp_path / name) == (of_a_file(spec), True)


@pytest.mark.parametrize("interaction", INTERACTIONS, ids=lambda each: each.kind)
@pytest.mark.parametrize(("name", "ordered"), [("m.pt", True), ("m.safetensors", False)])
@pytest.mark.parametrize("head", ["", "model.", "_orig_mod.model."])
def test_torchrecs_models_are_told_with_their_interaction(
    interaction: Interaction, name: str, ordered: bool, head: str, tmp_path: Path
) -> None:
    spec = make_spec(source="torchrec", path=tmp_path / name, interaction=interaction, top=(8, 6, 1))
    save(torchrec_oracle(spec).saved(head), tmp_path / name)
    assert read_dlrm_of(tmp_path / name) == (of_a_file(spec), ordered)


def test_a_sorted_state_dict_keeps_no_order(tmp_path: Path) -> None:
    spec = make_spec(source="torchrec", path=tmp_path / "m.pt", interaction=INTERACTIONS[1])
    save(dict(sorted(torchrec_oracle(spec).saved().items())), tmp_path / "m.pt")
    assert read_dlrm_of(tmp_path / "m.pt") == (of_a_file(spec), False)


@pytest.mark.parametrize("interaction", INTERACTIONS, ids=lambda each: each.kind)
@pytest.mark.parametrize(
    ("removed", "added", "told"),
    [
        ("sparse_arch.", {}, "expected embedding tables, got none"),
        ("dense_arch.", {}, "expected the weights of both MLPs"),
        ("over_arch.", {}, "expected the weights of both MLPs"),
        (TABLE, {TABLE: torch.ones(7)}, r"C2.weight: expected \(rows, dim\), got \(7,\)"),
        (TABLE, {TABLE: torch.ones(7, 0)}, r"C2.weight: expected \(rows, dim\), got \(7, 0\)"),
        (
            "none",
            {"inter_arch.gate.weight": torch.ones(2)},
            "inter_arch.gate.weight: the model's interaction has weights",
        ),
        (TABLE, {TABLE: torch.ones(7, 9, dtype=torch.uint8)}, r"C2.weight: expected .* int8 or int4 rows of 4 of them"),
    ],
)
def test_what_is_no_whole_model_of_torchrecs_is_told(
    interaction: Interaction, removed: str, added: dict[str, torch.Tensor], told: str, tmp_path: Path
) -> None:
    path = tmp_path / "m.pt"
    state = torchrec_oracle(make_spec(source="torchrec", path=path, interaction=interaction)).saved()
    save({key: value for key, value in state.items() if not key.startswith(removed)} | added, path)
    with pytest.raises(CheckpointError, match=told) as raised:
        read_dlrm_of(path)
    assert all(str(path) in problem for problem in raised.value.problems)


@pytest.mark.parametrize(
    ("state", "told"),
    [
        ({"encoder.weight": torch.ones(2, 2)}, "got keys such as encoder.weight; export any other model"),
        ({}, "got a dict with nothing"),
        ({"emb_l.0.weight_q": torch.ones(2, 2)}, "quotient-remainder"),
    ],
)
def test_another_models_state_dict_is_refused(state: dict[str, torch.Tensor], told: str, tmp_path: Path) -> None:
    save(state, tmp_path / "m.pt")
    with pytest.raises(CheckpointError, match=told):
        read_dlrm_of(tmp_path / "m.pt")


@pytest.mark.parametrize(("source", "name"), [("dlrm", "m.pt"), ("torchrec", "m.safetensors")])
def test_a_key_without_its_weight_is_no_layer(source: WeightsSource, name: str, tmp_path: Path) -> None:
    spec = make_spec(source=source, path=tmp_path / name, interaction=Dot())
    state = dlrm_state(spec) if source == "dlrm" else torchrec_oracle(spec).saved()
    prefix = "bot_l." if source == "dlrm" else "dense_arch."
    save({k: v for k, v in state.items() if not (k.startswith(prefix) and k.endswith(".weight"))}, tmp_path / name)
    with pytest.raises(CheckpointError, match="expected the weights of both MLPs"):
        read_dlrm_of(tmp_path / name)
