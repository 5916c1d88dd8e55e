"""Writing what the plan makes of the embedding tables: the services' rows, and the router's id maps.

A service's matrix holds the shards of its format table after table, each shard's rows in id order. Tables are taken one
at a time, dim by dim, and in blocks: each file is written from its begin to its end, and memory never holds a table's
rows: its shard numbers, and its id map, while the next table's hotness order is turned into the like.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from repo_builder.access.hotness import Hotness
from repo_builder.export.ahead import one_ahead
from repo_builder.export.shards import write_shards
from repo_builder.model.source import Source
from repo_builder.model.types import Model, Table
from repo_builder.partition.plan import Shard
from repo_builder.repository.descriptions import router_description, shard_description, shards_of
from repo_builder.repository.design import Design
from repo_builder.repository.files import HashedFile
from repo_builder.repository.manifest import FileEntry
from repo_builder.repository.wiring import MATRIX_ALIGNMENT, Holding
from triton_backends.router.idmap import build_id_map

Seen = Callable[[int, int, NDArray[np.float32]], None]
"""Told of each block of rows read: the place of its table in the model, the id of its first row, the rows (n, dim)."""


@dataclass(frozen=True, slots=True)
class _PlacedTable:
    """A table's shards, hottest first, each with the place of its service in the plan; and each row's shard.

    place: in the model. shard_of_row: (rows,) uint8. id_map: (blocks, block words) uint64, as `build_id_map` makes it.
    """

    place: int
    table: Table
    shards: list[tuple[int, Shard]]
    shard_of_row: NDArray[np.uint8]
    id_map: NDArray[np.uint64]


def write_embeddings(
    design: Design, source: Source, hotness: Hotness, folder: Path, pool: ThreadPoolExecutor, seen: Seen
) -> list[FileEntry]:
    """Write every service's `weights.bin` and `shard.json`, and the router's `idmap.bin` and `router.json`.

    Returns the new files.
    """
    router = design.front_folder("router")
    services = [design.folder(held.service) for held in design.wiring]
    with ExitStack() as stack:
        id_maps = stack.enter_context(HashedFile(folder, f"{router}/idmap.bin", pool))
        files = [stack.enter_context(HashedFile(folder, f"{path}/weights.bin", pool)) for path in services]
        map_offsets: dict[int, int] = {}
        map_offset = 0
        dims = [0] * len(files)  # of each file's last matrix
        for placed in stack.enter_context(closing(one_ahead(_placed_tables(design.model, design.wiring, hotness)))):
            map_offsets[placed.place] = map_offset
            map_offset += id_maps.write(placed.id_map)
            for k, _ in placed.shards:
                if dims[k] not in (0, placed.table.format.dim):
                    files[k].pad(MATRIX_ALIGNMENT)
                dims[k] = placed.table.format.dim
            blocks = _told(source, placed, seen)
            write_shards(blocks, placed.shard_of_row, [files[k] for k, _ in placed.shards])
        entries = [id_maps.entry(), *(file.entry() for file in files)]
    description = router_description(design.model, design.wiring, map_offsets)
    entries.append(write_json(folder, f"{router}/router.json", description.document(), pool))
    for path, held in zip(services, design.wiring, strict=True):
        entries.append(write_json(folder, f"{path}/shard.json", shard_description(held).document(), pool))
    return entries


def write_json(folder: Path, path: str, document: object, pool: ThreadPoolExecutor) -> FileEntry:
    """Write a small JSON file."""
    return write_bytes(folder, path, (json.dumps(document, indent=1) + "\n").encode(), pool)


def write_bytes(folder: Path, path: str, data: bytes, pool: ThreadPoolExecutor) -> FileEntry:
    """Write a small file."""
    with HashedFile(folder, path, pool) as file:
        file.write(data)
        return file.entry()


def _placed_tables(model: Model, wiring: Sequence[Holding], hotness: Hotness) -> Iterator[_PlacedTable]:
    """The tables in the order in which they are written: those of a dim in the model's order, the largest dim first."""
    for place, table in sorted(enumerate(model.tables), key=lambda item: -item[1].format.dim):
        shards = shards_of(wiring, table.name)
        shard_of_row = _shard_of_row(hotness.order(table), [shard for _, shard in shards])
        yield _PlacedTable(place, table, shards, shard_of_row, build_id_map(shard_of_row, len(shards)))


def _shard_of_row(order: NDArray[np.uint32], shards: list[Shard]) -> NDArray[np.uint8]:
    """The place in `shards` (hottest first) of the shard that holds each row: (rows,) uint8."""
    coldest = len(shards) - 1  # most rows are its: they are filled in, the others set one by one
    shard_of_row = np.full(order.size, coldest, np.uint8)
    for i, shard in enumerate(shards[:coldest]):
        shard_of_row[order[shard.begin : shard.end]] = i
    return shard_of_row


def _told(source: Source, placed: _PlacedTable, seen: Seen) -> Iterator[NDArray[np.float32]]:
    begin = 0
    for block in source.table_chunks(placed.table):
        yield block
        seen(placed.place, begin, block)
        begin += len(block)
