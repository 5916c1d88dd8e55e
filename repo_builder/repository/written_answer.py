"""What a service's files answer: by its backend's own code, but of the rows alone that a query asks for.

Mapping the files would do as well, but the system maps far more than is touched, and that counts as the build's memory.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from repo_builder.errors import ExportError
from repo_builder.model.arrays import Arrays
from repo_builder.repository.wiring import Holding, at_shard
from triton_backends.embedding_shard.shard import EmbeddingShard, Held, HeldMatrix


def written_answer(folder: Path, holding: Holding, inputs: Arrays) -> dict[str, NDArray[np.float32]]:
    """What a service answers to a query, whose `shard.json` and `weights.bin` are in a folder.

    inputs: as for `EmbeddingShard.answer`. Raises ExportError where it asks for rows that the service does not hold.
    """
    held = Held.open(json.loads((folder / "shard.json").read_text(encoding="utf-8")))
    units = list(_units(held, inputs))
    wanted = [np.unique(_joined([ids for _, each, ids in units if each == i])) for i in range(len(held.matrices))]
    with (folder / "weights.bin").open("rb") as file:
        rows = [_rows(file.fileno(), holding, i, ids) for i, ids in enumerate(wanted)]
    places: dict[str, list[NDArray[np.int32]]] = {}
    for name, matrix, ids in units:
        places.setdefault(name, []).append(np.searchsorted(wanted[matrix], ids).astype(np.int32))
    few = [HeldMatrix(len(ids), matrix.dim, matrix.dtype) for ids, matrix in zip(wanted, held.matrices, strict=True)]
    asked = {**inputs, **{name: _joined(parts)[None] for name, parts in places.items()}}
    return EmbeddingShard(Held(few, held.groups), rows).answer(asked)


def _units(held: Held, inputs: Arrays) -> Iterator[tuple[str, int, NDArray[np.int32]]]:
    """Each unit's ids tensor, the matrix of its rows, and its own ids (nnz,) int32."""
    for group in held.groups:
        name = at_shard("ids", group.group)
        ids, lengths = inputs[name].reshape(-1), inputs[at_shard("lengths", group.group)].reshape(-1)
        rows = (lengths.size - group.unpooled) // (group.bags or 1)
        for unit in group.units:
            own, lengths = np.split(lengths, [rows * unit.bags if unit.bags else 1])
            part, ids = np.split(ids, [int(own.sum())])
            yield name, unit.matrix, part


def _joined(parts: list[NDArray[np.int32]]) -> NDArray[np.int32]:
    return np.concatenate([np.empty(0, np.int32), *parts])


def _rows(file: int, holding: Holding, matrix: int, ids: NDArray[np.int32]) -> NDArray[np.uint8]:
    """Rows (n, row_bytes) of a service's matrix, as they are stored."""
    held, begin_bytes = holding.matrices[matrix], holding.offset_bytes(matrix)
    if ids.size and not 0 <= ids[0] <= ids[-1] < held.rows:
        raise ExportError(f"service {holding.name}: expected rows below {held.rows} in matrix {matrix}, got {ids[-1]}")
    row_bytes = held.format.row_bytes
    found = b"".join(os.pread(file, row_bytes, begin_bytes + row_bytes * place) for place in ids.tolist())
    return np.frombuffer(found, np.uint8).reshape(-1, row_bytes)
