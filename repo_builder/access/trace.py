"""Accesses counted from a trace of ids, in a stream: an array a table (`.npz`) or a column a table (`.parquet`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from repo_builder.access.counted import CountedHotness, Counts
from repo_builder.access.counter import AccessCounter
from repo_builder.access.npz import NpzReader, name_problems, open_npz
from repo_builder.access.progress import Progress, silent
from repo_builder.access.trace_parquet import count_parquet
from repo_builder.errors import AccessError
from repo_builder.spec import Table

_CHUNK_ITEMS = 1 << 20  # 8 MiB of int64 ids at a time


def load_trace(path: Path, tables: Sequence[Table], progress: Progress = silent) -> CountedHotness:
    """Count every table's accesses in a trace, whatever its length, in memory of 4 bytes a row of the tables.

    AccessError lists, of each table, the first problem: no such array or column, one that does not hold integers, an
    id out of range (with its place), or no access at all; and arrays or columns of no table.
    """
    if path.suffix not in _FORMATS:
        got = path.suffix or "no suffix"
        raise AccessError(f"{path}: expected a trace in a {' or '.join(_FORMATS)} file, got {got}")
    counts = _FORMATS[path.suffix](path, tables, progress)
    unseen = [table.name for table in tables if not counts[table.name].any()]
    if unseen:
        raise AccessError(*(f"{path}: {name}: expected at least one access, got none" for name in unseen))
    return CountedHotness(lambda table: counts[table.name])


def count_npz(path: Path, tables: Sequence[Table], progress: Progress) -> dict[str, Counts]:
    """Each table's accesses, (rows,) unsigned integers by table name; the arrays may have any shape."""
    counts: dict[str, Counts] = {}
    with open_npz(path) as reader:
        problems = name_problems(path, "array", reader.names, [table.name for table in tables])
        tables = [table for table in tables if table.name in reader.names]
        advance = _Advance(progress, sum(_ids(reader, table) for table in tables))
        for table in tables:
            try:
                counts[table.name] = _count_array(path, reader, table, advance)
            except AccessError as exc:
                problems += exc.problems
    if problems:
        raise AccessError(*problems)
    return counts


class _Advance:
    """Turns pieces of work into a Progress."""

    def __init__(self, progress: Progress, total: int) -> None:
        self._progress, self._total, self._done = progress, total, 0

    def __call__(self, done: int) -> None:
        self._done += done
        self._progress(self._done, self._total)


def _ids(reader: NpzReader, table: Table) -> int:
    try:
        return reader.header(table.name).size
    except AccessError:
        return 0  # told when the table's turn comes


def _count_array(path: Path, reader: NpzReader, table: Table, advance: Callable[[int], None]) -> Counts:
    header = reader.header(table.name)
    if header.dtype.kind not in "iu":
        raise AccessError(f"{path}: {table.name}: expected integer ids, got dtype {header.dtype}")
    counter = AccessCounter(table.rows)
    begin = 0
    for ids in reader.chunks(table.name, _CHUNK_ITEMS):
        wrong = counter.add(ids)
        if wrong is not None:
            what = f"ids from 0 to {table.rows - 1}, or -1 (padding)"
            place = header.place(begin + wrong)
            raise AccessError(f"{path}: {table.name}: expected {what}, got {ids[wrong]} at {place}")
        begin += len(ids)
        advance(len(ids))
    return counter.counts


_FORMATS: Mapping[str, Callable[[Path, Sequence[Table], Progress], dict[str, Counts]]] = {
    ".npz": count_npz,
    ".parquet": count_parquet,
}
