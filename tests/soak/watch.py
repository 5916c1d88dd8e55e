"""What a server's processes hold over time, and whether it grows.

What a server takes follows the most queries that were ever under way at once, and it never gives all of it back. So it
is compared at rest, before and after, once floods of queries do not make it grow any more.

Each process of the Python backend has a region of shared memory, which grows by whole MiB to what its largest call so
far took, 64 queries at once, and never shrinks: its size says little of a leak. What it has handed out and not got back
does, to the byte.
"""

import statistics
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - where Triton's Python backend has its regions
_HEADER = struct.Struct("<5Q2Q")  # of Boost's rbtree_best_fit: its tree and a constant; bytes handed out, bytes in all
LIMITS = {
    "pss_bytes": 4 * 2**20,
    "files": 4,
    "threads": 4,
    "regions": 0,
    "region_bytes": 2**20,  # a region: one step, since calls of other sizes leave other gaps
    "used_bytes": 0,
}


@dataclass(frozen=True)
class Held:
    """At a time: PSS, open files and threads of some processes; and their regions of shared memory, with their size
    and how much of it is handed out.
    """

    time_s: float
    pss_bytes: int
    files: int
    threads: int
    regions: int
    region_bytes: int
    used_bytes: int


def held(processes: Sequence[psutil.Process], prefix: str, time_s: float) -> Held:
    """Now. prefix: how the names of the regions begin."""
    paths = list(SHARED_MEMORY.glob(f"{prefix}*"))
    return Held(
        time_s,
        sum(process.memory_full_info().pss for process in processes),
        sum(process.num_fds() for process in processes),
        sum(process.num_threads() for process in processes),
        len(paths),
        sum(path.stat().st_blocks * 512 for path in paths),
        sum(_used_bytes(path) for path in paths),
    )


def _used_bytes(region: Path) -> int:
    with region.open("rb") as file:
        *_, used_bytes, size_bytes = _HEADER.unpack(file.read(_HEADER.size))
        assert size_bytes <= region.stat().st_size, f"{region}: not laid out as Triton 2.51's"
    return int(used_bytes)


@contextmanager
def watching(look: Callable[[float], Held], every_s: float) -> Iterator[list[Held]]:
    """What `look` sees, in a thread, while the block runs."""
    seen: list[Held] = []
    ended = threading.Event()
    start_s = time.monotonic()

    def watch() -> None:
        while not ended.wait(every_s):
            seen.append(look(time.monotonic() - start_s))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        ended.set()
        thread.join()


def grown(before: Held, after: Held) -> list[str]:
    """What is more than before by more than its limit, a line each; both when no query is under way."""
    problems = []
    for name, limit in LIMITS.items():
        first, last = getattr(before, name), getattr(after, name)
        most = limit * (before.regions if name == "region_bytes" else 1)
        if last - first > most:
            problems.append(f"{name}: expected at most {most:,} more, got {last - first:,} more than {first:,}")
    return problems


def pss_slope(seen: Sequence[Held]) -> float:
    """Bytes of PSS an hour, by least squares."""
    return 3600 * statistics.linear_regression([each.time_s for each in seen], [each.pss_bytes for each in seen]).slope
