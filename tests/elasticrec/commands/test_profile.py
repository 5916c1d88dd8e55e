"""`elasticrec profile`: a real run, and what it says when it cannot."""

import json
import sys
import tempfile
from pathlib import Path

import pytest
import yaml

from elasticrec.cli import main
from repo_builder.documents import schema_problems
from repo_builder.partition.cost import FrontTime, load_profile
from repo_builder.profiling.capacity import MOST_IN_FLIGHT
from repo_builder.profiling.perf_analyzer import INSTALL_HINT
from tests.integration.models import document


@pytest.fixture
def spec_file(tmp_path: Path) -> Path:
    """A spec whose weights need not exist: a profile measures random ones."""
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(document()))
    return path


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of the test's own for temporary files."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def ours(folder: Path) -> list[Path]:
    """What elasticrec left there; torch keeps a cache of its own."""
    return list(folder.glob("elasticrec*"))


def run(*words: object) -> int:
    return main([str(word) for word in words])


@pytest.mark.server
@pytest.mark.long
def test_a_quick_profile_is_measured_and_planned_with(
    spec_file: Path, scratch: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, picture = tmp_path / "profile.json", tmp_path / "fit.png"
    for _ in range(3):  # who else uses the machine may hide what a gather costs, or an id or a call
        assert run("profile", spec_file, "--quick", "--seconds", 0.6, "-o", path, "--plot", picture, "--json") == 0
        printed = capsys.readouterr()
        assert printed.out == path.read_text() and printed.err == ""
        found = json.loads(path.read_text())
        few, many = (next(p for p in found["points"]["embedding"] if p["gathers"] == g) for g in (32, 32768))
        row_s = found["service_time"]["per_row_s"] + found["service_time"]["per_byte_s"]
        if few["qps"] > many["qps"] and row_s > 0 and min(found["front_time"].values()) > 0:
            break
    else:
        pytest.fail("more gathers, ids or calls never took longer")
    assert ours(scratch) == []
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert schema_problems(found, "profile.schema.json") == []
    assert found["service"] == {
        "spec": "small", "grouping": "tiered", "backend": "python", "tables": 4, "rows": 4035, "dim": 8,
        "row_bytes": 32.0,
        "batch": 8,
        "sla_ms": 400.0,
    }  # fmt: skip
    assert 1.0 <= found["batching"]["queries"] <= MOST_IN_FLIGHT
    assert 10e6 < found["min_memory_bytes"] < 1e9
    assert 0 < found["remote_call_s"] < 0.1 and 0 < found["client_cpu_s"] < 0.1

    assert run("plan", spec_file, "--profile", path) == 0
    assert load_profile(path).front_time == FrontTime(**found["front_time"])
    assert f"profile: {load_profile(path).name}" in " ".join(capsys.readouterr().out.split())
    assert found["name"].startswith("small, python, measured 20")


def test_without_perf_analyzer_the_remedy_is_told(
    spec_file: Path, scratch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert run("profile", spec_file, "-o", tmp_path / "profile.json") == 1
    assert capsys.readouterr().err == f"elasticrec: {INSTALL_HINT}\n"
    assert not (tmp_path / "profile.json").exists() and ours(scratch) == []


@pytest.mark.parametrize("option", ["-o", "--plot"])
def test_a_place_that_does_not_exist_is_told_at_once(
    option: str, spec_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "missing" / "file.png"
    assert run("profile", spec_file, option, path) == 2
    assert f"{path}: expected a folder that exists" in capsys.readouterr().err


@pytest.mark.parametrize("words", [("--seconds", "0"), ("--rows", "0"), ("--plot", "fit.jpg"), ("--grouping", "none")])
def test_bad_options_are_bad_input(words: tuple[str, str], spec_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        run("profile", spec_file, *words)
    assert caught.value.code == 2
    assert f"argument {words[0]}" in capsys.readouterr().err
