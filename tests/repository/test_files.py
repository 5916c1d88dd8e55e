"""Files that know their hash, and folders that appear whole or not at all."""

import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from repo_builder import writing
from repo_builder.errors import RepositoryError
from repo_builder.repository import files
from repo_builder.repository.files import HashedFile
from repo_builder.repository.manifest import FileEntry, describe, entry_of, foreign_to_repository
from tests.hand_models import DLRM, hand_spec

new_folder = partial(writing.new_folder, foreign=foreign_to_repository)


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool


RNG = np.random.default_rng(0)
WRITES = {
    "nothing": [],
    "no bytes": [b""],
    "an empty array": [np.empty((0, 8), np.float32)],
    "one byte": [b"\0"],
    "odd sizes": [bytes(range(n % 256)) for n in (1, 63, 64, 65, 127, 255)],
    "an empty array among others": [b"abc", np.empty(0, np.int64), b"def"],
    "several pages and a bit": [RNG.bytes(3 * 2**20 + 17)],
    "arrays": [RNG.standard_normal((7, 3)), np.arange(5, dtype=np.uint8), np.arange(6, dtype=np.int16).reshape(2, 3)],
    "more than may wait": [bytes([n]) * n for n in range(100)],
    "the same twice": [b"again", b"again"],
}


@pytest.mark.parametrize("case", WRITES)
def test_the_entry_is_that_of_the_file(case: str, tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    data = [part.tobytes() if isinstance(part, np.ndarray) else part for part in WRITES[case]]
    with HashedFile(tmp_path, "a/b/file.bin", pool) as file:
        assert [file.write(part) for part in WRITES[case]] == [len(part) for part in data]
        entry = file.entry()
    content = (tmp_path / "a/b/file.bin").read_bytes()
    assert content == b"".join(data)
    assert entry == FileEntry("a/b/file.bin", len(content), hashlib.sha256(content).hexdigest())


def test_an_entry_half_way_is_of_what_was_written_so_far(tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    with HashedFile(tmp_path, "file", pool) as file:
        file.write(b"first")
        assert file.entry() == FileEntry("file", 5, hashlib.sha256(b"first").hexdigest())
        file.write(b"second")
    assert file.entry() == FileEntry("file", 11, hashlib.sha256(b"firstsecond").hexdigest())


def test_the_disk_gets_all_of_a_large_file_but_its_end_meanwhile(
    tmp_path: Path, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[tuple[int, int]] = []
    monkeypatch.setattr(files, "start_sync", lambda descriptor, begin, end: begun.append((begin, end)))
    with HashedFile(tmp_path, "file", pool) as file:
        file.write(bytes(files.SYNC_BYTES - 1))
        assert begun == []
        file.write(bytes(2))
        file.write(bytes(3 * files.SYNC_BYTES))
        file.write(bytes(5))
    assert begun == [(0, files.SYNC_BYTES + 1), (files.SYNC_BYTES + 1, 4 * files.SYNC_BYTES + 1)]


def test_a_file_is_never_written_over(tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    """Two services of one name would otherwise share a file."""
    (tmp_path / "file").write_text("mine")
    with pytest.raises(FileExistsError):
        HashedFile(tmp_path, "file", pool)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(("size_bytes", "padded_bytes"), [(0, 0), (1, 64), (63, 64), (64, 64), (65, 128)])
def test_a_file_is_padded_with_zeros(
    size_bytes: int, padded_bytes: int, tmp_path: Path, pool: ThreadPoolExecutor
) -> None:
    with HashedFile(tmp_path, "file", pool) as file:
        file.write(b"x" * size_bytes)
        file.pad(64)
        file.write(b"y")
        entry = file.entry()
    assert (tmp_path / "file").read_bytes() == b"x" * size_bytes + b"\0" * (padded_bytes - size_bytes) + b"y"
    assert entry == entry_of(tmp_path, "file")


def repository(folder: Path, content: str) -> Path:
    """What counts as a former repository: a manifest, and the one file that it lists."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "content").write_text(content)
    manifest = describe(hand_spec(DLRM), "single", "0" * 64, "elasticrec 0", [entry_of(folder, "content")])
    (folder / "manifest.json").write_text(manifest.to_json())
    return folder


def tree(folder: Path) -> dict[str, str]:
    """Every file's text, but for manifests."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != "manifest.json")
    return {str(path.relative_to(folder)): path.read_text() for path in files}


@pytest.mark.parametrize("before", ["nothing", "an empty folder", "a former repository", "missing parents"])
def test_success_puts_the_new_folder_in_place(before: str, tmp_path: Path) -> None:
    target = tmp_path / "up/and/up/target" if before == "missing parents" else tmp_path / "target"
    if before == "an empty folder":
        target.mkdir()
    elif before == "a former repository":
        repository(target, "old")
    with new_folder(target) as folder:
        repository(folder, "new")
        assert folder != target and folder.parent.parent == target.parent  # so that a rename is enough
    assert tree(target) == {"content": "new"}
    assert list(target.parent.iterdir()) == [target]


def test_everything_is_on_the_disk_before_the_rename_and_the_rename_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen by listening to the calls: no program can see what a disk would keep."""
    calls: list[str] = []
    fsync, rename = os.fsync, Path.rename

    def listened_fsync(descriptor: int) -> None:
        fsync(descriptor)
        calls.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))

    def listened_rename(path: Path, target: Path) -> Path:
        calls.append("renamed")
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", listened_fsync)
    monkeypatch.setattr(Path, "rename", listened_rename)
    target = tmp_path / "up/target"
    with new_folder(target) as folder:
        repository(folder / "a/b", "new")
        written = {str(path) for path in (folder, *folder.rglob("*"))}
    split = calls.index("renamed")
    assert set(calls[:split]) == written and len(written) == 5
    assert calls[split + 1 : split + 3] == [str(tmp_path / "up"), str(tmp_path)]


def test_the_new_folder_can_be_read_by_others(tmp_path: Path) -> None:
    """As any folder made here, unlike Python's temporary ones: the server may run under another user."""
    (tmp_path / "plain").mkdir()
    with new_folder(tmp_path / "target"):
        pass
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "target")]
    assert modes[0] == modes[1]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, RepositoryError])
