"""What goes out to the user: files that were named with -o or the like, whole or not at all; and how far work is."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from pathlib import Path

from repo_builder.errors import InputError

Progress = Callable[[int, int], None]
"""Called with (done, total), in one unit that the source chooses: ids of an `.npz`, rows of a `.parquet`."""

Tell = Callable[[str], None]
"""Called with a line that a reader should know of, which is no mistake."""


def silent(done: int, total: int) -> None:
    """The Progress of a caller that does not want to know."""


def nobody(line: str) -> None:
    """The Tell of a caller that does not want to know."""


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
        _replace(target, data)
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


def _replace(target: Path, content: bytes) -> None:
    """By a new file beside it, with the rights of the former one."""
    part = target.with_name(f".{target.name[:64]}.{secrets.token_hex(4)}.part")
    with part.open("xb") as file:
        try:
            file.write(content)
            file.flush()
            if target.exists():
                part.chmod(target.stat().st_mode & 0o7777)
            part.replace(target)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
