"""Routing: what an id takes on one core, and the id map's bits per row, by how many shards a table has.

The router's C function alone, beside what its map replaces: a permutation of 32 bits per row, looked up by numpy, and
then the ids sorted to the shards. Both see the same fresh queries in turn, so that caches have not seen their ids, and
both have room for the answer.

    python benchmarks/router.py [--rows 200000 4000000] [--repeats 40]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from triton_backends.router.idmap import build_id_map
from triton_backends.router.routing import (
    RoutedGroup,
    RoutedLookup,
    RoutedService,
    RoutedShard,
    RoutedTable,
    RoutedUnit,
    Routing,
)

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.triton_backends import kernel_router

TABLES, POOLING, BATCH = 8, 80, 32  # RM1's
SHARDS = (2, 4, 8, 16)
HOTTEST = 1e-4  # share of a table's rows in the first shard; each other one ends at as many times more
SKEW = 8.0  # ids are drawn at (0 ... 1) ** SKEW of the hotness order

taken_s: list[float] = []
"""By the calls of the C function."""


def timed_route(*arguments: object) -> int:
    """The C function, timed."""
    start = time.perf_counter()
    bad: int = _route(*arguments)
    taken_s.append(time.perf_counter() - start)
    return bad


_route = kernel_router.route
kernel_router.route = timed_route


def main() -> None:
    """Print a row per size and number of shards."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", type=int, default=[200_000, 4_000_000], help="of a table")
    parser.add_argument("--repeats", type=int, default=40)
    args = parser.parse_args()
    print(f"{TABLES} tables, queries of {BATCH} x {TABLES} x {POOLING} ids; medians of {args.repeats}")
    print("rows per table  shards   index   ns an id   permutation + numpy   ratio   bits/row")
    for rows in args.rows:
        for shards in SHARDS:
            for dtype in (np.int64, np.int32):
                report(rows, shards, dtype, args.repeats)


def report(rows: int, shards: int, dtype: type[np.signedinteger], repeats: int) -> None:
    """Measure both in turn."""
    rng = np.random.default_rng(0)
    orders = [rng.permutation(rows) for _ in range(TABLES)]
    shard_of_rows = [shards_of(order, shards) for order in orders]
    maps = [build_id_map(each, shards).reshape(-1) for each in shard_of_rows]
    router = kernel_router.KernelRouter(routing_of(rows, shards, maps[0].nbytes), mapped(maps))
    permutations = [permutation_of(each, shards) for each in shard_of_rows]
    theirs = []
    taken_s.clear()
    for _ in range(repeats):
        places = [(rng.random((BATCH, POOLING)) ** SKEW * rows).astype(np.int64) for _ in orders]
        indices = np.hstack([order[place] for order, place in zip(orders, places, strict=True)]).astype(dtype)
        router.route({"indices": indices})
        theirs.append(seconds(partial(route_by_permutation, indices, permutations, shards)))
    ours_ns, theirs_ns = (1e9 * float(np.median(each)) / (BATCH * TABLES * POOLING) for each in (taken_s, theirs))
    bits = 8 * sum(each.nbytes for each in maps) / (rows * TABLES)
    name = np.dtype(dtype).name
    print(f"{rows:14,d}{shards:8}{name:>8}{ours_ns:11.1f}{theirs_ns:22.1f}{theirs_ns / ours_ns:8.1f}{bits:11.2f}")


def routing_of(rows: int, shards: int, map_bytes: int) -> Routing:
    """Each table in so many shards, a service each; all ids in one tensor, -1 for none."""
    width = TABLES * POOLING
    placed = [tuple(RoutedShard(s, 0, t) for s in range(shards)) for t in range(TABLES)]
    return Routing(
        [],
        ["indices"],
        [RoutedTable(f"t{t}", rows, t * map_bytes, shards) for t in range(TABLES)],
        [
            RoutedLookup(f"t{t}", t, 0, 1, 0, 0, width, t * POOLING, POOLING, -1, 0, 0, 1, -1, 1, -1, 0, placed[t])
            for t in range(TABLES)
        ],
        [RoutedUnit(s, 0, TABLES) for s in range(shards)],
        [RoutedService(f"tier{s}") for s in range(shards)],
        [RoutedGroup("batch")],
    )


def mapped(maps: list[NDArray[np.uint64]]) -> NDArray[np.uint64]:
    """The maps as they are served, from a file: page-aligned, so that each block lies in a cache line of its own."""
    with tempfile.TemporaryFile() as file:
        np.concatenate(maps).tofile(file)
        return np.memmap(file, np.uint64, mode="r")


def shards_of(order: NDArray[np.int64], shards: int) -> NDArray[np.uint8]:
    """Shard numbers by place in the hotness order."""
    ends = np.geomspace(HOTTEST, 1, shards)[:-1] * order.size
    found = np.empty(order.size, np.uint8)
    found[order] = np.searchsorted(ends, np.arange(order.size), side="right")
    return found


def permutation_of(shard_of_row: NDArray[np.uint8], shards: int) -> NDArray[np.uint32]:
    """What the id map replaces: 4 bits of shard and 28 bits of row for each id."""
    local = np.empty(shard_of_row.size, np.uint32)
    for shard in range(shards):
        local[shard_of_row == shard] = np.arange(np.count_nonzero(shard_of_row == shard))
    return local << 4 | shard_of_row


def route_by_permutation(
    indices: NDArray[np.signedinteger], permutations: list[NDArray[np.uint32]], shards: int
) -> list[NDArray[np.uint32]]:
    """The same work with numpy: look up, then sort the ids to the shards."""
    columns = [permutations[t][indices[:, t * POOLING : (t + 1) * POOLING]] for t in range(TABLES)]
    found = np.hstack(columns)
    held = found & 15
    return [found[held == shard] >> 4 for shard in range(shards)]


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
