"""Time, memory and gain of the exact partitioner on Zipf tables: `python benchmarks/partitioner.py [ROWS ...]`."""

from __future__ import annotations

import resource
import sys
import time

import numpy as np
from numpy.typing import NDArray

from repo_builder.partition.bounds import coarse_bounds
from repo_builder.partition.cost import CostModel, ServiceTime
from repo_builder.partition.dp import S_MAX, partition

MODEL = CostModel(100_000.0, ServiceTime(2e-5, 5e-8), 128, 10**6)  # some 200 replicas of a whole table
GATHERS = 41_000


def zipf_prefix(rows: int, alpha: float = 1.05) -> NDArray[np.float64]:
    """(rows + 1,) float64: gathers a query of the hottest rows."""
    sums = np.cumsum(np.arange(1, rows + 1) ** -alpha)
    return np.concatenate([[0.0], sums * (GATHERS / sums[-1])])


def binned_cost(prefix: NDArray[np.float64], bins: int) -> float:
    """The best cost with cuts at the ends of equal bins only, as the paper's dynamic program coarsens them."""
    places = np.linspace(0, len(prefix) - 1, bins + 1).astype(np.int64)
    gathers = prefix[places]
    best = np.append(0.0, np.full(bins, np.inf))
    answer = np.inf
    for _ in range(S_MAX):
        new = np.full_like(best, np.inf)
        for j in range(1, len(best)):
            sizes = (places[j] - places[:j]) * MODEL.row_bytes + MODEL.min_memory_bytes
            new[j] = np.min(best[:j] + MODEL.replica_counts(gathers[j] - gathers[:j]) * sizes)
        best, answer = new, min(answer, float(new[-1]))
    return answer


def main(sizes: list[int]) -> None:
    """Print a line a size."""
    print("rows         seconds  growth  peak RSS MB  64 bins  1,024 bins  (cost against ours)")
    before = None
    for rows in sizes:
        prefix = zipf_prefix(rows)
        started = time.perf_counter()
        ours = partition(prefix, MODEL, S_MAX)
        seconds = time.perf_counter() - started
        assert coarse_bounds(prefix, MODEL, S_MAX, 256).prefix[S_MAX, -1] <= ours.cost_bytes * (1 + 1e-9)
        ratios = [binned_cost(prefix, bins) / ours.cost_bytes for bins in (64, 1024)]
        peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        growth = f"{seconds / before:.2f}" if before else "-"
        print(f"{rows:<12,} {seconds:7.3f}  {growth:>6}  {peak_mb:11,}  {ratios[0]:7.3f}  {ratios[1]:10.3f}")
        before = seconds


if __name__ == "__main__":
    main([int(float(argument)) for argument in sys.argv[1:]] or [2_000_000, 5_000_000, 10_000_000, 20_000_000])
