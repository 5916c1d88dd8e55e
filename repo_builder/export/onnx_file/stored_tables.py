"""The rows of tables, whose members are initializers side by side, as blocks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from repo_builder.errors import CheckpointError
from repo_builder.export.onnx_file.read import external_place, is_external, values
from repo_builder.export.onnx_file.sites import FLOATS
from repo_builder.export.stored import Checkpoint, StoredTensor


class StoredTables:
    """Initializers of a model by name, as matrices of float32; large ones are read from their files when asked for."""

    def __init__(self, path: Path, initializers: Mapping[str, TensorProto]) -> None:
        """path: the model's. initializers: of one or two dimensions; one of one dimension is a column."""
        self._initializers, self._folder = initializers, path.parent
        stored = {name: _stored(tensor, path.parent) for name, tensor in initializers.items() if is_external(tensor)}
        self._checkpoint = Checkpoint(path, stored, ordered=False)

    def chunks(self, members: Sequence[str]) -> Iterator[NDArray[np.float32]]:
        """Rows in id order, in consecutive blocks (n, all members' columns) of about CHUNK_BYTES."""
        if len(members) == 1:
            yield from self._blocks(members[0])
            return
        readers = [self._blocks(member) for member in members]
        blocks = [next(reader) for reader in readers]
        while True:
            count = min(len(block) for block in blocks)
            yield np.concatenate([block[:count] for block in blocks], axis=1)
            blocks = [block[count:] for block in blocks]
            for i, reader in enumerate(readers):
                if not len(blocks[i]):
                    following = next(reader, None)
                    if following is None:
                        return
                    blocks[i] = following

    def _blocks(self, member: str) -> Iterator[NDArray[np.float32]]:
        if member in self._checkpoint.tensors:
            yield from self._checkpoint.blocks(member)
            return
        matrix = self._held(member)
        if not np.isfinite(matrix).all():
            row, column = np.argwhere(~np.isfinite(matrix))[0]
            raise CheckpointError(
                f"{self._checkpoint.path}: {member}: expected finite float32 values, got {matrix[row, column]} at row "
                f"{row}, column {column}; the training diverged or the file is damaged: use an earlier model"
            )
        yield matrix

    def _held(self, member: str) -> NDArray[np.float32]:
        """A small table, whose values are in memory."""
        tensor = self._initializers[member]
        with np.errstate(over="ignore"):  # a value past float32's range turns infinite and is refused as such
            return np.ascontiguousarray(values(tensor, self._folder).astype(np.float32).reshape(tensor.dims[0], -1))


def _stored(tensor: TensorProto, folder: Path) -> StoredTensor:
    location, offset = external_place(tensor)
    rows, numbers = tensor.dims[0], prod(tensor.dims)
    return StoredTensor(tensor.name, FLOATS[tensor.data_type], (rows, numbers // rows), folder / location, offset)
