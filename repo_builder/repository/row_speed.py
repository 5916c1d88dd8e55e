"""How fast the kernel reads rows of each format on this machine: random rows out of memory, a core alone."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from repo_builder.machine import check_memory
from repo_builder.model.types import RowFormat
from repo_builder.output import Progress
from triton_backends.kernels import sum_bags
from triton_backends.kernels.row_formats import encode_rows

MATRIX_BYTES = 256 * 1024**2
"""Of the rows in float32: more than a core's share of any cache. The other formats have as many rows."""

ROUNDS = 7
_IDS, _BAG, _DRAWN_ROWS = 1 << 18, 32, 4096


def measure_rows(
    formats: Sequence[RowFormat], progress: Progress, matrix_bytes: int = MATRIX_BYTES
) -> Mapping[RowFormat, float]:
    """Rows per second of the formats, each at its best of rounds in which they take turns; the thread's own time.

    `progress` counts rounds. Raises InputError where memory does not hold the rows.
    """
    found: dict[RowFormat, float] = {}
    dims = sorted({each.dim for each in formats})
    for done, dim in enumerate(dims):
        found.update(_measure([each for each in formats if each.dim == dim], matrix_bytes, done, len(dims), progress))
    return found


def _measure(
    formats: Sequence[RowFormat], matrix_bytes: int, done: int, dims: int, progress: Progress
) -> Mapping[RowFormat, float]:
    """Of formats of one dim, which is the `done`-th of `dims`."""
    dim, rng = formats[0].dim, np.random.default_rng(0)
    rows = max(1, matrix_bytes // (4 * dim))
    check_memory(sum(rows * each.row_bytes for each in formats), "--row-speed: rows to read", "leave it out")
    drawn = rng.standard_normal((_DRAWN_ROWS, dim), np.float32)
    matrices = {each: _tiled(encode_rows(drawn, each.dtype), rows) for each in formats}
    ids = rng.integers(rows, size=_IDS, dtype=np.int32)
    lengths = np.full(_IDS // _BAG, _BAG, np.int32)
    best = dict.fromkeys(formats, float("inf"))
    for number in range(ROUNDS):
        for each, matrix in matrices.items():
            begin = time.thread_time()
            sum_bags(matrix, ids, lengths, row=(dim, each.dtype))
            best[each] = min(best[each], time.thread_time() - begin)
        progress(done * ROUNDS + number + 1, dims * ROUNDS)
    return {each: _IDS / seconds for each, seconds in best.items()}


def _tiled(stored: NDArray[np.uint8], rows: int) -> NDArray[np.uint8]:
    """So many rows, the same again and again, each in memory of its own."""
    return np.tile(stored, (-(-rows // len(stored)), 1))[:rows]
