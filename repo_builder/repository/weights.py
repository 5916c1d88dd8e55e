"""Writing a model's weights, the tables and the dense layers at the same time.

A service's matrix holds its shards table after table, each shard's rows in id order, in the service's own format.
Tables are taken one at a time, format by format, and in blocks: each file is written from its begin to its end, and
memory never holds a table's rows: its shard numbers, and its id map, while the next table's hotness order is turned
into the like.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from threading import Event
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from repo_builder.access.hotness import Hotness
from repo_builder.errors import CheckpointError
from repo_builder.export.scalars import serve_scalars
from repo_builder.model.source import Source
from repo_builder.model.types import Model, RowDtype, RowFormat, Table
from repo_builder.output import Progress
from repo_builder.partition.plan import Shard
from repo_builder.repository.descriptions import router_description, shard_description, shards_of
from repo_builder.repository.design import Design
from repo_builder.repository.files import HashedFile, write_json
from repo_builder.repository.manifest import FileEntry, entry_of
from repo_builder.repository.stored_rows import UnstorableError, stored_rows
from repo_builder.repository.wiring import MATRIX_ALIGNMENT, Holding, matrix_order
from triton_backends.router.idmap import build_id_map

Item = TypeVar("Item")


class _End(Enum):
    END = None


def one_ahead(items: Iterator[Item]) -> Generator[Item, None, None]:
    """The same items; while the caller has one, the next one is made in a thread.

    So three of them may be in memory: the caller's last, its present one and the next. An error reaches the caller in
    the place of the item. Close it where it may be left early, so that its thread ends.
    """
    with ThreadPoolExecutor(1) as worker:
        coming = worker.submit(next, items, _End.END)
        while (item := coming.result()) is not _End.END:
            coming = worker.submit(next, items, _End.END)
            yield item


class Output(Protocol):
    """A file open for writing; it may take a part of the bytes only, and says how many."""

    def write(self, data: memoryview, /) -> int:
        """Append the bytes."""


def write_shards(
    chunks: Iterator[NDArray[Any]],
    shard_of_row: NDArray[np.uint8],
    outputs: Sequence[Output],
    dtypes: Sequence[RowDtype],
) -> None:
    """Append each row of a table to the file of its shard.

    chunks: the table's rows in id order, in blocks as `Source.table_chunks` gives them. shard_of_row: (rows,) uint8,
    each below len(outputs). outputs, dtypes: of each shard its file, open for writing in binary (unbuffered ones save a
    copy), and how rows are stored there. Reading, sorting and encoding go on in a thread beside the writing; some three
    blocks are in memory. Raises ValueError when the shard numbers do not fit the outputs or the rows, UnstorableError
    when numbers do not fit the format; then the files hold a part of the table.
    """
    with closing(one_ahead(_pieces(chunks, shard_of_row, dtypes))) as pieces:
        for piece in pieces:
            for output, rows in zip(outputs, piece, strict=True):
                _write_rows(output, rows)


def _pieces(
    chunks: Iterator[NDArray[Any]], shard_of_row: NDArray[np.uint8], dtypes: Sequence[RowDtype]
) -> Iterator[list[NDArray[np.uint8]]]:
    """The table block by block, each as the rows (n, row_bytes) of every shard in turn."""
    shards = len(dtypes)
    if len(shard_of_row) and int(shard_of_row.max()) >= shards:
        raise ValueError(f"expected shard numbers below {shards}, got {shard_of_row.max()}")
    begin = 0
    for block in chunks:
        numbers = shard_of_row[begin : begin + len(block)]
        begin += len(block)
        if begin > len(shard_of_row):
            break
        yield [stored_rows(rows, dtype) for rows, dtype in zip(_split(block, numbers, shards), dtypes, strict=True)]
    if begin != len(shard_of_row):
        raise ValueError(f"expected {len(shard_of_row)} rows, one for each shard number, got {begin} or more")


def _split(rows: NDArray[Any], numbers: NDArray[np.uint8], shards: int) -> list[NDArray[Any]]:
    """The rows of each shard, in their order, by their shard numbers (n,)."""
    counts = np.bincount(numbers, minlength=shards)
    if counts.max() < len(rows):  # else all belong to one shard, and stand as they should
        order = np.argsort(numbers, kind="stable")  # a radix sort on bytes; stable keeps the id order
        rows = np.take(rows, order, axis=0, mode="clip")  # clip spares a check of each position
    ends = np.cumsum(counts)
    return [rows[end - count : end] for count, end in zip(counts, ends, strict=True)]


def _write_rows(output: Output, rows: NDArray[np.uint8]) -> None:
    view = rows.reshape(-1).data
    written = 0
    while written < len(view):  # an unbuffered file may take a part only
        written += output.write(view[written:])


Seen = Callable[[int, int, NDArray[Any]], None]
"""Told of each block of rows read: its table's position in the model, its first row's id, and the rows as they come."""


@dataclass(frozen=True, slots=True)
class _PlacedTable:
    """A table's shards, hottest first, each with the position of its service in the plan; and each row's shard.

    position: in the model. shard_of_row: (rows,) uint8. id_map: (lines, 8) uint64, of `build_id_map`.
    """

    position: int
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
        came: list[RowFormat | None] = [None] * len(files)  # in which the rows of each file's last matrix do
        for placed in stack.enter_context(closing(one_ahead(_placed_tables(design.model, design.wiring, hotness)))):
            map_offsets[placed.position] = map_offset
            map_offset += id_maps.write(placed.id_map)
            numbers = [k for k, _ in placed.shards]
            for k in numbers:
                if came[k] not in (None, placed.table.format):
                    files[k].pad(MATRIX_ALIGNMENT)
                came[k] = placed.table.format
            dtypes = [design.wiring[k].stored(placed.position).dtype for k in numbers]
            try:
                write_shards(_told(source, placed, seen), placed.shard_of_row, [files[k] for k in numbers], dtypes)
            except UnstorableError as exc:
                raise CheckpointError(f"table {placed.table.name}: {exc}") from exc
        entries = [id_maps.entry(), *(file.entry() for file in files)]
    description = router_description(design.model, design.wiring, map_offsets)
    entries.append(write_json(folder, f"{router}/router.json", description.document(), pool))
    for path, held in zip(services, design.wiring, strict=True):
        entries.append(write_json(folder, f"{path}/shard.json", shard_description(held).document(), pool))
    return entries


def _placed_tables(model: Model, wiring: Sequence[Holding], hotness: Hotness) -> Iterator[_PlacedTable]:
    """The tables in the order in which they are written: those of a format in the model's order."""
    for position, table in sorted(enumerate(model.tables), key=lambda item: matrix_order(item[1].format)):
        shards = shards_of(wiring, table.name)
        shard_of_row = _shard_of_row(hotness.order(table), [shard for _, shard in shards])
        yield _PlacedTable(position, table, shards, shard_of_row, build_id_map(shard_of_row, len(shards)))


