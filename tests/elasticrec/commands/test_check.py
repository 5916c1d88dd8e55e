"""`elasticrec check`, and what `plan` checks of it: what build would refuse is told before."""

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from elasticrec.cli import main
from tests.integration.models import document, make_spec


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    make_spec(tmp_path)
    return write(tmp_path, document())


def write(folder: Path, content: dict) -> Path:
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_a_right_spec_is_told_part_by_part(spec: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(spec)]) == 0
    told = capsys.readouterr().out
    lines = [line.split() for line in told.splitlines()]
    assert [line[0] for line in lines] == ["checked", "spec", "weights", "access"]
    assert "4 tables, 4,035 rows, 23 ids a query row" in told
    assert "small.pt" in told and "12 tensors as in the spec" in told


def test_tables_that_stay_dense_are_counted(spec: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = document()
    content["tables"][2]["keep"] = "dense"
    assert main(["check", str(write(spec.parent, content))]) == 0
    assert "4 tables, 4,035 rows, 23 ids a query row; 1 of them in the dense graph" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["check", "plan"])
@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        (
            "bottom_mlp",
            [15, 8],
            "bottom_mlp: expected the checkpoint's widths [16, 8], got [15, 8]; set bottom_mlp: [16, 8] in the spec",
        ),
        (
            "top_mlp",
            [16, 3, 1],
            "top_mlp: expected the checkpoint's widths [16, 1], got [16, 3, 1]; set top_mlp: [16, 1]",
        ),
        ("dense_features", 6, "set dense_features: 5 in the spec"),
    ],
)
def test_one_mistake_is_one_line_and_two(
    command: str, field: str, value: object, told: str, spec: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`plan` once took it, and `build` then refused it in three lines."""
    write(tmp_path, {**document(), field: value})
    assert main([command, str(spec)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert told in line


def test_mistakes_of_weights_and_accesses_are_told_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_spec(tmp_path)
    np.savez(tmp_path / "c.npz", users=np.ones(7))
    path = write(tmp_path, {**document(), "dense_features": 6, "access": {"source": "counts", "path": "c.npz"}})
    assert main(["check", str(path)]) == 2
    captured = capsys.readouterr()
    assert "dense_features: 5" in captured.err and "c.npz" in captured.err
    assert "1 problem" in captured.out and " problems" in captured.out


@pytest.mark.parametrize(("command", "code"), [("check", 2), ("plan", 0), ("build", 2)])
def test_a_checkpoint_that_is_not_there_yet_stops_no_plan(
    command: str, code: int, spec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    (tmp_path / "small.pt").unlink()
    monkeypatch.chdir(tmp_path)
    assert main([command, str(spec)]) == code
    told = capsys.readouterr().err
    assert "small.pt" in told and ("not there, so not checked" in told) == (command == "plan")


@pytest.mark.parametrize("command", ["check", "build"])
def test_a_wrappers_prefix_is_said(
    command: str, spec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    state = torch.load(tmp_path / "small.pt", weights_only=True)
    torch.save({f"_orig_mod.{key}": value for key, value in state.items()}, tmp_path / "small.pt")
    assert main([command, str(spec)]) == 0
    captured = capsys.readouterr()
    assert "every key begins with _orig_mod." in captured.err
