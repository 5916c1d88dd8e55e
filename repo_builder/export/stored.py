"""Tensors that lie in a checkpoint file, read in blocks and turned into float32 on the way.

Plain reads at known offsets, not a memory map: the pages of a map stay in the process's resident memory, so a build
would grow to the size of the checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repo_builder.errors import CheckpointError

CHUNK_BYTES = 4 * 1024**2
"""Bytes of float32 rows that a table's row block holds, about: what is read, sorted, hashed and written in one go.

Few enough to stay in a processor's cache meanwhile. Writes of 16 MB were measured to take up to six times as long, as
the kernel makes them wait for the disk; reading and sorting blocks of that size take half as long again.
"""


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Where a tensor's values lie in a file, in row-major order; `flaw` says why they cannot be read, if so."""

    key: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    offset_bytes: int
    flaw: str | None = None

    def problem(self) -> str | None:
        """Why this tensor cannot be read as float32, with the remedy; None when it can."""
        if self.flaw is not None:
            return f"{self.key}: {self.flaw}"
        if self.dtype not in _READERS:
            return (
                f"{self.key}: expected {', '.join(_READERS)}, got {self.dtype}; "
                "quantized and integer weights are not supported: save the float weights"
            )
        return None


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint's tensors by key, in one file or in several; nothing of their values is in memory.

    ordered: whether the keys stand in the order in which the model has them.
    """

    path: Path
    tensors: Mapping[str, StoredTensor]
    ordered: bool

    def blocks(self, key: str) -> Iterator[NDArray[np.float32]]:
        """A matrix (rows, dim) in consecutive blocks (n, dim) float32 of about CHUNK_BYTES, in row order.

        float16, bfloat16 and float64 are converted. Raises CheckpointError where the file ends early or a value is not
        finite (in float32: a float64 value past its range counts too).
        """
        yield from self._read(key, self.tensors[key].shape[1])

    def whole(self, key: str) -> NDArray[np.float32]:
        """A whole tensor as float32, in its own shape; for layers, which are small. Raises as `blocks` does."""
        shape = self.tensors[key].shape
        return np.concatenate(list(self._read(key, int(np.prod(shape[1:]))))).reshape(shape)

    def raw_blocks(self, key: str, step: int) -> Iterator[NDArray[Any]]:
        """A tensor in consecutive blocks of `step` of its rows, (n, numbers of a row), as they are in the file.

        bfloat16 as uint16. Raises CheckpointError where the file ends early.
        """
        tensor = self.tensors[key]
        rows, dim = tensor.shape[0], int(np.prod(tensor.shape[1:]))
        with FileIO(tensor.file) as file:
            file.seek(tensor.offset_bytes)
            for begin in range(0, rows, step):
                raw = np.empty((min(step, rows - begin), dim), _STORED[tensor.dtype])
                self._fill(file, raw, key)
                yield raw

    def _read(self, key: str, dim: int) -> Iterator[NDArray[np.float32]]:
        to_float32, begin = _READERS[self.tensors[key].dtype], 0
        for raw in self.raw_blocks(key, rows_per_chunk(dim)):
            block = to_float32(raw)
            self._refuse_non_finite(block, key, begin)
            begin += len(block)
            yield block

    def _fill(self, file: FileIO, raw: NDArray[Any], key: str) -> None:
        view = raw.reshape(-1).view(np.uint8).data
        filled = 0
        while filled < len(view):
            count = file.readinto(view[filled:])
            if not count:
                raise CheckpointError(
                    f"{self.tensors[key].file}: {key}: expected {len(view) - filled} more bytes, got the file's end"
                )
            filled += count

    def _refuse_non_finite(self, block: NDArray[np.float32], key: str, begin: int) -> None:
        with np.errstate(over="ignore", invalid="ignore"):
            total = np.add.reduce(block, axis=None)  # NaN and infinity survive a sum, which is cheaper than looking
        if np.isfinite(total):
            return
        bad = np.argwhere(~np.isfinite(block))
        if len(bad):
            row, column = bad[0]
            raise CheckpointError(
                f"{self.path}: {key}: expected finite float32 values, got {block[row, column]} at row {begin + row}, "
                f"column {column}; the training diverged or the file is damaged: use an earlier checkpoint"
            )


def _as_is(raw: NDArray[Any]) -> NDArray[np.float32]:
    return raw


def _narrowed(raw: NDArray[Any]) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):  # a value past float32's range turns infinite and is refused as such
        return raw.astype(np.float32)


def _from_bfloat16(raw: NDArray[Any]) -> NDArray[np.float32]:
    """A bfloat16 is the upper half of a float32."""
    return (raw.astype(np.uint32) << 16).view(np.float32)


_STORED: Mapping[str, str] = {
    "float32": "<f4",
    "float16": "<f2",
    "bfloat16": "<u2",
    "float64": "<f8",
    "uint8": "u1",
}
_READERS: Mapping[str, Callable[[NDArray[Any]], NDArray[np.float32]]] = {
    "float32": _as_is,
    "float16": _narrowed,
    "bfloat16": _from_bfloat16,
    "float64": _narrowed,
}


def rows_per_chunk(dim: int) -> int:
    """Rows of a block of about CHUNK_BYTES, at least one."""
    return max(1, CHUNK_BYTES // (4 * dim))
