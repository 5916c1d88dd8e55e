"""Files and folders that appear whole or not at all: whoever looks finds the former one or the new one.

A folder is made in a temporary one beside its target. What a killed process leaves of one is swept by the next for that
target: its owner holds a lock on it, which the system takes back when the owner ends, however it ends, and a file in it
says that it is ours. Nothing else is ever swept, whatever its name.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from repo_builder.errors import InputError, RepositoryError

PART = ".part"
"""What the names of files end with that are to take another's place."""

NEW = "new"
"""The entry that is to take the target's place."""
OLD = "old"
"""The target's former content, while it is replaced."""

MARK = ".made-by-elasticrec"
"""The entry that says whose the folder is."""

_SUFFIX = ".tmp"
_RANDOM = 8  # characters that `mkdtemp` puts between prefix and suffix


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file so that whoever reads it, or interrupts, finds the former content or this one.

    A link is followed: the file that it leads to is written, and the link stays. What is no plain file, such as
    /dev/stdout or a pipe, is written into. A file of another kind, told by its first byte, is not replaced: a plan
    takes no checkpoint's place. Raises InputError where that cannot be done.
    """
    data = content.encode() if isinstance(content, str) else content
    try:
        target = Path(os.path.realpath(path))
        if path.is_relative_to("/dev") or (target.exists() and not target.is_file()):
            with path.open("ab") as device:  # a folder raises; what /dev/stdout leads to may be a file with content
                device.write(data)
            return
        _check_kind(path, target, data)
        replace_file(target, data)
    except OSError as exc:
        raise InputError(f"{path}: cannot be written: {exc.strerror}; choose another file") from exc
    except ValueError as exc:
        raise InputError(f"{str(path)!r}: expected a path: {exc}") from exc


def _check_kind(path: Path, target: Path, content: bytes) -> None:
    if target.exists():
        with target.open("rb") as file:
            found = file.read(1)
        if found and found != content[:1]:
            raise InputError(
                f"{path}: expected no file, or one of the kind that is written here, got another; choose another file"
            )


def replace_file(target: Path, content: str | bytes) -> None:
    """Replace a file's content at once, by a new file beside it with the rights of the former one.

    Whoever reads it sees the former content or this one. What a killed process leaves is called `PART`.
    """
    part = target.with_name(f".{target.name[:64]}.{secrets.token_hex(4)}{PART}")
    with part.open("xb") as file:
        try:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            if target.exists():
                part.chmod(target.stat().st_mode & 0o7777)
            part.replace(target)
        except BaseException:
            part.unlink(missing_ok=True)
            raise


@contextmanager
def new_folder(target: Path, foreign: Callable[[Path], str | None]) -> Iterator[Path]:
    """A temporary folder beside `target` that takes its place when the block ends well, and vanishes when it does not.

    It is on the disk before it is renamed, so that a power cut leaves the former one or the new one, whole. Missing
    parents of `target` are made, and vanish with it. What is at `target` is replaced where it is empty, or `foreign`
    finds it to be all ours; else that says why it is refused. Raises RepositoryError.
    """

    def check_replaceable() -> None:
        _check_folder(target)
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
            _put(target, new, temporary / OLD)
        except OSError as exc:
            raise RepositoryError(f"{target}: cannot be written: {exc.strerror}; nothing was changed there") from exc


def _put(target: Path, new: Path, old: Path) -> None:
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


def _check_folder(target: Path) -> None:
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise RepositoryError(f"{target}: expected a folder to build, got a file or link; choose another with -o")


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
