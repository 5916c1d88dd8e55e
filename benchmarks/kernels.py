"""The shard kernel: rows per second on one core, and what a process that serves it holds in memory, beside its rivals;
and the same for every format of stored rows, beside PyTorch's operators for rows of FBGEMM's layouts.

All are timed in turn on fresh ids, by their own CPU time; of a power law, whose hottest 10% of the rows take 90%, where
nothing else is said. numba is measured where it is installed.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch

from repo_builder.access.powerlaw import powerlaw_cdf, solve_alpha
from triton_backends.kernels import sum_bags
from triton_backends.kernels.row_formats import ROW_DTYPES, decode_rows, encode_rows, row_bytes

BAGS, POOLING, DIM, REPEATS, LOCALITY = 320, 128, 32, 60, 0.9
BEYOND_CACHES = 1_000_000_000  # bytes
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


def by_torch_packed(dtype: str, stored: np.ndarray, ids: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """torch.ops.quantized.embedding_bag_byte_rowwise_offsets, or of four bits: FBGEMM's kernels."""
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    packed, bags, ends = torch.from_numpy(stored), torch.from_numpy(ids), torch.from_numpy(offsets)
    return PACKED[dtype](packed, bags, ends, include_last_offset=True).numpy()


PACKED = {
    "int8": torch.ops.quantized.embedding_bag_byte_rowwise_offsets,
    "int4": torch.ops.quantized.embedding_bag_4bit_rowwise_offsets,
}


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
    """Print speeds by table size and memory, then speeds by format."""
    torch.set_num_threads(1)
    compare_kernels()
    compare_formats()


def compare_kernels() -> None:
    """Print the kernels' speeds by table size, then memory."""
    rivals = kernels()
    print(
        f"sums of {BAGS} bags of {POOLING} rows, dim {DIM}, locality {LOCALITY}; M rows/s a core, medians of {REPEATS}"
    )
    sizes = (2_000, 200_000, 2_000_000, 8_000_000)
    speeds = {rows: speeds_of_kernels(rows, {name: kernel for name, (kernel, _) in rivals.items()}) for rows in sizes}
    base = resident_mb("import sys")
    print(f"{'kernel':<22}" + "".join(f"{rows:>12,d} rows" for rows in sizes) + "   process memory")
    for name, (_, imports) in rivals.items():
        row = "".join(f"{speeds[rows][name]:17.1f}" for rows in sizes)
        print(f"{name:<22}{row}   +{resident_mb(imports) - base:.0f} MB")


def speeds_of_kernels(rows: int, rivals: dict[str, Kernel]) -> dict[str, float]:
    """M rows/s of each, in a matrix of so many rows."""
    rng = np.random.default_rng(0)
    weights = rng.random((rows, DIM), np.float32)
    lengths = np.full(BAGS, POOLING, np.int32)
    calls = {name: partial(kernel, weights, lengths=lengths) for name, kernel in rivals.items()}
    draw = skewed_ids(rng, rows)
    ids = draw()
    for call in calls.values():
        np.testing.assert_allclose(call(ids=ids), by_numpy(weights, ids, lengths), rtol=1e-3)
    return speeds_at(calls, draw)


def skewed_ids(rng: np.random.Generator, rows: int) -> Callable[[], np.ndarray]:
    """Draws a query's ids from a power law."""
    cdf, order = powerlaw_cdf(rows, solve_alpha(rows, LOCALITY))[1:], rng.permutation(rows)
    return lambda: order[np.searchsorted(cdf, rng.random(BAGS * POOLING), "right")].astype(np.int32)


def speeds_at(calls: dict[str, Callable[..., np.ndarray]], draw: Callable[[], np.ndarray]) -> dict[str, float]:
    """M rows/s of each, by the median."""
    spent: dict[str, list[float]] = {name: [] for name in calls}
    order = np.random.default_rng(0)
    for _ in range(REPEATS + 1):
        for name in order.permutation(list(calls)):  # who comes second finds the same matrix' pages mapped
            ids = draw()  # others each time, whose cold rows are cold
            start = time.thread_time()
            calls[name](ids=ids)
            spent[name].append(time.thread_time() - start)
    return {name: BAGS * POOLING / float(np.median(times[1:])) / 1e6 for name, times in spent.items()}


def compare_formats() -> None:
    """Print every format's speeds by dim, in the caches and from memory, and the bytes of a row."""
    print(f"\nM rows/s a core by format (and times FP32's); torch: embedding_bag and its {', '.join(PACKED)} kin")
    for dim in (32, 64, 128):
        cases = {
            "in the caches": speeds_of_formats(dim, 2_000, uniform=False),
            f"{BEYOND_CACHES / 1e9:g} GB of FP32, skewed": speeds_of_formats(
                dim, BEYOND_CACHES // dim // 4, uniform=False
            ),
            "uniform ids": speeds_of_formats(dim, BEYOND_CACHES // dim // 4, uniform=True),
        }
        print(f"dim {dim:<18}bytes" + "".join(f"{case:>28}" for case in cases))
        for name in next(iter(cases.values())):
            size = row_bytes(dim, name.split()[0])
            cells = "".join(
                f"{speeds[name]:19.1f} ({speeds[name] / speeds['fp32']:4.2f}x)" for speeds in cases.values()
            )
            print(f"{name:<22}{size:>6}{cells}")


def speeds_of_formats(dim: int, rows: int, uniform: bool) -> dict[str, float]:
    """M rows/s of each format, and of torch's operator for it where there is one."""
    rng = np.random.default_rng(0)
    few = rng.standard_normal((min(rows, 50_000), dim)).astype(np.float32)
    lengths = np.full(BAGS, POOLING, np.int32)
    calls: dict[str, Callable[..., np.ndarray]] = {}
    for dtype in ROW_DTYPES:
        stored = np.resize(encode_rows(few, dtype), (rows, row_bytes(dim, dtype)))  # the same rows again and again
        calls[dtype] = partial(sum_bags, stored, lengths=lengths, row=(dim, dtype))
        if dtype == "fp32":
            calls["fp32 torch"] = partial(by_torch, stored.view(np.float32), lengths=lengths)
        if dtype in PACKED:
            calls[f"{dtype} torch"] = partial(by_torch_packed, dtype, stored, lengths=lengths)
    few_ids = rng.integers(0, len(few), BAGS * POOLING).astype(np.int32)
    for name, call in calls.items():
        numbers = decode_rows(encode_rows(few, name.split()[0]), dim, name.split()[0])
        np.testing.assert_allclose(call(ids=few_ids), by_numpy(numbers, few_ids, lengths), rtol=1e-3, atol=1e-3)
    draw = (lambda: rng.integers(0, rows, BAGS * POOLING).astype(np.int32)) if uniform else skewed_ids(rng, rows)
    return speeds_at(calls, draw)


def resident_mb(imports: str) -> float:
    """Private and shared resident memory of a fresh interpreter after the imports."""
    program = f"{imports}\nprint(open('/proc/self/statm').read().split()[1])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return int(done.stdout) * 4096 / 1e6


if __name__ == "__main__":
    main()