@pytest.mark.parametrize("former", [True, False])
def test_an_error_in_the_block_changes_nothing(error: type[BaseException], former: bool, tmp_path: Path) -> None:
    if former:
        repository(tmp_path / "target", "old")
    before = tree(tmp_path)

    def build() -> None:
        with new_folder(tmp_path / "target") as folder:
            repository(folder, "new")
            raise error("half way")

    with pytest.raises(error, match="half way"):
        build()
    assert tree(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == (["target"] if former else [])


def test_a_system_error_in_the_block_says_so(tmp_path: Path) -> None:
    repository(tmp_path / "target", "old")
    with (
        pytest.raises(RepositoryError, match=r"target: cannot be written: Is a directory; nothing was changed there"),
        new_folder(tmp_path / "target") as folder,
    ):
        folder.write_text("")
    assert tree(tmp_path) == {"target/content": "old"}
    assert [path.name for path in tmp_path.iterdir()] == ["target"]


def test_the_former_content_stays_when_the_new_one_is_gone(tmp_path: Path) -> None:
    repository(tmp_path / "target", "old")
    with pytest.raises(RepositoryError, match="nothing was changed there"), new_folder(tmp_path / "target") as folder:
        folder.rmdir()
    assert tree(tmp_path) == {"target/content": "old"}


def test_the_former_content_comes_back_when_interrupted_between_the_renames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository(tmp_path / "target", "old")
    rename, renamed = Path.rename, []

    def interrupted(path: Path, target: Path) -> Path:
        renamed.append(path.name)
        if len(renamed) == 2:
            raise KeyboardInterrupt
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt), new_folder(tmp_path / "target") as folder:
        repository(folder, "new")
    assert renamed == ["target", "new", "old"]
    assert tree(tmp_path) == {"target/content": "old"}
    assert [path.name for path in tmp_path.iterdir()] == ["target"]


