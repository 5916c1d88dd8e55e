"""Routing: ids per second on one core and bits per row, beside a permutation array, by numpy, in the same run."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

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

from tests.triton_backends.kernel_router import KernelRouter

TABLES, POOLING, BATCH, REPEATS = 10, 128, 32, 40
TIERS = (0.002, 0.03, 0.3)  # shares of the rows where the four shards are cut


def main() -> None:
    """Print a row per size."""
    print(f"{TABLES} tables, 4 shards each, queries of {BATCH} x {TABLES} x {POOLING} ids; medians of {REPEATS}")
    print("rows per table   index   M ids/s   permutation+numpy M ids/s   ratio   bits/row")
    for rows in (200_000, 2_000_000):
        for dtype in (np.int64, np.int32):
            report(rows, dtype)


def report(rows: int, dtype: type[np.signedinteger]) -> None:
    """Measure both in turn, on the same fresh queries."""
    rng = np.random.default_rng(0)
    orders = [rng.permutation(rows) for _ in range(TABLES)]
    shard_of_rows = [shards_of(order) for order in orders]
    maps = [build_id_map(shards, 4).reshape(-1) for shards in shard_of_rows]
    router = KernelRouter(routing_of(rows, maps[0].nbytes), mapped(maps))
    permutations = [permutation_of(shards) for shards in shard_of_rows]
    ours, theirs = [], []
    for _ in range(REPEATS):
        places = [(rng.random((BATCH, POOLING)) ** 8 * rows).astype(np.int64) for _ in orders]
        indices = np.hstack([order[place] for order, place in zip(orders, places, strict=True)]).astype(dtype)
        ours.append(seconds(partial(router.route, {"indices": indices})))
        theirs.append(seconds(partial(route_by_permutation, indices, permutations)))
    ids = BATCH * TABLES * POOLING / 1e6
    fast, slow = ids / np.median(ours), ids / np.median(theirs)
    bits = 8 * sum(each.nbytes for each in maps) / (rows * TABLES)
    print(f"{rows:12,d} {np.dtype(dtype).name:>7} {fast:9.1f} {slow:27.1f} {fast / slow:7.1f} {bits:10.2f}")


def routing_of(rows: int, map_bytes: int) -> Routing:
    """Each table in four shards, a service each; all ids in one tensor, -1 for none."""
    width = TABLES * POOLING
    shards = [tuple(RoutedShard(s, 0, t) for s in range(4)) for t in range(TABLES)]
    return Routing(
        [],
        ["indices"],
        [RoutedTable(f"t{t}", rows, t * map_bytes, 4) for t in range(TABLES)],
        [
            RoutedLookup(f"t{t}", t, 0, 1, 0, 0, width, t * POOLING, POOLING, -1, 0, 0, 1, -1, 1, -1, 0, shards[t])
            for t in range(TABLES)
        ],
        [RoutedUnit(s, 0, TABLES) for s in range(4)],
        [RoutedService(f"tier{s}") for s in range(4)],
        [RoutedGroup("batch")],
    )


def mapped(maps: list[np.ndarray]) -> np.ndarray:
    """The maps as they are served, from a file: page-aligned, so that each block lies in its own cache lines."""
    with tempfile.TemporaryFile() as file:
        np.concatenate(maps).tofile(file)
        return np.memmap(file, np.uint64, mode="r")


def shards_of(order: np.ndarray) -> np.ndarray:
    """Shard numbers by place in the hotness order."""
    shards = np.empty(order.size, np.uint8)
    shards[order] = np.searchsorted([share * order.size for share in TIERS], np.arange(order.size), side="right")
    return shards


def permutation_of(shards: np.ndarray) -> np.ndarray:
    """What the id map replaces: 2 bits of shard and 30 bits of row for each id, 32 bits per row."""
    local = np.empty(shards.size, np.uint32)
    for shard in range(4):
        local[shards == shard] = np.arange(np.count_nonzero(shards == shard))
    return local << 2 | shards


def route_by_permutation(indices: np.ndarray, permutations: list[np.ndarray]) -> list[np.ndarray]:
    """The same work with numpy: look up, then sort the ids to the shards."""
    columns = [permutations[t][indices[:, t * POOLING : (t + 1) * POOLING]] for t in range(TABLES)]
    found = np.hstack(columns)
    shards = found & 3
    return [found[shards == shard] >> 2 for shard in range(4)]


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
