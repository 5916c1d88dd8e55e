"""What a gathered row costs by its bytes, from each level of the processor's caches and from memory.

The kernel that the services run is measured without any server, on rows of several sizes and formats: as many as a
level holds, and more than all do. How its time grows with a row's bytes is fitted; where the line lies is what a row of
the spec's own size takes of a real service, as its id travels and is looked through besides: one that is asked for such
rows alone, or, where the caches hold some rows of a large service, for rows as the spec's accesses draw them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from repo_builder.machine import cache_sizes
from repo_builder.model.types import RowFormat
from repo_builder.output import silent
from repo_builder.partition.accesses import ModelAccesses
from repo_builder.partition.cost import RowCache, ServiceTime
from repo_builder.profiling.points import RowPoint, asked_bytes
from repo_builder.repository.row_speed import MATRIX_BYTES, measure_rows

FORMATS = (
    *(RowFormat(dim) for dim in (16, 32, 64, 128, 256)),
    *(RowFormat(dim, "int8") for dim in (32, 64, 128)),
    *(RowFormat(dim, "fp16") for dim in (32, 128)),
)
_UNTOLD = (1 << 20,)
_FAR = 8  # times larger


def cache_levels() -> tuple[int, ...]:
    """How many bytes of rows each level holds: the caches behind a core's first one, and, halfway to one that is far
    larger, as many as the processor finds without a look at the page table. A small cache where the machine tells none.
    """
    first, *others = cache_sizes() or _UNTOLD
    sizes = others or [first]
    between = [math.isqrt(near * far) for near, far in pairwise(sizes) if far > _FAR * near]
    return tuple(sorted(sizes + between))


def measure_row_points(
    levels: Sequence[int], formats: Sequence[RowFormat] = FORMATS, matrix_bytes: int = MATRIX_BYTES
) -> tuple[RowPoint, ...]:
    """A row of each format, on the core that we are on, from caches of so many bytes; `matrix_bytes` of rows in float32
    come from memory.

    Raises InputError where memory does not hold the rows.
    """
    *hits, misses = (measure_rows(formats, silent, size) for size in (*map(asked_bytes, levels), matrix_bytes))
    return tuple(RowPoint(each, tuple(1 / found[each] for found in hits), 1 / misses[each]) for each in formats)


@dataclass(frozen=True, slots=True)
class RowPrice:
    """A row's seconds: affine in its bytes."""

    per_row_s: float
    per_byte_s: float

    def seconds(self, row_bytes: float) -> float:
        """Of a row of so many bytes."""
        return self.per_row_s + self.per_byte_s * row_bytes

    def through(self, row_bytes: float, seconds: float, most: RowPrice | None = None) -> RowPrice:
        """With this time of a row of so many bytes, and the same time a byte as far as both stay between 0 and `most`,
        which takes no less for such a row.
        """
        most = most or RowPrice(seconds, seconds)
        least_byte_s = (seconds - most.per_row_s) / row_bytes
        per_byte_s = max(least_byte_s, min(self.per_byte_s, most.per_byte_s, seconds / row_bytes))
        return RowPrice(min(seconds - per_byte_s * row_bytes, most.per_row_s), min(per_byte_s, most.per_byte_s))


def row_cache(size_bytes: int, hit: RowPrice, memory: ServiceTime, mean_s: float, accesses: ModelAccesses) -> RowCache:
    """What the caches, of so many bytes, hold of a service with all tables, at the price that makes `mean_s` the mean
    time of a gather with these accesses: that is what was measured of one. It lies between the kernel's alone and
    memory's.
    """
    gathers, gathered = accesses.gathered()
    row_bytes = gathered / gathers
    share = accesses.hottest(size_bytes, memory)[0] / gathers
    miss_s = memory.rows_s(1.0, row_bytes)
    hit_s = float(np.clip((mean_s - (1 - share) * miss_s) / share, min(hit.seconds(row_bytes), miss_s), miss_s))
    price = hit.through(row_bytes, hit_s, RowPrice(memory.per_row_s, memory.per_byte_s))
    return RowCache(size_bytes, price.per_row_s, price.per_byte_s)


def row_levels(
    sizes: Sequence[int], hits: Sequence[RowPrice], row_bytes: float, row_s: Sequence[float], cache: RowCache
) -> tuple[RowCache, ...]:
    """Levels of so many bytes, whose rows take the kernel `hits`, and a service that holds no others, those of
    `row_bytes`, `row_s`. No row takes less than the kernel alone takes for it, nor more than one of the next level, or
    than `cache` says.
    """
    found: list[RowCache] = []
    beyond = RowPrice(cache.per_row_s, cache.per_byte_s)
    for size_bytes, hit, seconds in zip(sizes[::-1], hits[::-1], row_s[::-1], strict=True):
        most_s = beyond.seconds(row_bytes)
        beyond = hit.through(row_bytes, min(max(seconds, hit.seconds(row_bytes)), most_s), beyond)
        found.append(RowCache(size_bytes, beyond.per_row_s, beyond.per_byte_s))
    return tuple(reversed(found))
