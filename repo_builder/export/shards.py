"""Cutting a table into its shards' files: flat float32 rows, little-endian, in id order within a shard."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

_PIECE_BYTES = 4 * 1024**2  # rows sorted at a time: few enough to stay in the processor's cache, many enough a write


def write_shards(
    chunks: Iterator[NDArray[np.float32]], shard_of_row: NDArray[np.uint8], outputs: Sequence[BinaryIO]
) -> None:
    """Append each row of a table to the file of its shard.

    chunks: the table's rows in id order, in blocks (n, dim) float32. shard_of_row: (rows,) uint8, each below
    len(outputs). outputs: one file a shard, open for writing in binary; unbuffered ones save a copy.
    The next block is read while one is written, so two blocks are in memory. Raises ValueError when the shard numbers
    do not fit the outputs or the rows; then the files hold a part of the table.
    """
    if len(shard_of_row) and int(shard_of_row.max()) >= len(outputs):
        raise ValueError(f"expected shard numbers below {len(outputs)}, got {shard_of_row.max()}")
    begin = 0
    with ThreadPoolExecutor(max_workers=1) as reader:
        coming = reader.submit(next, chunks, None)
        while (block := coming.result()) is not None:
            coming = reader.submit(next, chunks, None)
            end = begin + len(block)
            if end > len(shard_of_row):
                break
            _write_block(block, shard_of_row[begin:end], outputs)
            begin = end
    if block is not None or begin != len(shard_of_row):
        raise ValueError(f"expected {len(shard_of_row)} rows, one for each shard number, got {begin} or more than fit")


def _write_block(block: NDArray[np.float32], shards: NDArray[np.uint8], outputs: Sequence[BinaryIO]) -> None:
    """Write (n, dim) rows to the files named by their (n,) shard numbers."""
    if not len(block):
        return
    low, high = int(shards.min()), int(shards.max())
    if low == high:
        _write(outputs[low], block)
        return
    step = max(1, _PIECE_BYTES // (4 * block.shape[1]))
    piece_sorted = np.empty((min(step, len(block)), block.shape[1]), np.float32)
    for begin in range(0, len(block), step):
        rows, numbers = block[begin : begin + step], shards[begin : begin + step]
        order = np.argsort(numbers, kind="stable")  # a radix sort on bytes; stable keeps the id order
        np.take(rows, order, axis=0, out=piece_sorted[: len(rows)], mode="clip")  # clip: no bounds check, no copy
        _write_runs(piece_sorted[: len(rows)], np.bincount(numbers, minlength=len(outputs)), outputs)


def _write_runs(rows: NDArray[np.float32], counts: NDArray[np.intp], outputs: Sequence[BinaryIO]) -> None:
    """Write the first counts[0] rows to outputs[0], the next counts[1] to outputs[1], ..."""
    ends = np.cumsum(counts)
    for output, count, end in zip(outputs, counts, ends, strict=True):
        if count:
            _write(output, rows[end - count : end])


def _write(output: BinaryIO, rows: NDArray[np.float32]) -> None:
    view = rows.reshape(-1).view(np.uint8).data
    written = 0
    while written < len(view):  # an unbuffered file may take a part only
        written += output.write(view[written:])
