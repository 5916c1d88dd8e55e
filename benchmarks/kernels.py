"""The shard kernel: rows per second on one core, and what a process that serves it holds in memory, beside its rivals.

All are timed in turn on fresh ids of a power law, whose hottest 10% of the rows take 90%. numba is measured where it is
installed.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from repo_builder.access.powerlaw import powerlaw_cdf, solve_alpha
from triton_backends.kernels import sum_bags

BAGS, POOLING, DIM, REPEATS, LOCALITY = 320, 128, 32, 60, 0.9
Kernel = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def by_torch(weights: np.ndarray, ids: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """torch.nn.functional.embedding_bag."""
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return torch.nn.functional.embedding_bag(
        torch.from_numpy(ids),
        torch.from_numpy(weights),
        torch.from_numpy(offsets),
        mode="sum",
        include_last_offset=True,
    ).numpy()


def by_numpy(weights: np.ndarray, ids: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """take and reduceat (no empty bags here)."""
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    return np.add.reduceat(weights.take(ids, 0), starts, 0)


def kernels() -> dict[str, tuple[Kernel, str]]:
    """Name -> kernel and the import that a process needs for it."""
    found: dict[str, tuple[Kernel, str]] = {
        "C by ctypes (ours)": (sum_bags, "import triton_backends.kernels"),
        "torch embedding_bag": (by_torch, "import torch"),
        "numpy take+reduceat": (by_numpy, "import numpy"),
    }
    try:
        import numba
    except ImportError:
        return found

    @numba.njit
    def by_numba(weights: Any, ids: Any, lengths: Any) -> Any:
        out = np.zeros((lengths.size, weights.shape[1]), np.float32)
        place = 0
        for bag in range(lengths.size):
            for _ in range(lengths[bag]):
                row = ids[place]
                place += 1
                for column in range(weights.shape[1]):
                    out[bag, column] += weights[row, column]
        return out

    found["numba loop"] = (by_numba, "import numba")
    return found


def main() -> None:
    """Print speeds by table size, then memory."""
    torch.set_num_threads(1)
    rivals = kernels()
    print(
        f"sums of {BAGS} bags of {POOLING} rows, dim {DIM}, locality {LOCALITY}; M rows/s a core, medians of {REPEATS}"
    )
    sizes = (2_000, 200_000, 2_000_000, 8_000_000)
    speeds = {rows: speeds_at(rows, {name: kernel for name, (kernel, _) in rivals.items()}) for rows in sizes}
    base = resident_mb("import sys")
    print(f"{'kernel':<22}" + "".join(f"{rows:>12,d} rows" for rows in sizes) + "   process memory")
    for name, (_, imports) in rivals.items():
        row = "".join(f"{speeds[rows][name]:17.1f}" for rows in sizes)
        print(f"{name:<22}{row}   +{resident_mb(imports) - base:.0f} MB")


def speeds_at(rows: int, rivals: dict[str, Kernel]) -> dict[str, float]:
    """M rows/s of each, by the median."""
    rng = np.random.default_rng(0)
    weights = rng.random((rows, DIM), np.float32)
    lengths = np.full(BAGS, POOLING, np.int32)
    cdf, order = powerlaw_cdf(rows, solve_alpha(rows, LOCALITY))[1:], rng.permutation(rows)
    spent: dict[str, list[float]] = {name: [] for name in rivals}
    for repeat in range(REPEATS + 1):
        answers, ids = [], np.empty(0, np.int32)
        for name, kernel in rivals.items():
            if repeat or not ids.size:  # the first time the same ids for all; then others, whose cold rows are cold
                ids = order[np.searchsorted(cdf, rng.random(BAGS * POOLING), "right")].astype(np.int32)
            start = time.perf_counter()
            answers.append(kernel(weights, ids, lengths))
            spent[name].append(time.perf_counter() - start)
        if repeat == 0:
            for answer in answers[1:]:
                np.testing.assert_allclose(answer, answers[0], rtol=1e-3)
    return {name: BAGS * POOLING / float(np.median(times[1:])) / 1e6 for name, times in spent.items()}


def resident_mb(imports: str) -> float:
    """Private and shared resident memory of a fresh interpreter after the imports."""
    program = f"{imports}\nprint(open('/proc/self/statm').read().split()[1])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return int(done.stdout) * 4096 / 1e6


if __name__ == "__main__":
    main()
