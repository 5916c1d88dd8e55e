"""`elasticrec init`: what a model file holds is printed, and the spec that is written plans as it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from elasticrec.cli import main
from repo_builder.spec import load_spec
from tests.integration.models import make_spec

ROWS = 40_000  # of 8 float32 each: more than what stays dense


class Ranker(nn.Module):
    """Two features on one table, a history of it averaged, a small table, and numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.item = nn.Embedding(ROWS, 8)
        self.history = nn.EmbeddingBag(ROWS, 8, mode="mean")
        self.country = nn.Embedding(4, 8)
        self.top = nn.Linear(8 * 3 + 2, 1)

    def forward(
        self, item: torch.Tensor, history: torch.Tensor, country: torch.Tensor, age: torch.Tensor
    ) -> torch.Tensor:
        parts = [self.item(item), self.history(history), self.country(country), age]
        return torch.sigmoid(self.top(torch.cat(parts, 1)))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("init") / "my ranker.pt2"
    inputs = (torch.tensor([1, 2, 3]), torch.ones(3, 5, dtype=torch.int64), torch.tensor([0, 1, 2]), torch.ones(3, 2))
    batch = {0: torch.export.Dim("batch", min=1, max=4096)}
    torch.export.save(torch.export.export(Ranker().eval(), inputs, dynamic_shapes=(batch,) * 4), path)
    return path


def test_a_program_is_told_and_its_spec_plans(exported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = exported.with_name("ranker.yaml")
    assert main(["init", str(exported), "-o", str(spec)]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "item input INT64 [batch]" in told and "history input INT64 [batch, 5]" in told
    assert "item 40,000 8 FP32 1.2 MiB 1" in told and "history 40,000 8 FP32 1.2 MiB 5" in told
    assert "history [batch, 8] mean no" in told
    assert "country 4 8" in told and "keep_under_bytes" in told
    assert "MiB cut" in told and "whole replica" in told
    assert load_spec(spec).name == "my_ranker"
    assert main(["plan", str(spec)]) == 0
    assert main(["check", str(spec)]) == 0
    assert "2 look-ups to cut, 1 stay dense" in capsys.readouterr().out


def test_a_spec_that_is_there_is_not_lost(exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = tmp_path / "mine.yaml"
    spec.write_text("name: mine\n")
    assert main(["init", str(exported), "-o", str(spec)]) == 2
    assert "expected no file yet" in capsys.readouterr().err and spec.read_text() == "name: mine\n"
    assert main(["init", str(exported), "-o", str(spec), "--force", "--name", "mine"]) == 0
    assert load_spec(spec).name == "mine"


def write_onnx(path: Path, *before: onnx.NodeProto) -> None:
    """A model that looks `ids` up, or what nodes before make `found` of them."""
    rows = np.random.default_rng(0).standard_normal((ROWS, 8)).astype(np.float32)
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, ["n"])
    out = helper.make_tensor_value_info("vectors", TensorProto.FLOAT, ["n", 8])
    nodes = [
        *before,
        helper.make_node("Gather", ["table", "found" if before else "ids"], ["row"], "look"),
        helper.make_node("Relu", ["row"], ["vectors"]),
    ]
    graph = helper.make_graph(nodes, "g", [ids], [out], [numpy_helper.from_array(rows, "table")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)


def test_an_onnx_file_is_told_and_its_spec_plans(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_onnx(tmp_path / "m.onnx")
    assert main(["init", str(tmp_path / "m.onnx"), "-o", str(tmp_path / "m.yaml")]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "ids input INT64 [batch]" in told and "table 40,000 8 FP32 1.2 MiB 1" in told
    assert main(["plan", str(tmp_path / "m.yaml")]) == 0
    assert main(["check", str(tmp_path / "m.yaml")]) == 0


def test_where_a_build_needs_samples_it_is_said_before(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By init, in the spec that it writes, and by check in the same words as by build."""
    spec = tmp_path / "m.yaml"
    write_onnx(tmp_path / "m.onnx", helper.make_node("Abs", ["ids"], ["found"]))
    need = (
        "samples: expected recorded requests, got none: the ids of table are computed from inputs that no accesses "
        "tell; name them in the spec (samples: requests.npz, an array per input)"
    )
    assert main(["init", str(tmp_path / "m.onnx"), "-o", str(spec)]) == 0
    assert f"elasticrec: {spec}: plans as it is, but a build needs more: {need}\n" == capsys.readouterr().err
    assert need in spec.read_text().replace("\n# ", " ")
    assert main(["plan", str(spec)]) == 0
    capsys.readouterr()
    for verb in (["check", str(spec)], ["build", str(spec), "-o", str(tmp_path / "built")]):
        assert main(verb) == 2
        assert capsys.readouterr().err == f"elasticrec: {spec}: {need}\n"
    np.savez(tmp_path / "requests.npz", ids=np.array([3, -4, 5]))
    spec.write_text(spec.read_text().replace("# samples: requests.npz", "samples: requests.npz"))
    assert main(["check", str(spec)]) == 0
    assert "requests.npz an array per input" in " ".join(capsys.readouterr().out.split())


def test_a_state_dict_is_told_and_its_spec_plans(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    known = make_spec(tmp_path)
    assert known.dlrm.weights.path is not None
    assert main(["init", str(known.dlrm.weights.path), "-o", str(tmp_path / "first.yaml")]) == 0
    assert "C1" in capsys.readouterr().out
    found = load_spec(tmp_path / "first.yaml").dlrm
    assert (found.dense_features, found.bottom_mlp, found.top_mlp) == (
        known.dlrm.dense_features,
        known.dlrm.bottom_mlp,
        known.dlrm.top_mlp,
    )
    assert [(t.rows, t.dim) for t in found.tables] == [(t.rows, t.dim) for t in known.dlrm.tables]
    assert main(["plan", str(tmp_path / "first.yaml")]) == 0


@pytest.mark.parametrize(
    ("name", "told"),
    [("none.pt2", "expected a model file, found none"), ("model.h5", "expected a name ending in .pt2, .onnx")],
)
def test_what_is_no_model_is_told(name: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if name != "none.pt2":
        (tmp_path / name).write_bytes(b"x")
    assert main(["init", str(tmp_path / name), "-o", str(tmp_path / "m.yaml")]) == 2
    assert told in capsys.readouterr().err and not (tmp_path / "m.yaml").exists()


def test_the_folder_of_a_distributed_checkpoint_is_told_how_to_merge(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "dcp").mkdir()
    (tmp_path / "dcp/.metadata").write_bytes(b"x")
    assert main(["init", str(tmp_path / "dcp"), "-o", str(tmp_path / "m.yaml")]) == 2
    assert "dcp_to_torch" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["my model", "1st", "a" * 65, "name\n"])
def test_a_name_that_triton_or_a_spec_does_not_take_is_refused(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_spec(tmp_path)
    assert main(["init", str(tmp_path / "small.pt"), "-o", str(tmp_path / "m.yaml"), "--name", name]) == 2
    assert "--name: expected a letter" in capsys.readouterr().err and not (tmp_path / "m.yaml").exists()


def test_a_file_may_be_called_as_yamls_words(tmp_path: Path) -> None:
    make_spec(tmp_path)
    (tmp_path / "small.pt").rename(tmp_path / "true.pt")
    assert main(["init", str(tmp_path / "true.pt"), "-o", str(tmp_path / "m.yaml")]) == 0
    assert load_spec(tmp_path / "m.yaml").name == "true"
