"""Writing files that are hashed as they are written, and folders that appear whole or not at all."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from io import RawIOBase
from pathlib import Path
from types import TracebackType
from typing import Any

from repo_builder.errors import RepositoryError
from repo_builder.repository.manifest import MANIFEST, FileEntry


class HashedFile(RawIOBase):
    """A new file that knows its size and SHA-256; each write is hashed on `pool` while the system takes the bytes."""

    def __init__(self, folder: Path, path: str, pool: ThreadPoolExecutor) -> None:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        self._file = (folder / path).open("xb", buffering=0)
        self._path, self._pool = path, pool
        self._size_bytes, self._sha256 = 0, hashlib.sha256()

    def write(self, data: Any) -> int:
        """Write all of a bytes-like object."""
        view = memoryview(data)
        if not view.nbytes:
            return 0
        view = view.cast("B")
        hashed = self._pool.submit(self._sha256.update, view)
        written = 0
        try:
            while written < len(view):
                written += self._file.write(view[written:])
        finally:
            hashed.result()
        self._size_bytes += written
        return written

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
        return FileEntry(self._path, self._size_bytes, self._sha256.hexdigest())


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A temporary folder beside `target` that takes its place when the block ends well, and vanishes when it does not.

    A former repository at `target` is replaced; anything else there is refused. Raises RepositoryError.
    """
    _check_replaceable(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent))
    except OSError as exc:
        raise RepositoryError(f"{target}: cannot be written: {exc.strerror}; choose another folder with -o") from exc
    try:
        new = temporary / "new"
        new.mkdir()
        yield new
        if target.exists():
            target.rename(temporary / "old")
        new.rename(target)
    except OSError as exc:
        raise RepositoryError(f"{target}: cannot be written: {exc.strerror}; nothing was changed there") from exc
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _check_replaceable(target: Path) -> None:
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise RepositoryError(f"{target}: expected a folder to build, got a file or link; choose another with -o")
    if target.is_dir() and any(target.iterdir()) and not (target / MANIFEST).is_file():
        raise RepositoryError(
            f"{target}: expected a former repository (with {MANIFEST}) or nothing, got other files; "
            "choose another folder with -o"
        )
