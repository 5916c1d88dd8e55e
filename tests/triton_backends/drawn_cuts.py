"""Cuts of models with any look-ups: drawn at random, and one of every kind by hand."""

from collections.abc import Sequence

import numpy as np

from tests.triton_backends.lookups import FARAWAY, Cut, Drawn, Query, Region, Source
from triton_backends.router.routing import ENDS, LENGTHS, OFFSETS


def draw_cut(rng: np.random.Generator) -> Cut:
    """A model of some tables, groups and look-ups, in some services."""
    count, services, groups = int(rng.integers(1, 5)), int(rng.integers(1, 4)), int(rng.integers(1, 4))
    dims = rng.choice([1, 2, 3, 8, 17, 64], count)
    rows = [int(rng.choice([1, 7, 300, 1000])) for _ in range(count)]
    tables = [rng.standard_normal((r, int(dim))).astype(np.float32) for r, dim in zip(rows, dims, strict=True)]
    shards = [min(r, int(rng.integers(1, 6))) for r in rows]
    shard_of_rows = [rng.permutation(np.arange(r) % s).astype(np.uint8) for s, r in zip(shards, rows, strict=True)]
    service_of_shards = [rng.integers(0, services, s).tolist() for s in shards]
    sources: list[Source] = []
    lookups: list[Drawn] = []
    for s in range(groups + int(rng.integers(0, 4))):
        source = _draw_source(rng, s if s < groups else int(rng.integers(0, groups)))
        sources.append(source)
        _draw_regions(rng, s, source, rows, lookups)
    return Cut(tables, shard_of_rows, service_of_shards, sources, lookups, groups, services)


def _draw_source(rng: np.random.Generator, group: int) -> Source:
    kind = int(rng.integers(0, 4))
    width = -1 if rng.integers(0, 2) else int(rng.choice([1, 6, 12, 30]))
    dtype = rng.choice([np.int32, np.int64])
    return Source(group, kind, width if kind == 0 else -1, dtype, bool(rng.integers(0, 2)))


def _draw_regions(rng: np.random.Generator, s: int, source: Source, rows: Sequence[int], lookups: list[Drawn]) -> None:
    """One to three regions, each of one or two look-ups."""
    fixed = source.kind == 0 and source.width >= 0
    most = 1 if source.kind == 0 and not fixed else int(rng.integers(1, 4))
    begin = 0
    for r in range(most):
        left = source.width - begin
        if fixed and left < 1:
            break
        bag = -1 if not fixed else 1 if rng.integers(0, 2) else int(rng.integers(1, left + 1))
        repeat = int(rng.integers(1, left // bag + 1)) if fixed else 1
        readers = [int(t) for t in rng.integers(0, len(rows), int(rng.integers(1, 3)))]
        least = min(rows[t] for t in readers)
        padding = rng.choice([None, -1, 0, least - 1, -100, FARAWAY])
        source.regions.append(
            Region(begin, repeat, bag, least, None if padding is None else int(padding), bool(rng.integers(0, 2)))
        )
        for table in readers:
            weighted = bool(source.weighted and rng.integers(0, 2))
            mean = bool(not weighted and rng.integers(0, 2))
            unpooled = bool(bag == 1 and not weighted and rng.integers(0, 3))
            lookups.append(Drawn(f"l{len(lookups)}", table, s, r, mean, weighted, unpooled))
        begin += bag * repeat if fixed else 0


def by_hand() -> tuple[Cut, Query]:
    """A look-up of each kind: three rows of group 0, two of group 1; tables t0 of 10 rows and t1 of 5."""
    rng = np.random.default_rng(0)
    tables = [rng.standard_normal((rows, dim)).astype(np.float32) for rows, dim in ((10, 2), (5, 3))]
    sources = [
        Source(0, 0, 4, np.int64, False, [Region(0, 2, 2, 10, None, True)]),
        Source(0, LENGTHS, -1, np.int32, True, [Region(0, 1, -1, 10, None, False), Region(0, 1, -1, 5, 0, False)]),
        Source(1, OFFSETS, -1, np.int64, False, [Region(0, 1, -1, 10, None, False)]),
        Source(1, ENDS, -1, np.int64, False, [Region(0, 1, -1, 5, None, False)]),
        Source(1, 0, -1, np.int64, False, [Region(0, 1, -1, 10, -1, False)]),
        Source(1, 0, 2, np.int64, False, [Region(0, 2, 1, 5, -1, False)]),
    ]
    lookups = [
        Drawn("l0", 0, 0, 0, False, False),
        Drawn("l1", 0, 1, 0, False, True),
        Drawn("l2", 1, 1, 1, True, False),
        Drawn("t0", 0, 2, 0, False, False),
        Drawn("t1", 1, 3, 0, True, False),
        Drawn("l5", 0, 4, 0, False, False),
        Drawn("l6", 1, 5, 0, False, False, unpooled=True),
    ]
    shard_of_rows = [np.arange(rows, dtype=np.uint8) % 2 for rows in (10, 5)]
    query = {
        "ids0": rng.integers(-10, 10, (3, 4)),
        "ids1": np.array([9, 8, 7, 4, 0], np.int32),
        "bounds1": np.array([1, 2, 0, 1, 1, 0], np.int64),
        "weights1": np.arange(5, dtype=np.float32),
        "ids2": np.array([1, 2, 9]),
        "bounds2": np.array([0, 2]),
        "ids3": np.array([1, 2, 4]),
        "bounds3": np.array([0, 1, 3], np.int32),
        "ids4": np.array([[0, -1, 9], [-1, 3, 3]]),
        "ids5": np.array([[4, -1], [4, 0]]),
    }
    return Cut(tables, shard_of_rows, [[0, 1], [1, 0]], sources, lookups, 2, 2), query
