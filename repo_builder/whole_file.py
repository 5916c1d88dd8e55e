"""Files that appear whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from repo_builder.errors import InputError


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file beside its place and move it there: whoever reads it sees the former content or the new one.

    What a link points at is written, and what is no plain file (/dev/stdout and its kind) is written in place. Raises
    InputError where it cannot be written.
    """
    data = content.encode() if isinstance(content, str) else content
    place = Path(os.path.realpath(path))
    try:
        if place.exists() and not place.is_file():
            path.write_bytes(data)
            return
        part = place.with_name(f".{place.name[:200]}.{os.getpid()}.tmp")
        try:
            part.write_bytes(data)
            part.replace(place)
        finally:
            part.unlink(missing_ok=True)
    except OSError as exc:
        raise InputError(f"{path}: cannot be written: {exc.strerror}; choose another file") from exc
