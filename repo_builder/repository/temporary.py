"""A temporary folder beside a target. What a killed process leaves of one is swept by the next for that target.

Its owner holds a lock on it, which the system takes back when the owner ends, however it ends. A file in it says that
it is ours: nothing else is ever swept, whatever its name.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

NEW = "new"
"""The entry that is to take the target's place."""
OLD = "old"
"""The target's former content, while it is replaced."""

MARK = ".made-by-elasticrec"
"""The entry that says whose the folder is."""

_SUFFIX = ".tmp"
_RANDOM = 8  # characters that `mkdtemp` puts between prefix and suffix


@contextmanager
def temporary_beside(target: Path) -> Iterator[Path]:
    """A new folder in the target's parent, for NEW and OLD beside MARK; it is removed at the end.

    Parents that are missing are made, and removed again where they stay empty. Leftovers of killed processes are
    removed first; where one holds the OLD of a target that is gone, that goes back. Raises OSError.
    """
    missing = [folder for folder in target.parents if not folder.exists()]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _sweep(target)
        temporary, lock = _claimed(target)
        try:
            yield temporary
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
            os.close(lock)
    finally:
        for folder in missing:
            with suppress(OSError):
                folder.rmdir()


def _claimed(target: Path) -> tuple[Path, int]:
    """A new folder and the descriptor that locks it; one that is swept before it is locked is made again."""
    while True:
        temporary = Path(tempfile.mkdtemp(prefix=_prefix(target), suffix=_SUFFIX, dir=target.parent))
        with suppress(FileNotFoundError):
            lock = os.open(temporary, os.O_RDONLY)
            with suppress(OSError):  # a file system without locks; nothing is ever swept there
                fcntl.flock(lock, fcntl.LOCK_SH)
            if temporary.exists():
                (temporary / MARK).touch()
                return temporary, lock
            os.close(lock)


def _sweep(target: Path) -> None:
    with suppress(OSError):  # what cannot be looked at or removed stays: it is in nobody's way
        for folder in target.parent.iterdir():
            random = folder.name.removeprefix(_prefix(target)).removesuffix(_SUFFIX)
            if folder.name == f"{_prefix(target)}{random}{_SUFFIX}" and len(random) == _RANDOM:
                _sweep_one(folder, target)


def _sweep_one(folder: Path, target: Path) -> None:
    with suppress(OSError):
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises where its owner lives
            found = {path.name for path in folder.iterdir()}
            if MARK not in found or not found <= {NEW, OLD, MARK}:
                return  # not ours after all
            if (folder / OLD).exists() and not target.exists():
                (folder / OLD).rename(target)
            shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(lock)


def _prefix(target: Path) -> str:
    return f".{target.name}."
