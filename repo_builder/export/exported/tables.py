"""Tables as they lie in a program's file: in blocks, and the rows of some ids."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from repo_builder.export.exported.graph import ProgramGraph
from repo_builder.export.exported.looked_up import Rows
from repo_builder.export.stored import Checkpoint, rows_per_chunk


def joined_blocks(weights: Checkpoint, members: Sequence[str]) -> Iterator[NDArray[np.float32]]:
    """The rows of parameters side by side, in blocks (n, sum of their dims) float32 of about CHUNK_BYTES."""
    if len(members) == 1:
        yield from weights.blocks(members[0])
        return
    rows = weights.tensors[members[0]].shape[0]
    step = rows_per_chunk(sum(weights.tensors[member].shape[1] for member in members))
    readers = [_Reader(weights.blocks(member)) for member in members]
    for begin in range(0, rows, step):
        count = min(step, rows - begin)
        yield np.concatenate([reader.take(count) for reader in readers], axis=1)


class _Reader:
    """Rows in pieces of any size, out of blocks."""

    def __init__(self, blocks: Iterator[NDArray[np.float32]]) -> None:
        self._blocks = blocks
        self._left: NDArray[np.float32] | None = None

    def take(self, count: int) -> NDArray[np.float32]:
        """The next rows."""
        pieces = [] if self._left is None else [self._left]
        while sum(map(len, pieces)) < count:
            pieces.append(next(self._blocks))
        rows = np.concatenate(pieces)
        self._left = rows[count:]
        return rows[:count]


def joined_rows(graph: ProgramGraph, members: Sequence[str]) -> Rows:
    """Reads some rows of parameters side by side, float32."""
    held = {parameter.name: parameter.values for parameter in graph.parameters.values()}

    def rows(ids: NDArray[np.int64]) -> torch.Tensor:
        places = torch.from_numpy(ids)
        with torch.no_grad():
            return torch.cat([held[member].index_select(0, places).to(torch.float32) for member in members], dim=1)

    return rows
