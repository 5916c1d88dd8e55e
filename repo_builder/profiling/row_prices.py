"""What a gathered row costs by its bytes, from the processor's caches and from memory.

The kernel that the services run is measured without any server, on rows of several sizes and formats: as many as the
caches hold, and more than that. How its time grows with a row's bytes is fitted; where the line lies is what a row of
the spec's own size takes of a real service, as its id travels and is looked through besides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from repo_builder.machine import last_cache_bytes
from repo_builder.model.types import RowFormat
from repo_builder.output import silent
from repo_builder.partition.accesses import ModelAccesses
from repo_builder.partition.cost import RowCache, ServiceTime
from repo_builder.profiling.points import RowPoint
from repo_builder.repository.row_speed import MATRIX_BYTES, measure_rows

FORMATS = (
    *(RowFormat(dim) for dim in (16, 32, 64, 128, 256)),
    *(RowFormat(dim, "int8") for dim in (32, 64, 128)),
    *(RowFormat(dim, "fp16") for dim in (32, 128)),
)
_LEAST_CACHED_BYTES = 1 << 20


def cached_bytes() -> int:
    """How many bytes of rows the caches hold: those of the last one, if the machine tells."""
    return max(_LEAST_CACHED_BYTES, last_cache_bytes())


def measure_row_points(
    formats: Sequence[RowFormat] = FORMATS, matrix_bytes: int = MATRIX_BYTES
) -> tuple[RowPoint, ...]:
    """A row of each format, on the core that we are on; `matrix_bytes` of rows in float32 come from memory.

    Raises InputError where memory does not hold the rows.
    """
    hit_bytes = cached_bytes() // 8  # others use the last cache too
    hits, misses = (measure_rows(formats, silent, size_bytes) for size_bytes in (hit_bytes, matrix_bytes))
    return tuple(RowPoint(each, 1 / hits[each], 1 / misses[each]) for each in formats)


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


def row_cache(hit: RowPrice, memory: ServiceTime, mean_s: float, accesses: ModelAccesses) -> RowCache:
    """What the caches hold of all tables, at the price that makes `mean_s` the mean time of a gather with these
    accesses: that is what was measured of a service with all tables. It lies between the kernel's alone and memory's.
    """
    gathers, gathered = accesses.gathered()
    row_bytes, size_bytes = gathered / gathers, cached_bytes()
    share = accesses.hottest(size_bytes, memory)[0] / gathers
    miss_s = memory.rows_s(1.0, row_bytes)
    hit_s = float(np.clip((mean_s - (1 - share) * miss_s) / share, min(hit.seconds(row_bytes), miss_s), miss_s))
    price = hit.through(row_bytes, hit_s, RowPrice(memory.per_row_s, memory.per_byte_s))
    return RowCache(size_bytes, price.per_row_s, price.per_byte_s)
