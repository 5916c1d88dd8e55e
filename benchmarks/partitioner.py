"""Time, memory and gain of the exact partitioner on Zipf tables: `python benchmarks/partitioner.py [ROWS ...]`.

First one table of each size (default: 2, 5, 10 and 20 M rows), then whole plans of ten tables of 20 M rows, each in a
process of its own: alike, and all different in accesses and pooling. Goals: 3 s for one table, 30 s and 4 GB for ten.
"""

from __future__ import annotations

import multiprocessing
import resource
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from repo_builder.model.dlrm import DlrmTable
from repo_builder.partition.bounds import coarse_bounds
from repo_builder.partition.cost import DEFAULT_PROFILE, CostModel, RowCache, ServiceTime
from repo_builder.partition.dp import partition
from repo_builder.partition.order import Order
from repo_builder.partition.plan import S_MAX, Grouping
from repo_builder.partition.planner import make_plan
from repo_builder.partition.priced import PricedOrder
from repo_builder.spec import Spec, load_spec

SPEC = Path(__file__).parent.parent / "examples" / "paper" / "rm1.yaml"

ROW_BYTES = 128
LEVELS = RowCache(1 << 19, 1e-8), RowCache(1 << 22, 1.5e-8), RowCache(1 << 25, 3e-8)
MODEL = CostModel(100_000.0, ServiceTime(2e-5, 5e-8), 10**6, 0, RowCache(1 << 25, 3.5e-8), LEVELS)
"""Some 160 replicas of a whole table."""
GATHERS = 41_000


def zipf_prefix(rows: int, alpha: float = 1.05) -> NDArray[np.float64]:
    """(rows + 1,) float64: gathers per query of the hottest rows."""
    sums = np.cumsum(np.arange(1, rows + 1) ** -alpha)
    return np.concatenate([[0.0], sums * (GATHERS / sums[-1])])


def binned_cost(priced: PricedOrder, bins: int) -> float:
    """The best cost with cuts at the ends of equal bins only, as the paper's dynamic program coarsens them."""
    positions = np.linspace(0, priced.order.rows, bins + 1).astype(np.int64)
    best = np.append(0.0, np.full(bins, np.inf))
    answer = np.inf
    for _ in range(S_MAX):
        new = np.full_like(best, np.inf)
        for j in range(1, len(best)):
            new[j] = np.min(best[:j] + priced.costs(positions[:j], positions[j : j + 1]))
        best, answer = new, min(answer, float(new[-1]))
    return answer


class ZipfHotness:
    """Zipf accesses: one CDF for all tables alike, else an exponent of its own for each; ids as they are."""

    def __init__(self, tables: tuple[DlrmTable, ...], alike: bool) -> None:
        distinct = {} if alike else {table.name: i for i, table in enumerate(tables)}
        cdfs = {i: self._cdf(tables[0].rows, 1.05 - 0.03 * i) for i in (0, *distinct.values())}
        self._cdfs = {table.name: cdfs[distinct.get(table.name, 0)] for table in tables}

    def cdf(self, table: DlrmTable) -> NDArray[np.float64]:
        """See Hotness.cdf."""
        return self._cdfs[table.name]

    def order(self, table: DlrmTable) -> NDArray[np.uint32]:
        """See Hotness.order."""
        return np.arange(table.rows, dtype=np.uint32)

    @staticmethod
    def _cdf(rows: int, alpha: float) -> NDArray[np.float64]:
        cdf = zipf_prefix(rows, alpha) / GATHERS
        cdf[-1] = 1.0
        return cdf


def ten_tables(alike: bool, grouping: Grouping) -> tuple[float, int, int]:
    """Seconds of a plan, this process's peak in MB, and the plan's embedding services."""
    spec = load_spec(SPEC)
    if not alike:
        tables = tuple(replace(table, pooling=table.pooling - 7 * i) for i, table in enumerate(spec.dlrm.tables))
        spec = Spec.of_dlrm(spec.name, replace(spec.form, tables=tables), spec.access, spec.serving, spec.fleet)
    hotness = ZipfHotness(spec.dlrm.tables, alike)
    started = time.perf_counter()
    plan = make_plan(spec, hotness, DEFAULT_PROFILE, grouping, S_MAX)
    seconds = time.perf_counter() - started
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return seconds, peak_mb, len(plan.embedding_services)


def main(sizes: list[int]) -> None:
    """Print both tables."""
    one_table(sizes)
    print("\nten tables of 20 M rows          seconds  peak RSS MB  services")
    spawn = multiprocessing.get_context("spawn")
    groupings: tuple[Grouping, ...] = ("per_table", "tiered")
    for alike in (True, False):
        for grouping in groupings:
            with ProcessPoolExecutor(1, mp_context=spawn) as process:
                seconds, peak_mb, services = process.submit(ten_tables, alike, grouping).result()
            name = f"{'alike' if alike else 'all different'}, {grouping}"
            print(f"{name:<30}  {seconds:8.1f}  {peak_mb:11,}  {services:8}", flush=True)


def one_table(sizes: list[int]) -> None:
    """Print a line per size."""
    print("rows         seconds  growth  peak RSS MB  64 bins  1,024 bins  (cost against ours)")
    before = None
    for rows in sizes:
        order = Order(zipf_prefix(rows), ROW_BYTES)
        started = time.perf_counter()
        ours = partition(order, MODEL, S_MAX)
        seconds = time.perf_counter() - started
        priced = PricedOrder(order, MODEL)
        assert coarse_bounds(priced, S_MAX, 256).prefix[S_MAX, -1] <= ours.cost_bytes * (1 + 1e-9)
        ratios = [binned_cost(priced, bins) / ours.cost_bytes for bins in (64, 1024)]
        peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        growth = f"{seconds / before:.2f}" if before else "-"
        print(f"{rows:<12,} {seconds:7.3f}  {growth:>6}  {peak_mb:11,}  {ratios[0]:7.3f}  {ratios[1]:10.3f}")
        before = seconds


if __name__ == "__main__":
    main([int(float(argument)) for argument in sys.argv[1:]] or [2_000_000, 5_000_000, 10_000_000, 20_000_000])
