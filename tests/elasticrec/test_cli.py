"""The command line: what it prints and how it exits."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from elasticrec.cli import main
from tests.integration.models import document, make_repository, make_spec


@pytest.fixture
def spec_file(tmp_path: Path) -> Path:
    make_spec(tmp_path)
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(document()))
    return path


def run(*words: object) -> int:
    return main([str(word) for word in words])


@pytest.mark.parametrize("command", ["plan", "compare", "build", "verify", "serve", "query", "demo"])
def test_help_has_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        run(command, "--help")
    assert caught.value.code == 0
    assert f"example:\n  elasticrec {command}" in capsys.readouterr().out


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run("--help")
    told = capsys.readouterr().out
    assert all(f"elasticrec {command} " in told for command in ("plan", "build", "serve", "query", "demo"))


def test_plan_build_and_verify(spec_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan, picture, repository = tmp_path / "plan.json", tmp_path / "hotness.png", tmp_path / "out"
    assert run("plan", spec_file, "--grouping", "per_table", "--s-max", 2, "-o", plan, "--plot", picture) == 0
    assert "users_s0" in capsys.readouterr().out
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert run("build", spec_file, "-o", repository, "--plan", plan) == 0
    assert "next: elasticrec serve" in capsys.readouterr().out
    assert (repository / "plan.json").read_text() == plan.read_text()
    assert run("verify", repository) == 0


def test_a_plan_that_does_not_cut_is_built_whole(
    spec_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where no layout is asked for; a fleet of it is refused."""
    plan, repository = tmp_path / "plan.json", tmp_path / "out"
    assert run("plan", spec_file, "-o", plan, "--explain") == 0
    told = capsys.readouterr().out
    assert "do not cut this model at" in told and "the best fleet that cuts, tiered:" in told
    assert run("build", spec_file, "-o", repository, "--plan", plan, "--layout", "fleet") == 2
    assert "expected a plan that cuts for the layout fleet" in capsys.readouterr().err
    assert run("build", spec_file, "-o", repository, "--plan", plan) == 0
    assert json.loads((repository / "manifest.json").read_text())["layout"] == "model-wise"
    assert (repository / "plan.json").read_text() == plan.read_text()


def test_no_command_writes_over_what_it_reads(
    spec_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = spec_file.read_bytes()
    (tmp_path / "link.json").symlink_to(spec_file)
    for output in (
        spec_file,
        tmp_path / "link.json",
        tmp_path / "nowhere" / ".." / "small.yaml",
        tmp_path / "small.pt",
    ):
        assert run("plan", spec_file, "-o", output) == 2
        assert "expected" in capsys.readouterr().err
    assert spec_file.read_bytes() == before


def test_plan_as_json_is_the_plan_file(spec_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("plan", spec_file, "--json", "-o", tmp_path / "plan.json") == 0
    printed = capsys.readouterr().out
    assert printed == (tmp_path / "plan.json").read_text()
    assert json.loads(printed)["spec"] == "small"


def test_ten_mistakes_are_ten_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = document()
    wrong.update(name="9lives", bogus=1, index_dtype="int8", dense_features=0)
    wrong["bottom_mlp"] = [16, 4]
    wrong["top_mlp"] = [16, 2]
    wrong["tables"][0]["rows"] = -1
    del wrong["serving"]["target_qps"]
    wrong["access"]["locality"] = 1.5
    wrong["weights"] = {"source": "dlrm"}
    path = tmp_path / "wrong.yaml"
    path.write_text(yaml.safe_dump(wrong))
    assert run("plan", path) == 2
    lines = capsys.readouterr().err.splitlines()
    for field in ("name", "bogus", "index_dtype", "dense_features", "top_mlp", "tables[0].rows", "serving.target_qps"):
        assert sum(f"{path}: {field}:" in line for line in lines) == 1, field
    for field in ("access.locality", "weights.path", "tables[2].dim"):
        assert sum(f"{path}: {field}:" in line for line in lines) == 1, field


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["plan", "nowhere.yaml"], "nowhere.yaml: expected a file, found none"),
        (["verify", "."], "expected a built repository with a manifest.json"),
        (["serve", "nowhere"], "expected a built repository"),
        (["query", "nowhere"], "expected a built repository"),
    ],
)
def test_bad_input_is_one_line_and_two(
    words: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(*words) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and told in lines[0]


@pytest.mark.parametrize(
    "words", [["plan"], ["bake"], ["plan", "x.yaml", "--s-max", "17"], ["serve", "x", "--http-port", "0"]]
)
def test_wrong_words_exit_with_two(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        run(*words)
    assert caught.value.code == 2
    assert "usage: elasticrec" in capsys.readouterr().err


def test_a_truncated_checkpoint_is_one_line(
    spec_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = tmp_path / "small.pt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:5000])
    assert run("build", spec_file, "-o", tmp_path / "out") == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and str(checkpoint) in lines[0]
    assert not (tmp_path / "out").exists()


def test_wrong_dims_name_the_keys(spec_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = document()
    other["tables"][0]["rows"] = 2999
    other["dense_features"] = 6
    spec_file.write_text(yaml.safe_dump(other))
    assert run("build", spec_file, "-o", tmp_path / "out") == 2
    told = capsys.readouterr().err
    assert "emb_l.0.weight" in told and "dense_features: expected 5, which bot_l.0 takes, got 6" in told


def test_query_without_a_server_says_how_to_start_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_repository(tmp_path, "tiered")
    for protocol in ("grpc", "http"):
        assert run("query", tmp_path / "repository", "--protocol", protocol, "--url", "127.0.0.1:9") == 1
        assert "no server answers there; start one with: elasticrec serve" in capsys.readouterr().err


def test_output_into_a_closed_pipe_is_no_traceback(spec_file: Path) -> None:
    words = [sys.executable, "-m", "elasticrec.cli", "plan", str(spec_file), "--json"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert b"Traceback" not in process.stderr.read()


def test_many_mistakes_are_twenty_lines_and_a_count(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = document()
    wrong["tables"] = [{"name": f"t{i}", "rows": 0, "dim": 4, "pooling": 1} for i in range(5000)]
    path = tmp_path / "wrong.json"
    path.write_text(json.dumps(wrong))
    assert run("plan", path) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 21 and lines[0].startswith(f"elasticrec: {path}: tables[0].")
    assert re.fullmatch(r"elasticrec: and [\d,]{5,} more like these", lines[-1])


def test_a_line_has_an_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("verify", tmp_path / ("x" * 200) / ("y" * 200) / "/".join(["z" * 200] * 12)) == 2
    assert all(len(line) < 1100 for line in capsys.readouterr().err.splitlines())


def test_no_memory_is_one_line(
    spec_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def none_left(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr("elasticrec.commands.planning.load_hotness", none_left)
    assert run("plan", spec_file) == 1
    assert capsys.readouterr().err == "elasticrec: this machine's memory does not suffice\n"
