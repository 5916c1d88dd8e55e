"""Accesses counted from numpy's files: an array a table, or a matrix with a column a table."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from repo_builder.access.counted import Counts
from repo_builder.access.counter import AccessCounter
from repo_builder.access.hotness import AccessedTable
from repo_builder.access.npz import NPY_ARRAY, Header, NpzReader, missing_problems, open_npy, open_npz
from repo_builder.access.progress import Progress
from repo_builder.errors import AccessError

MATRIX = "X_cat"
"""The categorical features of DLRM's preprocessed Criteo data, (N, tables) integers."""

_CHUNK_ITEMS = 1 << 20  # 8 MiB of int64 ids at a time


def count_npz(path: Path, tables: Sequence[AccessedTable], progress: Progress) -> tuple[dict[str, Counts], list[str]]:
    """Each table's accesses, (rows,) unsigned integers by table name, and the names of the arrays of no table.

    An array of a table may have any shape.
    """
    names = [table.name for table in tables]
    with open_npz(path) as reader:
        if holds_matrix(reader, tables):
            return _count_matrix(path, reader, MATRIX, tables, progress), _others(reader, [MATRIX])
        problems = missing_problems(path, "array", reader.names, names)
        tables = [table for table in tables if table.name in reader.names]
        advance = _Advance(progress, sum(_ids(reader, table) for table in tables))
        counts: dict[str, Counts] = {}
        for table in tables:
            try:
                counts[table.name] = _count_array(path, reader, table, advance)
            except AccessError as exc:
                problems += exc.problems
        if problems:
            raise AccessError(*problems)
        return counts, _others(reader, names)


def count_npy(path: Path, tables: Sequence[AccessedTable], progress: Progress) -> tuple[dict[str, Counts], list[str]]:
    """The same of a file that holds nothing but the matrix."""
    with open_npy(path) as reader:
        return _count_matrix(path, reader, NPY_ARRAY, tables, progress), []


def holds_matrix(reader: NpzReader, tables: Sequence[AccessedTable]) -> bool:
    """Whether ids come as DLRM's matrix: arrays that the spec names come first."""
    return MATRIX in reader.names and not {table.name for table in tables} & set(reader.names)


def matrix_pieces(
    path: Path, reader: NpzReader, name: str, tables: Sequence[AccessedTable]
) -> Iterator[tuple[int, int, NDArray[Any]]]:
    """A matrix of ids in pieces: the table's number, the row that a piece begins with, and ids of that column, (n,)."""
    header = _matrix_header(path, reader, name, tables)
    columns, rows = len(tables), header.shape[0]
    if header.fortran:
        row = column = 0
        for chunk in reader.chunks(name, _CHUNK_ITEMS):
            begin = 0
            while begin < len(chunk):
                piece = chunk[begin : begin + rows - row]
                yield column, row, piece
                begin, row = begin + len(piece), row + len(piece)
                if row == rows:
                    column, row = column + 1, 0
        return
    row = 0
    for chunk in reader.chunks(name, max(1, _CHUNK_ITEMS // columns) * columns):
        block = chunk.reshape(-1, columns)
        for column in range(columns):
            yield column, row, block[:, column]
        row += len(block)


def _matrix_header(path: Path, reader: NpzReader, name: str, tables: Sequence[AccessedTable]) -> Header:
    header = reader.header(name)
    if len(header.shape) != 2 or header.shape[1] != len(tables):
        expected = f"a matrix with {len(tables)} columns, one a table in the spec's order"
        raise AccessError(f"{path}: {name}: expected {expected}, got shape {header.shape}")
    if header.dtype.kind not in "iu":
        raise AccessError(f"{path}: {name}: expected integer ids, got dtype {header.dtype}")
    return header


def _count_matrix(
    path: Path, reader: NpzReader, name: str, tables: Sequence[AccessedTable], progress: Progress
) -> dict[str, Counts]:
    counters = [AccessCounter(table.rows) for table in tables]
    problems: dict[int, str] = {}
    advance = _Advance(progress, reader.header(name).size)
    for column, row, ids in matrix_pieces(path, reader, name, tables):
        wrong = None if column in problems else counters[column].add(ids)
        if wrong is not None:
            table, place = tables[column], f"[{row + wrong}, {column}] of {name}"
            problems[column] = f"{path}: {table.name}: expected {_expected(table)}, got {ids[wrong]} at {place}"
        advance(len(ids))
    if problems:
        raise AccessError(*(problems[column] for column in sorted(problems)))
    return {table.name: counter.counts for table, counter in zip(tables, counters, strict=True)}


class _Advance:
    """Turns pieces of work into a Progress."""

    def __init__(self, progress: Progress, total: int) -> None:
        self._progress, self._total, self._done = progress, total, 0

    def __call__(self, done: int) -> None:
        self._done += done
        self._progress(self._done, self._total)


def _others(reader: NpzReader, names: Sequence[str]) -> list[str]:
    return [name for name in dict.fromkeys(reader.names) if name not in set(names)]


def _ids(reader: NpzReader, table: AccessedTable) -> int:
    try:
        return reader.header(table.name).size
    except AccessError:
        return 0  # told when the table's turn comes


def _count_array(path: Path, reader: NpzReader, table: AccessedTable, advance: Callable[[int], None]) -> Counts:
    header = reader.header(table.name)
    if header.dtype.kind not in "iu":
        raise AccessError(f"{path}: {table.name}: expected integer ids, got dtype {header.dtype}")
    counter = AccessCounter(table.rows)
    begin = 0
    for ids in reader.chunks(table.name, _CHUNK_ITEMS):
        wrong = counter.add(ids)
        if wrong is not None:
            place = header.place(begin + wrong)
            raise AccessError(f"{path}: {table.name}: expected {_expected(table)}, got {ids[wrong]} at {place}")
        begin += len(ids)
        advance(len(ids))
    return counter.counts


def _expected(table: AccessedTable) -> str:
    return f"ids from 0 to {table.rows - 1}, or -1 (padding)"
