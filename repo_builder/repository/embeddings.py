"""Writing what the plan makes of the embedding tables: the services' rows, and the router's id maps.

A service's matrix holds its shards table after table, each shard's rows in id order. Tables are taken one at a time
and in blocks, so that memory never holds a table's rows: its shard numbers, and its id map, while the next table's
hotness order is turned into the like.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from repo_builder.access.hotness import Hotness
from repo_builder.export.ahead import one_ahead
from repo_builder.export.shards import write_shards
from repo_builder.export.weights import WeightSource
from repo_builder.model.dlrm import DlrmTable
from repo_builder.partition.plan import Plan, Shard
from repo_builder.repository.configs import MAX_BATCH_ROWS, held_tables, model_name
from repo_builder.repository.files import HashedFile
from repo_builder.repository.manifest import FileEntry
from repo_builder.spec import Spec
from triton_backends.router.idmap import build_id_map
from triton_backends.router.routing import Placement, RoutedService, RoutedTable


@dataclass(frozen=True, slots=True)
class _PlacedTable:
    """A table's shards, hottest first, each with the place of its service in the plan; and each row's shard.

    shard_of_row: (rows,) uint8. id_map: (blocks, block words) uint64, as `build_id_map` makes it.
    """

    table: DlrmTable
    shards: list[tuple[int, Shard]]
    shard_of_row: NDArray[np.uint8]
    id_map: NDArray[np.uint64]


def write_embeddings(
    spec: Spec,
    plan: Plan,
    hotness: Hotness,
    weights: WeightSource,
    folder: Path,
    pool: ThreadPoolExecutor,
    done_bytes: Callable[[int], None],
) -> list[FileEntry]:
    """Write every service's `weights.bin` and `shard.json`, and the router's `idmap.bin` and `router.json`.

    `done_bytes` is called with the bytes of each block of rows read. Returns the new files.
    """
    services = plan.embedding_services
    paths = [f"{model_name(spec, service.name)}/1" for service in services]
    router = f"{model_name(spec, 'router')}/1"
    with ExitStack() as stack:
        id_maps = stack.enter_context(HashedFile(folder, f"{router}/idmap.bin", pool))
        files = [stack.enter_context(HashedFile(folder, f"{path}/weights.bin", pool)) for path in paths]
        rows = [0] * len(services)  # written so far
        routed: list[RoutedTable] = []
        map_offset = 0
        placed_tables = stack.enter_context(closing(one_ahead(_placed(plan, hotness, table) for table in spec.tables)))
        for t, placed in enumerate(placed_tables):
            table = placed.table
            shards = tuple(Placement(k, rows[k], held_tables(spec, services[k]).index(t)) for k, _ in placed.shards)
            routed.append(
                RoutedTable(table.name, table.rows, table.pooling, map_offset, shards, int(table.mode == "mean"))
            )
            map_offset += id_maps.write(placed.id_map)
            blocks = _counted(weights.table_chunks(spec.model.tables[t]), done_bytes)
            write_shards(blocks, placed.shard_of_row, [files[k] for k, _ in placed.shards])
            for k, shard in placed.shards:
                rows[k] += shard.rows
        entries = [id_maps.entry(), *(file.entry() for file in files)]
    description = {
        "tables": [asdict(table) for table in routed],
        "services": [asdict(RoutedService(service.name, len(service.shards))) for service in services],
    }
    entries.append(write_json(folder, f"{router}/router.json", description, pool))
    for path, service, count in zip(paths, services, rows, strict=True):
        held = held_tables(spec, service)
        shard_description = {
            "rows": count,
            "dim": spec.dim,
            "tables": len(held),
            "columns": sum(spec.tables[t].pooling for t in held),
            "max_batch_rows": MAX_BATCH_ROWS,
        }
        entries.append(write_json(folder, f"{path}/shard.json", shard_description, pool))
    return entries


def write_json(folder: Path, path: str, document: object, pool: ThreadPoolExecutor) -> FileEntry:
    """Write a small JSON file."""
    return write_bytes(folder, path, (json.dumps(document, indent=1) + "\n").encode(), pool)


def write_bytes(folder: Path, path: str, data: bytes, pool: ThreadPoolExecutor) -> FileEntry:
    """Write a small file."""
    with HashedFile(folder, path, pool) as file:
        file.write(data)
        return file.entry()


def _placed(plan: Plan, hotness: Hotness, table: DlrmTable) -> _PlacedTable:
    shards = [
        (k, shard)
        for k, service in enumerate(plan.embedding_services)
        for shard in service.shards
        if shard.table == table.name
    ]
    shards.sort(key=lambda item: item[1].begin)
    shard_of_row = _shard_of_row(hotness.order(table), [shard for _, shard in shards])
    return _PlacedTable(table, shards, shard_of_row, build_id_map(shard_of_row, len(shards)))


def _shard_of_row(order: NDArray[np.uint32], shards: list[Shard]) -> NDArray[np.uint8]:
    """The place in `shards` (hottest first) of the shard that holds each row: (rows,) uint8."""
    coldest = len(shards) - 1  # most rows are its: they are filled in, the others set one by one
    shard_of_row = np.full(order.size, coldest, np.uint8)
    for i, shard in enumerate(shards[:coldest]):
        shard_of_row[order[shard.begin : shard.end]] = i
    return shard_of_row


def _counted(blocks: Iterator[NDArray[np.float32]], done_bytes: Callable[[int], None]) -> Iterator[NDArray[np.float32]]:
    for block in blocks:
        yield block
        done_bytes(block.nbytes)
