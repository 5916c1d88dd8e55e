"""What a server's processes hold over time, and whether it grows."""

import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - where Triton's Python backend has its regions
WARM_UP = 0.2  # share of a run in which caches fill and threads start
LIMITS = {"pss_bytes": 4 * 2**20, "files": 4, "threads": 4, "regions": 0, "region_bytes": 0}
PSS_SHARE = 0.01  # of the memory, more than its limit


@dataclass(frozen=True)
class Held:
    """At a time: PSS, open files and threads of some processes; and their regions of shared memory, with their size."""

    time_s: float
    pss_bytes: int
    files: int
    threads: int
    regions: int
    region_bytes: int


def held(processes: Sequence[psutil.Process], prefix: str, time_s: float) -> Held:
    """Now. prefix: how the names of the regions begin."""
    regions = [path.stat() for path in SHARED_MEMORY.glob(f"{prefix}*")]
    return Held(
        time_s,
        sum(process.memory_full_info().pss for process in processes),
        sum(process.num_fds() for process in processes),
        sum(process.num_threads() for process in processes),
        len(regions),
        sum(region.st_blocks * 512 for region in regions),
    )


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


def grown(seen: Sequence[Held]) -> list[str]:
    """What grew after the warm-up, from the first third of the rest to its last, by medians; a line each."""
    rest = seen[int(WARM_UP * len(seen)) :]
    third = len(rest) // 3
    problems = []
    for name, limit in LIMITS.items():
        first, last = (
            statistics.median(getattr(each, name) for each in part) for part in (rest[:third], rest[-third:])
        )
        most = limit + (PSS_SHARE * first if name == "pss_bytes" else 0)
        if last - first > most:
            problems.append(f"{name}: expected at most {most:g} more, got {last - first:g} more than {first:g}")
    return problems


def pss_slope(seen: Sequence[Held]) -> float:
    """Bytes of PSS an hour, by least squares, after the warm-up."""
    rest = seen[int(WARM_UP * len(seen)) :]
    return 3600 * statistics.linear_regression([each.time_s for each in rest], [each.pss_bytes for each in rest]).slope
