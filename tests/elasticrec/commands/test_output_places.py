"""Files that appear whole or not at all, wherever a command is told to write."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from elasticrec.cli import main
from loadtest.run import write_run
from repo_builder.errors import InputError
from repo_builder.writing import write_whole
from tests.integration.models import document
from tests.k8s.fleets import write_fleet
from tests.loadtest.runs import day

NO_FILES = ["/", ".", "..", "", "no/such/folder/x", "/proc/x", "file/x", "x" * 300]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with a valid file of every kind."""
    folder = tmp_path / "in"
    folder.mkdir()
    monkeypatch.chdir(folder)
    (folder / "spec.yaml").write_text(yaml.safe_dump({**document(), "weights": {"source": "random"}}))
    (folder / "traffic.csv").write_text("seconds,qps\n0,1\n60,1\n")
    (folder / "c.yaml").write_text("name: c\npools: [{name: p, cores: 4, memory_gb: 64, price_per_hour: 1}]\n")
    (folder / "file").write_text("kept")
    write_run(folder / "run.json", day())
    write_fleet(folder / "fleet")
    return folder


@pytest.mark.parametrize("place", NO_FILES)
@pytest.mark.parametrize(
    "words",
    [
        "plan spec.yaml -o",
        "report run.json -o",
        "report run.json -o r.html --csv",
        "k8s fleet -o",
        "build spec.yaml -o",
        "workload fleet --queries=2 -o",
    ],
)
def test_a_place_where_no_file_can_be(words: str, place: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if place == "no/such/folder/x" and words.split()[0] in ("k8s", "build"):
        return  # these make missing parents
    if place in ("", ".") and words.startswith("build"):
        place = ".."
    before = sorted(folder.rglob("*"))
    assert main([*words.split(), place]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert place in line or str(Path(place).resolve()) in line
    assert sorted(path for path in folder.rglob("*") if path.name != "r.html") == before


@pytest.mark.parametrize("place", ["/.png", "no/x.png", "file/x.png", "/proc/x.png", f"{'x' * 300}.png"])
def test_a_place_where_no_picture_can_be(place: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "d.png").mkdir()
    for words in ([place], ["d.png"]) if place != "/.png" else (["d.png"],):
        assert main(["plan", "spec.yaml", "--plot", *words]) == 2
        assert words[0] in capsys.readouterr().err


def test_what_a_link_points_at_is_written(tmp_path: Path) -> None:
    (tmp_path / "there").write_text("{old}")
    (tmp_path / "link").symlink_to("there")
    write_whole(tmp_path / "link", "{new}")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "there").read_text() == "{new}"


def test_a_failure_leaves_the_former_file_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "x").write_text("{old}")
    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(InputError, match="x: cannot be written: No space left on device"):
        write_whole(tmp_path / "x", "{new}")
    assert [path.name for path in tmp_path.iterdir()] == ["x"] and (tmp_path / "x").read_text() == "{old}"
