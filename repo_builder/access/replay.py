"""Queries as a trace has them, in its order: for load tests with real ids instead of drawn ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repo_builder.access.filling import Queried, fill_queries
from repo_builder.access.npz import NPY_ARRAY, NpzReader, holds_arrays, open_npy, open_npz
from repo_builder.access.query_file import QueryFile, read_query_file
from repo_builder.access.trace import MATRIX, holds_matrix, matrix_pieces
from repo_builder.access.trace_parquet import is_list, opened, parquet_parts, schema_problems
from repo_builder.errors import AccessError
from repo_builder.model.arrays import Arrays
from repo_builder.model.types import Columns, Lookup
from repo_builder.words import count

NONE = -1
"""In a trace: a slot without an id."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a trace: the ids of a look-up, `pooling` of a table of so many rows in each of its group's."""

    name: str
    rows: int
    pooling: int


def replay_queries(
    model: Queried, path: Path, queries: int, batch: int, seed: int, samples: Arrays | None = None
) -> QueryFile:
    """Queries of the first ids of a trace, a column per look-up, named like it; what is not ids as in `draw_queries`.

    The files are those of `load_trace`. A `.parquet` column of lists holds a bag per row, cut off at what a look-up of
    columns takes, and filled up with its padding; a column of ids, an array, or a matrix' column holds the bags' ids
    one after another, as many per row as the look-up takes, of ragged bags its mean. A `.npz` with an array for each of
    the model's inputs is a file of queries, which are taken as they are. Raises AccessError where the trace is shorter,
    cannot be read, or holds an id that its table has not.
    """
    if holds_arrays(path, {tensor.name for tensor in model.inputs}):
        return _first(path, read_query_file(path, model.inputs), queries, batch)
    return fill_queries(model, _Replayed(model, path), queries, batch, np.random.default_rng(seed), samples)


def _first(path: Path, found: QueryFile, queries: int, batch: int) -> QueryFile:
    if found.queries(batch) < queries:
        raise AccessError(f"{path}: expected at least {count(queries, 'query')}, got {found.queries(batch)}")
    return found.head(queries, batch)


class _Replayed:
    """Ids of a trace."""

    def __init__(self, model: Queried, path: Path) -> None:
        self._model, self._path = model, path
        self._bags: dict[str, NDArray[np.int64]] = {}

    def columns(self, lookup: Lookup, shape: tuple[int, int]) -> NDArray[np.int64]:
        """See IdSource.columns; raises AccessError."""
        bags = self._read(lookup, *shape)
        if lookup.ids.padding is None and (bags == NONE).any():
            raise AccessError(
                f"{self._path}: {lookup.name}: expected {count(shape[1], 'id')} in each row, for it has no padding"
            )
        return np.where(bags == NONE, lookup.ids.padding or 0, bags)

    def lengths(self, lookup: Lookup, shape: tuple[int, int]) -> NDArray[np.int64]:
        """See IdSource.lengths; raises AccessError."""
        rows, pooling = shape[0] * shape[1], max(1, round(lookup.mean_ids))
        column = self._column(lookup, pooling)
        if _is_parquet(self._path):
            bags = _parquet(self._path, parquet_parts(self._path), column, rows)
        else:
            bags = self._read(lookup, rows, pooling).tolist()
        kept = [[each for each in bag if each != NONE] for bag in bags]
        ids = np.array([each for bag in kept for each in bag], np.int64)
        self._bags[lookup.name] = _checked(self._path, column, ids[:, np.newaxis])[:, 0]
        return np.array([len(bag) for bag in kept]).reshape(shape)

    def ragged(self, lookup: Lookup, ids: int) -> NDArray[np.int64]:
        """See IdSource.ragged."""
        return self._bags[lookup.name]

    def _column(self, lookup: Lookup, pooling: int) -> Column:
        return Column(lookup.name, self._model.tables[lookup.table].rows, pooling)

    def _read(self, lookup: Lookup, rows: int, pooling: int) -> NDArray[np.int64]:
        """Its first bags, (rows, pooling), NONE where one is not full."""
        column = self._column(lookup, pooling)
        if _is_parquet(self._path):
            bags = _parquet(self._path, parquet_parts(self._path), column, rows)
            return _checked(self._path, column, _filled(bags, pooling))
        if lookup.name not in self._bags:
            self._bags |= self._arrays(column, rows)
        return _checked(self._path, column, self._bags[lookup.name])

    def _arrays(self, column: Column, rows: int) -> dict[str, NDArray[np.int64]]:
        """Of an array its own bags; of a matrix, which is read once, those of all look-ups, which it has a column of
        each.
        """
        path, lookups = self._path, self._model.lookups
        columns = [column if each.name == column.name else self._column(each, _pooling(each)) for each in lookups]
        if path.suffix == ".npy":
            with open_npy(path) as reader:
                return _matrix(path, reader, NPY_ARRAY, columns, rows)
        with open_npz(path) as reader:
            if holds_matrix(reader, columns):
                return _matrix(path, reader, MATRIX, columns, rows)
            return {column.name: _array(path, reader, column, rows)}


