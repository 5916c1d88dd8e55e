"""Facts of the machine that measured, for whoever reads the figures later."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import psutil


def machine_facts(tritonserver: str, cpuinfo: Path = Path("/proc/cpuinfo")) -> Mapping[str, str | int]:
    """Processor, cores that this process may use, memory, kernel, versions, and the date (UTC)."""
    named = re.search(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(encoding="utf-8"), re.MULTILINE)
    return {
        "cpu": named.group(1) if named else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "cache_bytes": last_cache_bytes(),
        "memory_bytes": psutil.virtual_memory().total,
        "kernel": platform.release(),
        "tritonserver": tritonserver,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "date": datetime.now(UTC).date().isoformat(),
    }


def last_cache_bytes(cache: Path = Path("/sys/devices/system/cpu/cpu0/cache")) -> int:
    """The size of the processor's last cache; 0 where the kernel does not tell."""
    sizes = {
        int((index / "level").read_text()): int((index / "size").read_text().strip().removesuffix("K")) * 1024
        for index in cache.glob("index*")
    }
    return sizes[max(sizes)] if sizes else 0
