"""What this machine's memory can hold, told before it is asked for."""

from __future__ import annotations

from pathlib import Path

import psutil

from repo_builder.errors import InputError


def check_memory(needed_bytes: int, what: str, remedy: str) -> None:
    """Raise InputError where this machine has less memory to give than `what` needs."""
    free_bytes = available_bytes()
    if needed_bytes > free_bytes:
        raise InputError(
            f"{what}: expected to fit into this machine's memory, but {_gib(needed_bytes)} GiB are needed and "
            f"{_gib(free_bytes)} GiB are free; {remedy}"
        )


def available_bytes(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Memory that can be had without swapping, of the machine or of the container (cgroup 2) that has less."""
    free_bytes = psutil.virtual_memory().available
    try:
        limit, used = (cgroup / "memory.max").read_text(), (cgroup / "memory.current").read_text()
    except OSError:
        return free_bytes
    return min(free_bytes, max(0, int(limit) - int(used))) if limit.strip().isdigit() else free_bytes


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / 2**30:,.1f}" if size_bytes < 2**200 else "more than 2^170"
