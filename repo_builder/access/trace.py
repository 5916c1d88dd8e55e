"""Accesses counted in a trace, in a stream, whatever its length: ids by table, or requests as clients send them.

`load_trace` says which kinds of files there are. What it reads of numpy's stands here: an array per table, or a matrix
with a column per table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repo_builder.access.hotness import (
    AccessCounter,
    AccessedTable,
    CountedHotness,
    Counts,
    counted_hotness,
    some_names,
)
from repo_builder.access.npz import NPY_ARRAY, Header, NpzReader, holds_arrays, missing_problems, open_npy, open_npz
from repo_builder.errors import AccessError, InputError
from repo_builder.model.lookups import ids_read
from repo_builder.model.queries import request_problems
from repo_builder.model.source import Source
from repo_builder.model.types import BATCH, Model
from repo_builder.output import Progress, Tell, nobody, silent

MATRIX = "X_cat"
"""The categorical features of DLRM's preprocessed Criteo data, (N, tables) integers."""

_CHUNK_ITEMS = 1 << 20  # 8 MiB of int64 ids at a time

_ROWS = 4096
"""Of a batch whose ids are worked out at once."""

Inputs = Mapping[str, NDArray[Any]]


def load_trace(
    path: Path, tables: Sequence[AccessedTable], progress: Progress = silent, tell: Tell = nobody
) -> CountedHotness:
    """Count every table's accesses in a trace, in memory of 4 bytes per row of the tables.

    `.parquet`, or a folder of such parts: a column per table, of ids or of lists of them. `.npz`: an array per table;
    or `X_cat` (N, tables), as DLRM's preprocessing writes it. `.npy`: such a matrix alone. A matrix's columns are the
    spec's tables in their order. Other columns and arrays are left alone, and told once; so are tables without any
    access, whose rows all count as equally hot.

    AccessError lists, of each table, the first problem: no such array or column, one that does not hold integers, or an
    id out of range (and where it stands).
    """
    kind = "folder" if path.is_dir() else path.suffix
    if kind not in _FORMATS:
        got = kind or "no suffix"
        expected = ", ".join(suffix for suffix in _FORMATS if suffix != "folder")
        raise AccessError(f"{path}: expected a trace in a {expected} file, or a folder of .parquet parts, got {got}")
    counts, others = _FORMATS[kind](path, tables, progress)
    if others:
        tell(f"{path}: {len(others)} more that no table of the spec is named after: {some_names(others)}")
    return counted_hotness(str(path), counts, tell)


def holds_requests(path: Path, model: Model) -> bool:
    """Whether a trace holds an array for each of the model's inputs, rather than one for each of its tables."""
    return holds_arrays(path, {tensor.name for tensor in model.inputs})


def read_requests(path: Path, model: Model) -> Inputs:
    """The arrays of a trace of requests, whole; raises AccessError where they are none of the model's."""
    with open_npz(path) as reader:
        headers = {tensor.name: reader.header(tensor.name) for tensor in model.inputs}
        requests = {
            name: np.concatenate([np.empty(0, header.dtype), *reader.chunks(name, 1 << 20)]).reshape(header.shape)
            for name, header in headers.items()
        }
    problems = [f"{path}: {problem}" for problem in request_problems(model.inputs, requests)]
    if problems:
        raise AccessError(*problems)
    return requests


def count_requests(where: str, source: Source, requests: Inputs, progress: Progress, tell: Tell) -> CountedHotness:
    """How often each row of each table is read by requests; a table without any counts as read evenly, told once.

    where: what messages call the requests. Raises AccessError where they are none that the model takes, or an id is
    outside its table.
    """
    model = source.model
    counters = {table.name: AccessCounter(table.rows) for table in model.tables}
    pieces = list(_pieces(model, requests))
    for done, piece in enumerate(pieces):
        with _told_of(where):
            tensors = source.ids(piece)
        for lookup in model.lookups:
            table = model.tables[lookup.table]
            with _told_of(where):
                ids = ids_read(model, lookup, tensors)
            wrong = next(iter(np.flatnonzero((ids < 0) | (ids >= table.rows))), None)
            if wrong is not None:
                raise AccessError(
                    f"{where}: {lookup.name}: expected ids from 0 to {table.rows - 1} of table {table.name}, "
                    f"got {ids[wrong]}"
                )
            counters[table.name].add(ids)
        progress(done + 1, len(pieces))
    return counted_hotness(where, {name: counter.counts for name, counter in counters.items()}, tell)


@contextmanager
def _told_of(where: str) -> Iterator[None]:
    """Errors about a query as those of the requests that messages call `where`."""
    try:
        yield
    except InputError as exc:
        raise AccessError(*(f"{where}: {problem}" for problem in exc.problems)) from exc


def _pieces(model: Model, requests: Inputs) -> Iterator[Inputs]:
    """Some rows of the batch at a time, where every input has them."""
    batched = model.dense.batched and all(tensor.shape[:1] == (BATCH,) for tensor in model.inputs)
    if not batched:
        yield requests
        return
    rows = min(len(array) for array in requests.values())
    for begin in range(0, rows, _ROWS):
        yield {name: array[begin : begin + _ROWS] for name, array in requests.items()}


def _count_npz(path: Path, tables: Sequence[AccessedTable], progress: Progress) -> tuple[dict[str, Counts], list[str]]:
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


def _count_npy(path: Path, tables: Sequence[AccessedTable], progress: Progress) -> tuple[dict[str, Counts], list[str]]:
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
        expected = f"a matrix with {len(tables)} columns, one per table in the spec's order"
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
            table, position = tables[column], f"[{row + wrong}, {column}] of {name}"
            problems[column] = f"{path}: {table.name}: expected {_expected(table)}, got {ids[wrong]} at {position}"
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
            position = header.position(begin + wrong)
            raise AccessError(f"{path}: {table.name}: expected {_expected(table)}, got {ids[wrong]} at {position}")
        begin += len(ids)
        advance(len(ids))
    return counter.counts


def _expected(table: AccessedTable) -> str:
    return f"ids from 0 to {table.rows - 1}, or -1 (padding)"


def _count_parquet(
    path: Path, tables: Sequence[AccessedTable], progress: Progress
) -> tuple[dict[str, Counts], list[str]]:
    from repo_builder.access.trace_parquet import count_parquet  # pyarrow is slow to import, and rarely wanted

    return count_parquet(path, tables, progress)


_FORMATS: Mapping[str, Callable[[Path, Sequence[AccessedTable], Progress], tuple[dict[str, Counts], list[str]]]] = {
    ".npz": _count_npz,
    ".npy": _count_npy,
    ".parquet": _count_parquet,
    "folder": _count_parquet,
}
