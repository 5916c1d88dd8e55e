"""Queries as a trace has them, in its order: for load tests with real ids instead of drawn ones."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repo_builder.access.npz import NPY_ARRAY, NpzReader, open_npy, open_npz
from repo_builder.access.trace_arrays import MATRIX, holds_matrix, matrix_pieces
from repo_builder.access.trace_parquet import is_list, opened, parquet_parts, schema_problems
from repo_builder.errors import AccessError
from repo_builder.model.dlrm import DlrmTable, IndexDtype
from repo_builder.words import count


def replay_trace(path: Path, tables: Sequence[DlrmTable], index_dtype: IndexDtype, rows: int) -> NDArray[Any]:
    """The first `rows` rows of a trace as `indices` (rows, sum of pooling), -1 where a bag is not full.

    The files are those of `load_trace`. A `.parquet` column of lists holds a bag a row, cut off at the table's pooling;
    a column of ids, an array, or a matrix' column holds the bags' ids one after another, `pooling` a row. Raises
    AccessError where the trace is shorter, cannot be read, or holds an id that its table has not.
    """
    bags = _read(path, tables, rows)
    return np.hstack([_checked(path, *pair) for pair in zip(tables, bags, strict=True)]).astype(index_dtype)


def _read(path: Path, tables: Sequence[DlrmTable], rows: int) -> list[NDArray[np.int64]]:
    """Each table's first bags, (rows, pooling)."""
    if path.is_dir() or path.suffix == ".parquet":
        parts = parquet_parts(path)
        return [_parquet(path, parts, table, rows) for table in tables]
    if path.suffix == ".npy":
        with open_npy(path) as reader:
            return _matrix(path, reader, NPY_ARRAY, tables, rows)
    with open_npz(path) as reader:
        if holds_matrix(reader, tables):
            return _matrix(path, reader, MATRIX, tables, rows)
        return [_array(path, reader, table, rows) for table in tables]


def _checked(path: Path, table: DlrmTable, bags: NDArray[np.int64]) -> NDArray[np.int64]:
    wrong = np.argwhere((bags < -1) | (bags >= table.rows))
    if len(wrong):
        got = f"{bags[tuple(wrong[0])]} in row {wrong[0][0]}"
        raise AccessError(f"{path}: {table.name}: expected ids from 0 to {table.rows - 1}, or -1 (padding), got {got}")
    return bags


def _array(path: Path, reader: NpzReader, table: DlrmTable, rows: int) -> NDArray[np.int64]:
    if table.name not in reader.names:
        raise AccessError(f"{path}: {table.name}: expected this array, got none")
    ids = next(reader.chunks(table.name, rows * table.pooling), np.empty(0, np.int64))
    if ids.dtype.kind not in "iu":
        raise AccessError(f"{path}: {table.name}: expected integer ids, got dtype {ids.dtype}")
    return _joined(path, table, ids, rows)


def _matrix(
    path: Path, reader: NpzReader, name: str, tables: Sequence[DlrmTable], rows: int
) -> list[NDArray[np.int64]]:
    taken: list[list[NDArray[Any]]] = [[] for _ in tables]
    most = rows * max(table.pooling for table in tables)
    for column, row, ids in matrix_pieces(path, reader, name, tables):
        if row < rows * tables[column].pooling:
            taken[column].append(ids[: rows * tables[column].pooling - row])
        if row >= most and column == len(tables) - 1:
            break
    columns = [np.concatenate([np.empty(0, np.int64), *pieces]) for pieces in taken]
    return [_joined(path, table, ids, rows) for table, ids in zip(tables, columns, strict=True)]


def _parquet(path: Path, parts: Sequence[Path], table: DlrmTable, rows: int) -> NDArray[np.int64]:
    """Null stands for no id, or for an empty bag; a part is taken up where the one before ends."""
    ids: list[int] = []
    filled = np.full((rows, table.pooling), -1, np.int64)
    begin = 0
    for part in parts:
        with opened(part) as file:
            problems = schema_problems(part, file.schema_arrow, [table])
            if problems:
                raise AccessError(*problems)
            batches = file.iter_batches(4096, columns=[table.name], use_threads=False)
            values = (value for batch in batches for value in batch.column(0).to_pylist())
            if is_list(file.schema_arrow.field(table.name).type):
                for bag in islice(values, rows - begin):
                    kept = [each for each in bag or () if each is not None][: table.pooling]
                    filled[begin, : len(kept)] = kept
                    begin += 1
            else:
                wanted = rows * table.pooling - len(ids)
                ids += [-1 if each is None else each for each in islice(values, wanted)]
    if ids:
        return _joined(path, table, np.array(ids, np.int64), rows)
    _check_length(path, table, begin, rows)
    return filled


def _joined(path: Path, table: DlrmTable, ids: NDArray[Any], rows: int) -> NDArray[np.int64]:
    _check_length(path, table, len(ids) // table.pooling, rows)
    return ids.astype(np.int64).reshape(rows, table.pooling)


def _check_length(path: Path, table: DlrmTable, found: int, rows: int) -> None:
    if found < rows:
        raise AccessError(
            f"{path}: {table.name}: expected at least {count(rows, 'row')}, got {found}; ask for fewer queries"
        )
