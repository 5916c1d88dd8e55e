"""Writing files that are hashed as they are written, and folders that appear whole or not at all."""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from io import RawIOBase
from pathlib import Path
from types import TracebackType
from typing import Any

from repo_builder.errors import RepositoryError
from repo_builder.repository.durable import start_sync, sync_parents, sync_tree
from repo_builder.repository.manifest import FileEntry, load_manifest, unlisted
from repo_builder.repository.temporary import NEW, OLD, temporary_beside

MAX_WAITING = 8  # writes of a file that may wait to be hashed: they hold their memory
SYNC_BYTES = 1 << 25  # so much of a file is sent to the disk while the rest is made


class HashedFile(RawIOBase):
    """A new file that knows its size and SHA-256.

    What is written is hashed meanwhile on `pool`, and must not change; one worker there keeps the hashing in order.
    """

    def __init__(self, folder: Path, path: str, pool: ThreadPoolExecutor) -> None:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        self._file = (folder / path).open("xb", buffering=0)
        self._path, self._pool = path, pool
        self._size_bytes, self._syncing_bytes, self._sha256 = 0, 0, hashlib.sha256()
        self._hashing: deque[Future[None]] = deque()

    def write(self, data: Any) -> int:
        """Write all of a bytes-like object."""
        view = memoryview(data)
        if not view.nbytes:
            return 0
        view = view.cast("B")
        self._hashing.append(self._pool.submit(self._sha256.update, view))
        while len(self._hashing) > MAX_WAITING:
            self._hashing.popleft().result()
        written = 0
        while written < len(view):
            written += self._file.write(view[written:])
        self._size_bytes += written
        if self._size_bytes - self._syncing_bytes >= SYNC_BYTES:
            start_sync(self._file.fileno(), self._syncing_bytes, self._size_bytes)
            self._syncing_bytes = self._size_bytes
        return written

    def pad(self, alignment: int) -> None:
        """Write zeros up to a multiple of so many bytes."""
        self.write(bytes(-self._size_bytes % alignment))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        super().close()

    def entry(self) -> FileEntry:
        """The manifest's entry for what was written so far."""
        while self._hashing:
            self._hashing.popleft().result()
        return FileEntry(self._path, self._size_bytes, self._sha256.hexdigest())


def foreign_to_repository(folder: Path) -> str | None:
    """Why a folder is no former repository of ours that may be replaced; None where it is one."""
    try:
        manifest = load_manifest(folder)
    except RepositoryError as exc:
        return f"expected a former repository or nothing, got other files ({exc.problems[0]})"
    strangers = unlisted(folder, manifest)
    if strangers:
        more = f" and {len(strangers) - 3} more" if len(strangers) > 3 else ""
        return f"expected nothing beside a former repository's own files, got {', '.join(strangers[:3])}{more}"
    return None


@contextmanager
def new_folder(target: Path, foreign: Callable[[Path], str | None] = foreign_to_repository) -> Iterator[Path]:
    """A temporary folder beside `target` that takes its place when the block ends well, and vanishes when it does not.

    It is on the disk before it is renamed, so that a power cut leaves the former one or the new one, whole. Missing
    parents of `target` are made, and vanish with it. What is at `target` is replaced where it is empty, or `foreign`
    finds it to be all ours; else that says why it is refused. Raises RepositoryError.
    """

    def check_replaceable() -> None:
        _check_kind(target)
        if target.is_dir() and any(target.iterdir()) and (why := foreign(target)):
            raise RepositoryError(f"{target}: {why}; nothing was changed: choose another folder with -o")

    target = Path(os.path.abspath(target))  # noqa: PTH100 - the working folder may move with the target
    if Path.cwd().is_relative_to(target):
        raise RepositoryError(
            f"{target}: expected another folder than the working folder or one above it; cd elsewhere"
        )
    with ExitStack() as stack:
        try:
            check_replaceable()
            temporary = stack.enter_context(temporary_beside(target))
        except OSError as exc:
            raise RepositoryError(
                f"{target}: cannot be written: {exc.strerror}; choose another folder with -o"
            ) from exc
        try:
            new = temporary / NEW
            new.mkdir()
            yield new
            sync_tree(new)
            check_replaceable()  # again: a build may take an hour
            _replace(target, new, temporary / OLD)
        except OSError as exc:
            raise RepositoryError(f"{target}: cannot be written: {exc.strerror}; nothing was changed there") from exc


def _replace(target: Path, new: Path, old: Path) -> None:
    """Put `new` at `target`, whose former content goes to `old`, and comes back from there should that fail."""
    try:
        if target.exists():
            target.rename(old)
        new.rename(target)
    except BaseException:
        if old.exists() and not target.exists():
            old.rename(target)
        raise
    sync_parents(target)


def _check_kind(target: Path) -> None:
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise RepositoryError(f"{target}: expected a folder to build, got a file or link; choose another with -o")
