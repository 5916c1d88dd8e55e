"""The machine: its facts, for whoever reads figures later; what its memory can hold, told before it is asked for."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import numpy as np
import psutil

from repo_builder.errors import InputError

ALLOCATOR: Final = {"MALLOC_MMAP_THRESHOLD_": str(4 << 20), "MALLOC_TRIM_THRESHOLD_": str(2 << 20)}
"""What servers are told of glibc's allocator; the Dockerfile says the same.

By itself it gives freed memory back to the kernel at once, and takes it again for the next query, 14 to 47 page faults
each: kept for some seconds (`native/spare_memory.c`), it is 6 to 16% more queries/s.
"""


def allocator(cores: int) -> Mapping[str, str]:
    """ALLOCATOR, and a heap a core for a server that has so many.

    glibc makes eight for each core of the whole machine, and each keeps what is free at its end, up to the trim
    threshold, and between what is in use: of a front end of RM3 or RM1 on a core 8 MiB. CPU a query is the same.
    """
    return {**ALLOCATOR, "MALLOC_ARENA_MAX": str(cores)}


def machine_facts(tritonserver: str, cpuinfo: Path = Path("/proc/cpuinfo")) -> Mapping[str, str | int]:
    """Processor, cores that this process may use, memory, kernel, versions, and the date (UTC)."""
    named = re.search(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(encoding="utf-8"), re.MULTILINE)
    return {
        "cpu": named.group(1) if named else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "cache_bytes": max(cache_sizes(), default=0),
        "memory_bytes": psutil.virtual_memory().total,
        "kernel": platform.release(),
        "tritonserver": tritonserver,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "date": datetime.now(UTC).date().isoformat(),
    }


def cache_sizes(cache: Path = Path("/sys/devices/system/cpu/cpu0/cache")) -> tuple[int, ...]:
    """The bytes of the processor's caches of data by their level, each larger than the one before; none where the
    kernel does not tell.
    """
    sizes = {
        int((index / "level").read_text()): int((index / "size").read_text().strip().removesuffix("K")) * 1024
        for index in cache.glob("index*")
        if (index / "type").read_text().strip() != "Instruction"
    }
    levels = [sizes[level] for level in sorted(sizes)]
    return tuple(size for i, size in enumerate(levels) if size > max(levels[:i], default=0))


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