def _pooling(lookup: Lookup) -> int:
    layout = lookup.ids.layout
    return lookup.count * layout.bag if isinstance(layout, Columns) and layout.width else round(lookup.mean_ids)


def _is_parquet(path: Path) -> bool:
    return path.is_dir() or path.suffix == ".parquet"


def _checked(path: Path, table: Column, bags: NDArray[np.int64]) -> NDArray[np.int64]:
    wrong = np.argwhere((bags < NONE) | (bags >= table.rows))
    if len(wrong):
        got = f"{bags[tuple(wrong[0])]} in row {wrong[0][0]}"
        raise AccessError(f"{path}: {table.name}: expected ids from 0 to {table.rows - 1}, or -1 (padding), got {got}")
    return bags


def _array(path: Path, reader: NpzReader, table: Column, rows: int) -> NDArray[np.int64]:
    if table.name not in reader.names:
        raise AccessError(f"{path}: {table.name}: expected this array, got none")
    ids = next(reader.chunks(table.name, rows * table.pooling), np.empty(0, np.int64))
    if ids.dtype.kind not in "iu":
        raise AccessError(f"{path}: {table.name}: expected integer ids, got dtype {ids.dtype}")
    return _joined(path, table, ids, rows)


def _matrix(
    path: Path, reader: NpzReader, name: str, tables: Sequence[Column], rows: int
) -> dict[str, NDArray[np.int64]]:
    taken: list[list[NDArray[Any]]] = [[] for _ in tables]
    most = rows * max(table.pooling for table in tables)
    for column, row, ids in matrix_pieces(path, reader, name, tables):
        if row < rows * tables[column].pooling:
            taken[column].append(ids[: rows * tables[column].pooling - row])
        if row >= most and column == len(tables) - 1:
            break
    columns = [np.concatenate([np.empty(0, np.int64), *pieces]) for pieces in taken]
    return {table.name: _joined(path, table, ids, rows) for table, ids in zip(tables, columns, strict=True)}


def _parquet(path: Path, parts: Sequence[Path], column: Column, rows: int) -> list[list[int]]:
    """Bags of any length. Null stands for no id, or for an empty bag; a part is taken up where the one before ends."""
    ids: list[int] = []
    bags: list[list[int]] = []
    for part in parts:
        with opened(part) as file:
            problems = schema_problems(part, file.schema_arrow, [column])
            if problems:
                raise AccessError(*problems)
            batches = file.iter_batches(4096, columns=[column.name], use_threads=False)
            values = (value for batch in batches for value in batch.column(0).to_pylist())
            if is_list(file.schema_arrow.field(column.name).type):
                taken = islice(values, rows - len(bags))
                bags += [[each for each in bag or () if each is not None] for bag in taken]
            else:
                wanted = rows * column.pooling - len(ids)
                ids += [NONE if each is None else each for each in islice(values, wanted)]
    if ids:
        return [*_joined(path, column, np.array(ids, np.int64), rows).tolist()]
    _check_length(path, column, len(bags), rows)
    return bags


def _filled(bags: Sequence[Sequence[int]], pooling: int) -> NDArray[np.int64]:
    """Bags (rows, pooling), cut off, and NONE where one is not full."""
    filled = np.full((len(bags), pooling), NONE, np.int64)
    for row, bag in zip(filled, bags, strict=True):
        row[: len(bag)] = bag[:pooling]
    return filled


def _joined(path: Path, table: Column, ids: NDArray[Any], rows: int) -> NDArray[np.int64]:
    _check_length(path, table, len(ids) // table.pooling, rows)
    return ids.astype(np.int64).reshape(rows, table.pooling)


def _check_length(path: Path, table: Column, found: int, rows: int) -> None:
    if found < rows:
        raise AccessError(
            f"{path}: {table.name}: expected at least {count(rows, 'row')}, got {found}; ask for fewer queries"
        )