def test_what_someone_else_put_there_meanwhile_is_left_alone(tmp_path: Path) -> None:
    """A build may take an hour."""

    def build() -> None:
        with new_folder(tmp_path / "target") as folder:
            repository(folder, "new")
            a_foreign_folder(tmp_path / "target")

    with pytest.raises(RepositoryError, match="expected a former repository"):
        build()
    assert tree(tmp_path) == {"target/notes": "mine"}


def a_file(target: Path) -> None:
    target.write_text("mine")


def a_link_to_a_repository(target: Path) -> None:
    target.symlink_to(repository(target.with_name("elsewhere"), "mine"))


def a_dangling_link(target: Path) -> None:
    target.symlink_to(target.with_name("nowhere"))


def a_foreign_folder(target: Path) -> None:
    target.mkdir()
    (target / "notes").write_text("mine")


def a_web_app(target: Path) -> None:
    """Browsers read a manifest.json as well."""
    (target / ".git").mkdir(parents=True)
    (target / ".git/HEAD").write_text("mine")
    (target / "manifest.json").write_text('{"name": "photos", "icons": []}')


def a_repository_with_notes(target: Path) -> None:
    (repository(target, "mine") / "notes.txt").write_text("mine")


def a_repository_with_an_empty_folder(target: Path) -> None:
    (repository(target, "mine") / "drafts").mkdir()


def a_repository_with_foreign_bytecode(target: Path) -> None:
    """Python's own beside a listed model.py goes with it; this is beside nothing of ours."""
    (repository(target, "mine") / "tools/__pycache__").mkdir(parents=True)
    (target / "tools/__pycache__/mine.pyc").write_text("mine")


def a_repository_of_another_format(target: Path) -> None:
    manifest = repository(target, "mine") / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"format": 3', '"format": 1'))


@pytest.mark.parametrize(
    ("put", "told"),
    [
        (a_file, "expected a folder to build, got a file or link"),
        (a_link_to_a_repository, "expected a folder to build, got a file or link"),
        (a_dangling_link, "expected a folder to build, got a file or link"),
        (a_web_app, "expected a former repository or nothing, got other files .*another program's file.*"),
        (a_repository_with_notes, "expected nothing beside a former repository's own files, got notes.txt"),
        (a_repository_with_an_empty_folder, "expected nothing beside a former repository's own files, got drafts"),
        (a_repository_with_foreign_bytecode, "expected nothing beside .* got tools/__pycache__/mine.pyc"),
        (
            a_repository_of_another_format,
            "expected a former .*format: expected 3, got 1; it was built by elasticrec 0.*",
        ),
        (a_foreign_folder, "expected a former repository or nothing, got other files .*"),
    ],
)
def test_anything_else_at_the_target_is_refused_and_kept(
    put: Callable[[Path], None], told: str, tmp_path: Path
) -> None:
    put(tmp_path / "target")
    before, names = tree(tmp_path), sorted(tmp_path.iterdir())
    entered = False
    with (
        pytest.raises(
            RepositoryError, match=f"{tmp_path}/target: {told}; (nothing was changed: )?choose another.* with -o"
        ),
        new_folder(tmp_path / "target"),
    ):
        entered = True
    assert not entered
    assert tree(tmp_path) == before and sorted(tmp_path.iterdir()) == names


@pytest.mark.parametrize(
    ("path", "why"),
    [("file/target", "Not a directory|File exists"), ("file/a/b/target", "Not a directory"), ("x" * 300, "too long")],
)
def test_a_place_that_cannot_be_written_is_told(path: str, why: str, tmp_path: Path) -> None:
    """Below a regular file, which stops root too, and under a name longer than file systems take."""
    (tmp_path / "file").write_text("mine")
    with (
        pytest.raises(
            RepositoryError, match=f"(target|xxx): cannot be written: .*({why}); choose another folder with -o"
        ),
        new_folder(tmp_path / path),
    ):
        pass
    assert tree(tmp_path) == {"file": "mine"}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_parent_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0)
    with (
        pytest.raises(RepositoryError, match="cannot be written: Permission denied"),
        new_folder(tmp_path / "closed/x"),
    ):
        pass
    (tmp_path / "closed").chmod(0o700)
