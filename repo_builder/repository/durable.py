"""Having the disk hold what was written, so that a power cut after a rename finds it whole."""

from __future__ import annotations

import ctypes
import errno
import os
from contextlib import suppress
from pathlib import Path

_CANNOT_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS)  # some network file systems, of folders

_SYNC_FILE_RANGE_WRITE = 2
_libc = ctypes.CDLL(None)


def start_sync(descriptor: int, begin: int, end: int) -> None:
    """Have the disk take a part of a file already, without waiting for it, so that `sync` has less to wait for.

    It promises nothing: where it cannot, `sync` does all and says what is wrong.
    """
    _libc.sync_file_range(descriptor, ctypes.c_int64(begin), ctypes.c_int64(end - begin), _SYNC_FILE_RANGE_WRITE)


def sync_tree(folder: Path) -> None:
    """Write a folder and all in it to the disk. Raises OSError, as where the disk is full after all."""
    for path in (*folder.rglob("*"), folder):
        sync(path)


def sync_parents(target: Path) -> None:
    """Write to the disk that the target, and each folder above it, is where it is.

    Where the disk will not, that is let go: the target is in place by then and holds what it should.
    """
    for folder in target.parents:
        with suppress(OSError):
            sync(folder)


def sync(path: Path) -> None:
    """Write a file, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as exc:
        if exc.errno not in _CANNOT_SYNC:
            raise
    finally:
        os.close(descriptor)
