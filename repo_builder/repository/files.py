"""Writing files that are hashed as they are written, and folders that appear whole or not at all."""

from __future__ import annotations

import hashlib
import json
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from io import RawIOBase
from pathlib import Path
from types import TracebackType
from typing import Any

from repo_builder.repository.manifest import FileEntry
from repo_builder.writing import start_sync

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


def write_json(folder: Path, path: str, document: object, pool: ThreadPoolExecutor) -> FileEntry:
    """Write a small JSON file."""
    return write_bytes(folder, path, (json.dumps(document, indent=1) + "\n").encode(), pool)


def write_bytes(folder: Path, path: str, data: bytes, pool: ThreadPoolExecutor) -> FileEntry:
    """Write a small file."""
    with HashedFile(folder, path, pool) as file:
        file.write(data)
        return file.entry()
