"""That a repository holds exactly what its manifest lists."""

import hashlib
from pathlib import Path

import pytest

from repo_builder.repository.manifest import (
    verify,
)
from tests.repository.manifests import FILES, entry, problems


def test_of_one_service_only_its_own_folder_is_looked_at(repository: Path) -> None:
    (repository / "empty").write_bytes(b"more")
    (repository / "small_router/1/extra").touch()
    assert verify(repository, "small").name == "small"
    assert problems(lambda folder: verify(folder, "small_router"), repository) == [
        f"{repository}/small_router/1/extra: not in the manifest; remove it or build again"
    ]


def test_every_change_is_told_at_once(repository: Path) -> None:
    (repository / "empty").write_bytes(b"more")
    (repository / "small/config.pbtxt").write_bytes(b"name: 'smell'\n")
    (repository / "small_router/1/idmap.bin").unlink()
    (repository / "small/1").mkdir()
    (repository / "small/1/extra").touch()
    told = problems(verify, repository)
    expected = {
        "small_router/1/idmap.bin": "expected this file, found none",
        "small/1/extra": "not in the manifest; remove it or build again",
        "empty": "expected 0 bytes, got 4",
        "small/config.pbtxt": f"expected SHA-256 {entry('', FILES['small/config.pbtxt'])['sha256']}, got "
        + hashlib.sha256(b"name: 'smell'\n").hexdigest(),
    }
    assert sorted(told) == sorted(f"{repository}/{path}: {what}" for path, what in expected.items())


def test_a_link_in_the_place_of_a_file_is_refused(repository: Path, tmp_path: Path) -> None:
    """Even to the very same content: Triton refuses it, and it may change unseen."""
    path = repository / "small/config.pbtxt"
    path.rename(tmp_path / "moved")
    path.symlink_to(tmp_path / "moved")
    assert problems(verify, repository) == [f"{path}: expected a file, got a symbolic link"]


@pytest.mark.parametrize("to", ["folder", "file", "nowhere"])
def test_a_link_beside_the_files_is_refused(to: str, repository: Path, tmp_path: Path) -> None:
    """And never followed: what lies behind it is not looked at."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/inside").touch()
    (tmp_path / "file").touch()
    (repository / "link").symlink_to(tmp_path / to)
    assert problems(verify, repository) == [f"{repository}/link: not in the manifest; remove it or build again"]


def test_a_folder_behind_a_link_does_not_hold_the_listed_files(repository: Path, tmp_path: Path) -> None:
    (repository / "small").rename(tmp_path / "moved")
    (repository / "small").symlink_to(tmp_path / "moved")
    told = problems(verify, repository)
    assert f"{repository}/small/config.pbtxt: expected this file, found none" in told
    assert f"{repository}/small: not in the manifest; remove it or build again" in told


def test_pythons_caches_are_told(repository: Path) -> None:
    """What a server imports from there is code that nobody checked."""
    cache = repository / "small_router/1/__pycache__/model.cpython-311.pyc"
    cache.parent.mkdir()
    cache.touch()
    assert problems(verify, repository) == [f"{cache}: not in the manifest; remove it or build again"]


def test_an_empty_folder_is_told(repository: Path) -> None:
    """Triton would take it for a model and not start."""
    (repository / "model/1").mkdir(parents=True)
    assert problems(verify, repository) == [f"{repository / 'model/1'}: not in the manifest; remove it or build again"]


def test_a_repository_below_a_folder_named_like_a_cache_is_checked(repository: Path, tmp_path: Path) -> None:
    below = tmp_path / "__pycache__"
    below.mkdir()
    repository.rename(below / "repository")
    verify(below / "repository")
    (below / "repository/empty").unlink()
    assert problems(verify, below / "repository") == [f"{below}/repository/empty: expected this file, found none"]