def _shard_of_row(order: NDArray[np.uint32], shards: list[Shard]) -> NDArray[np.uint8]:
    """The position in `shards` (hottest first) of the shard that holds each row: (rows,) uint8."""
    coldest = len(shards) - 1  # most rows are its: they are filled in, the others set one by one
    shard_of_row = np.full(order.size, coldest, np.uint8)
    for i, shard in enumerate(shards[:coldest]):
        shard_of_row[order[shard.begin : shard.end]] = i
    return shard_of_row


def _told(source: Source, placed: _PlacedTable, seen: Seen) -> Iterator[NDArray[Any]]:
    begin = 0
    for block in source.table_chunks(placed.table):
        yield block
        seen(placed.position, begin, block)
        begin += len(block)


def write_weights(
    design: Design,
    source: Source,
    hotness: Hotness,
    folder: Path,
    pool: ThreadPoolExecutor,
    progress: Progress,
    seen: Seen,
) -> list[FileEntry]:
    """Write what `write_embeddings` does, and the dense graph. Returns the new files.

    The tables are written in a thread, which calls `progress` with the table bytes done and their total: that work is
    outside Python, torch's exporter's is inside. An error or an interrupt in either ends both, and comes out as it is.
    """
    total_bytes = source.model.size_bytes
    done = 0
    stop = Event()

    def advance(table: int, begin: int, block: NDArray[Any]) -> None:
        nonlocal done
        if stop.is_set():
            raise CancelledError
        seen(table, begin, block)
        done += block.nbytes
        progress(done, total_bytes)

    with ThreadPoolExecutor(1) as worker:
        tables = worker.submit(write_embeddings, design, source, hotness, folder, pool, advance)
        try:
            dense = design.folder(design.dense)
            (folder / dense).mkdir(parents=True)
            names = source.write_dense(design.sums, folder / dense)
            serve_scalars(folder / dense / "model.onnx", (*design.model.dense.inputs, *design.model.outputs))
            return [*tables.result(), *(entry_of(folder, f"{dense}/{name}") for name in names)]
        except BaseException:
            stop.set()
            raise
