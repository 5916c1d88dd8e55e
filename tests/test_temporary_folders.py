"""Temporary folders: gone with their owner, swept when it was killed."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from repo_builder import writing
from repo_builder.repository.manifest import foreign_to_repository
from repo_builder.writing import new_folder, temporary_beside

OWNER = """
import os, sys
from pathlib import Path
from repo_builder.writing import temporary_beside
with temporary_beside(Path(sys.argv[1])) as folder:
    (folder / sys.argv[2]).mkdir()
    (folder / sys.argv[2] / "manifest.json").write_text("of the owner")
    print("ready", flush=True)
    sys.stdin.read()
"""


def owner(target: Path, entry: str) -> subprocess.Popen[str]:
    """A process that holds a temporary folder with one entry until its input ends."""
    words = [sys.executable, "-c", OWNER, str(target), entry]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


def killed(target: Path, entry: str) -> None:
    process = owner(target, entry)
    process.kill()
    process.communicate()


@pytest.fixture
def living(tmp_path: Path) -> Iterator[Path]:
    """The temporary folder of a process that goes on."""
    process = owner(tmp_path / "target", "new")
    yield next(tmp_path.iterdir())
    process.communicate("")
    assert process.returncode == 0


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_a_killed_process_left_is_swept_by_the_next(tmp_path: Path) -> None:
    owners = [owner(tmp_path / "target", "new") for _ in range(2)]
    for process in owners:
        process.kill()
        process.communicate()
    assert len(names(tmp_path)) == 2
    with temporary_beside(tmp_path / "target") as folder:
        assert names(tmp_path) == [folder.name]
    assert names(tmp_path) == []


def test_the_folder_of_a_living_process_stays(living: Path, tmp_path: Path) -> None:
    with temporary_beside(tmp_path / "target") as folder:
        assert names(tmp_path) == sorted([living.name, folder.name])
    assert (living / "new/manifest.json").read_text() == "of the owner"


def test_other_folders_stay(tmp_path: Path) -> None:
    """Of another target, of a longer name, with other content, a link, and a file."""
    killed(tmp_path / "other", "new")
    killed(tmp_path / "target.too", "new")
    killed(tmp_path / "target", "notes")
    (tmp_path / ".target.abcdefgh.tmp").symlink_to(tmp_path)
    (tmp_path / ".target.ijklmnop.tmp").write_text("mine")
    (tmp_path / ".target.mnopqrst.tmp/new").mkdir(parents=True)  # of the very form, but nobody says that it is ours
    (tmp_path / ".target.mnopqrst.tmp/new/photo").write_text("mine")
    before = names(tmp_path)
    with temporary_beside(tmp_path / "target"):
        pass
    assert names(tmp_path) == before


@pytest.mark.parametrize("replaced", [True, False])
def test_a_former_folder_comes_back_when_it_was_not_yet_replaced(replaced: bool, tmp_path: Path) -> None:
    """Killed between the two renames, a build leaves the only former content in its temporary folder."""
    target = tmp_path / "target"
    killed(target, "old")
    if replaced:
        target.mkdir()
        (target / "manifest.json").write_text("new")
    with pytest.raises(KeyError), temporary_beside(target):
        raise KeyError
    assert names(tmp_path) == ["target"]
    assert (target / "manifest.json").read_text() == ("new" if replaced else "of the owner")


def test_a_folder_swept_before_it_was_locked_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, made = writing.tempfile.mkdtemp, []

    def swept_at_first(**words: str) -> str:
        made.append(real(**words))
        if len(made) == 1:
            Path(made[0]).rmdir()
        return made[-1]

    monkeypatch.setattr(writing.tempfile, "mkdtemp", swept_at_first)
    with temporary_beside(tmp_path / "target") as folder:
        assert folder == Path(made[1]) and folder.is_dir()


def test_without_locks_nothing_is_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed(tmp_path / "target", "new")
    before = names(tmp_path)

    def unsupported(*_: object) -> None:
        raise OSError("no locks here")

    monkeypatch.setattr(writing.fcntl, "flock", unsupported)
    with temporary_beside(tmp_path / "target") as folder:
        assert names(tmp_path) == sorted([*before, folder.name])
    assert names(tmp_path) == before


def test_parents_made_for_nothing_are_removed(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(KeyError), new_folder(tmp_path / "there/a/b/target", foreign_to_repository):
        raise KeyError
    assert names(tmp_path) == ["there"] and names(tmp_path / "there") == []


def test_parents_that_someone_else_uses_stay(tmp_path: Path) -> None:
    def build() -> None:
        with new_folder(tmp_path / "a/b/target", foreign_to_repository):
            (tmp_path / "a/theirs").write_text("theirs")
            raise KeyError

    with pytest.raises(KeyError):
        build()
    assert names(tmp_path / "a") == ["theirs"]
