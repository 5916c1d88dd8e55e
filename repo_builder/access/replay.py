"""Queries as a trace has them, in its order: for load tests with real ids instead of drawn ones."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from repo_builder.access.npz import open_npz
from repo_builder.access.trace_parquet import is_list, translated
from repo_builder.errors import AccessError
from repo_builder.spec import IndexDtype, Table
from repo_builder.words import count


def replay_trace(path: Path, tables: Sequence[Table], index_dtype: IndexDtype, rows: int) -> NDArray[Any]:
    """The first `rows` rows of a trace as `indices` (rows, sum of pooling), -1 where a bag is not full.

    A `.parquet` column of lists holds a bag a row, cut off at the table's pooling; a column of ids, or an `.npz` array,
    holds the bags' ids one after another, `pooling` a row. Raises AccessError where the trace is shorter, cannot be
    read, or holds an id that its table has not.
    """
    read = _parquet if path.suffix == ".parquet" else _npz
    return np.hstack([_checked(path, table, read(path, table, rows)) for table in tables]).astype(index_dtype)


def _checked(path: Path, table: Table, bags: NDArray[np.int64]) -> NDArray[np.int64]:
    wrong = np.argwhere((bags < -1) | (bags >= table.rows))
    if len(wrong):
        got = f"{bags[tuple(wrong[0])]} in row {wrong[0][0]}"
        raise AccessError(f"{path}: {table.name}: expected ids from 0 to {table.rows - 1}, or -1 (padding), got {got}")
    return bags


def _npz(path: Path, table: Table, rows: int) -> NDArray[np.int64]:
    with open_npz(path) as reader:
        if table.name not in reader.names:
            raise AccessError(f"{path}: {table.name}: expected this array, got none")
        ids = next(reader.chunks(table.name, rows * table.pooling), np.empty(0, np.int64))
    return _joined(path, table, ids, rows)


def _parquet(path: Path, table: Table, rows: int) -> NDArray[np.int64]:
    """Null stands for no id, or for an empty bag."""
    with translated(path), pq.ParquetFile(path) as file:
        if table.name not in file.schema_arrow.names:
            raise AccessError(f"{path}: {table.name}: expected this column, got none")
        batches = file.iter_batches(4096, columns=[table.name], use_threads=False)
        values = (value for batch in batches for value in batch.column(0).to_pylist())
        if not is_list(file.schema_arrow.field(table.name).type):
            ids = [-1 if each is None else each for each in islice(values, rows * table.pooling)]
            return _joined(path, table, np.array(ids, np.int64), rows)
        bags = list(islice(values, rows))
    _check_length(path, table, len(bags), rows)
    filled = np.full((rows, table.pooling), -1, np.int64)
    for row, bag in enumerate(bags):
        kept = [each for each in bag or () if each is not None][: table.pooling]
        filled[row, : len(kept)] = kept
    return filled


def _joined(path: Path, table: Table, ids: NDArray[Any], rows: int) -> NDArray[np.int64]:
    _check_length(path, table, len(ids) // table.pooling, rows)
    return ids.astype(np.int64).reshape(rows, table.pooling)


def _check_length(path: Path, table: Table, found: int, rows: int) -> None:
    if found < rows:
        raise AccessError(
            f"{path}: {table.name}: expected at least {count(rows, 'row')}, got {found}; ask for fewer queries"
        )
