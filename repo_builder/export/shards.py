"""Cutting a table into its shards' files: flat float32 rows, little-endian, in id order within a shard."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from repo_builder.export.ahead import one_ahead


class Output(Protocol):
    """A file open for writing; it may take a part of the bytes only, and says how many."""

    def write(self, data: memoryview, /) -> int:
        """Append the bytes."""


def write_shards(
    chunks: Iterator[NDArray[np.float32]], shard_of_row: NDArray[np.uint8], outputs: Sequence[Output]
) -> None:
    """Append each row of a table to the file of its shard.

    chunks: the table's rows in id order, in blocks (n, dim) float32. shard_of_row: (rows,) uint8, each below
    len(outputs). outputs: one file a shard, open for writing in binary; unbuffered ones save a copy.
    Reading and sorting go on in a thread beside the writing; some three blocks are in memory. Raises ValueError when
    the shard numbers do not fit the outputs or the rows; then the files hold a part of the table.
    """
    with closing(one_ahead(_pieces(chunks, shard_of_row, len(outputs)))) as pieces:
        for piece in pieces:
            for output, rows in zip(outputs, piece, strict=True):
                _write(output, rows)


def _pieces(
    chunks: Iterator[NDArray[np.float32]], shard_of_row: NDArray[np.uint8], shards: int
) -> Iterator[list[NDArray[np.float32]]]:
    """The table block by block, each as the rows (n, dim) of every shard in turn."""
    if len(shard_of_row) and int(shard_of_row.max()) >= shards:
        raise ValueError(f"expected shard numbers below {shards}, got {shard_of_row.max()}")
    begin = 0
    for block in chunks:
        numbers = shard_of_row[begin : begin + len(block)]
        begin += len(block)
        if begin > len(shard_of_row):
            break
        yield _split(block, numbers, shards)
    if begin != len(shard_of_row):
        raise ValueError(f"expected {len(shard_of_row)} rows, one for each shard number, got {begin} or more")


def _split(rows: NDArray[np.float32], numbers: NDArray[np.uint8], shards: int) -> list[NDArray[np.float32]]:
    """The rows (n, dim) of each shard, in their order, by their shard numbers (n,)."""
    counts = np.bincount(numbers, minlength=shards)
    if counts.max() < len(rows):  # else all belong to one shard, and stand as they should
        order = np.argsort(numbers, kind="stable")  # a radix sort on bytes; stable keeps the id order
        rows = np.take(rows, order, axis=0, mode="clip")  # clip spares a check of each place
    ends = np.cumsum(counts)
    return [rows[end - count : end] for count, end in zip(counts, ends, strict=True)]


def _write(output: Output, rows: NDArray[np.float32]) -> None:
    view = rows.reshape(-1).view(np.uint8).data
    written = 0
    while written < len(view):  # an unbuffered file may take a part only
        written += output.write(view[written:])
