"""An embedding service's rows: a memory-mapped matrix whose bags are summed. Needs numpy alone, not Triton."""

from __future__ import annotations

import json
import mmap
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from triton_backends.kernels import sum_bags


class Shard:
    """The rows of a service, (rows, dim) float32, and what a query of it may be.

    tables: whose bags it sums for a query row; columns: of a query row, whose ids may lie here, the sum of these
    tables' pooling; max_batch_rows: of a query.
    """

    def __init__(self, weights: NDArray[np.float32], tables: int, columns: int, max_batch_rows: int) -> None:
        self.weights = weights
        self.tables = tables
        self.columns = columns
        self.max_batch_rows = max_batch_rows

    @classmethod
    def open(cls, folder: Path) -> Shard:
        """The shard written in `folder`: `shard.json` and `weights.bin`.

        The file is mapped, so that all instances on a machine share its pages, and every page is touched, so that
        ready means resident. Raises ValueError where the file's size is not that of its rows.
        """
        description = json.loads((folder / "shard.json").read_text(encoding="utf-8"))
        rows, dim = description["rows"], description["dim"]
        with (folder / "weights.bin").open("rb") as file:
            pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        if len(pages) != 4 * rows * dim:
            raise ValueError(f"weights.bin: expected {4 * rows * dim} bytes ({rows} rows of {dim}), got {len(pages)}")
        np.frombuffer(pages, np.uint8)[:: mmap.PAGESIZE].max()
        weights = np.frombuffer(pages, np.float32).reshape(rows, dim)
        return cls(weights, description["tables"], description["columns"], description["max_batch_rows"])

    def sums(self, ids: NDArray[np.int32], lengths: NDArray[np.int32]) -> NDArray[np.float32]:
        """The partial sums of a query.

        ids: (1, nnz) int32, rows of this matrix; lengths: (1, batch * tables) int32, how many of them each bag takes.
        Returns (batch, tables * dim) float32. Raises ValueError for ids that are not rows and lengths that do not fit.
        """
        self.check_size(ids.size, lengths.size)
        out = sum_bags(self.weights, ids.reshape(-1), lengths.reshape(-1))
        return out.reshape(-1, self.tables * self.weights.shape[1])

    def check_size(self, count: int, bags: int) -> None:
        """Raise ValueError where so many ids and lengths cannot be a query's, before room is made for its sums."""
        rows, tables, columns = self.max_batch_rows, self.tables, self.columns
        if bags % tables:
            raise ValueError(f"lengths: expected a multiple of {tables}, the tables held here, got {bags}")
        if bags > rows * tables:
            raise ValueError(f"lengths: expected at most {rows * tables} ({rows} rows of {tables} tables), got {bags}")
        if count > rows * columns:
            raise ValueError(f"ids: expected at most {rows * columns} ({rows} rows of {columns} columns), got {count}")


def open_shard(folder: Path, gpu: int | None) -> Shard:
    """The shard in `folder`, served by the CPU, or with its rows in the memory of GPU number `gpu`."""
    shard = Shard.open(folder)
    if gpu is None:
        return shard
    from triton_backends.embedding_shard.torch_shard import TorchShard  # torch is heavy and only a GPU needs it

    return TorchShard(shard, f"cuda:{gpu}")
