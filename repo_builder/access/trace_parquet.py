"""Accesses counted from a `.parquet` trace, or a folder of such parts: a column per table, of ids or of lists of ids.

Null is nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from repo_builder.access.hotness import AccessCounter, AccessedTable, Counts
from repo_builder.access.npz import missing_problems
from repo_builder.errors import AccessError
from repo_builder.output import Progress

_BATCH_ROWS = 1 << 13  # rows of a batch, over all columns: bags of 100 ids then take some 10 MB
_BUFFER_BYTES = 1 << 20  # read ahead in each column


def count_parquet(
    path: Path, tables: Sequence[AccessedTable], progress: Progress
) -> tuple[dict[str, Counts], list[str]]:
    """Each table's accesses, (rows,) unsigned integers by table name, and the names of the columns of no table.

    Read by record batches, and only the tables' columns. Raises AccessError.
    """
    parts = parquet_parts(path)
    total = sum(_rows(part) for part in parts)
    counters = {table.name: AccessCounter(table.rows) for table in tables}
    others: dict[str, None] = {}
    done = 0
    for part in parts:
        with opened(part) as file:
            problems = schema_problems(part, file.schema_arrow, tables)
            if problems:
                raise AccessError(*problems)
            others.update(dict.fromkeys(name for name in file.schema_arrow.names if name not in counters))
            done += _count(part, file, tables, counters, partial(_after, progress, done, total))
    return {name: counter.counts for name, counter in counters.items()}, list(others)


def parquet_parts(path: Path) -> list[Path]:
    """The files of a trace, in the order of their names; of a folder those below it that are not hidden."""
    if not path.is_dir():
        return [path]
    parts = [each for each in path.rglob("*.parquet") if each.is_file() and not each.name.startswith((".", "_"))]
    if not parts:
        raise AccessError(f"{path}: expected .parquet parts in this folder, found none; check access.path in the spec")
    return sorted(parts)


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """A part, for reading with little read ahead."""
    with _translated(path), pq.ParquetFile(path, buffer_size=_BUFFER_BYTES, pre_buffer=False) as file:
        yield file


def _after(progress: Progress, before: int, total: int, rows: int) -> None:
    progress(before + rows, total)


def _rows(path: Path) -> int:
    with opened(path) as file:
        return int(file.metadata.num_rows)


def _count(
    path: Path,
    file: Any,
    tables: Sequence[AccessedTable],
    counters: Mapping[str, AccessCounter],
    advance: Callable[[int], None],
) -> int:
    """Count a part's ids; returns its rows."""
    problems: dict[str, str] = {}
    done = 0
    batch_rows = max(1, _BATCH_ROWS // len(tables))
    for batch in file.iter_batches(batch_rows, columns=list(counters), use_threads=False):
        for table in tables:
            if table.name in problems:
                continue
            column = batch.column(table.name)
            ids = _ids(column)
            wrong = counters[table.name].add(ids)
            if wrong is not None:
                what = f"ids from 0 to {table.rows - 1}, or -1 (padding)"
                position = f"row {done + _row(column, wrong)} of the file"
                problems[table.name] = f"{path}: {table.name}: expected {what}, got {ids[wrong]} at {position}"
        done += len(batch)
        advance(done)
    if problems:
        raise AccessError(*problems.values())
    return done


def _ids(column: Any) -> NDArray[np.integer[Any]]:
    """The ids of a column one after another, nulls left out: (n,) integers."""
    flat = column.flatten() if is_list(column.type) else column
    present = flat.drop_null() if flat.null_count else flat  # dropping none would still copy
    ids: NDArray[np.integer[Any]] = present.to_numpy(zero_copy_only=False)
    return ids


def _row(column: Any, index: int) -> int:
    """The row of the batch that the id at `index` of `_ids(column)` stands in."""
    flat, rows = column, np.arange(len(column))
    if is_list(column.type):
        flat, rows = column.flatten(), pc.list_parent_indices(column).to_numpy(zero_copy_only=False)
    there = flat.is_valid().to_numpy(zero_copy_only=False)
    return int(rows[there][index])


def schema_problems(path: Path, schema: Any, tables: Sequence[AccessedTable]) -> list[str]:
    """What is wrong with the columns of the tables, one line each."""
    problems = missing_problems(path, "column", schema.names, [table.name for table in tables])
    for table in tables:
        for index in schema.get_all_field_indices(table.name)[:1]:
            kind = schema.field(index).type
            if not pa.types.is_integer(kind.value_type if is_list(kind) else kind):
                problems.append(f"{path}: {table.name}: expected a column of integer ids or lists of them, got {kind}")
    return problems


def is_list(kind: Any) -> bool:
    """Whether a column's type is one of pyarrow's lists."""
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    """Turn what pyarrow raises over a broken or missing file into AccessError."""
    try:
        yield
    except FileNotFoundError as exc:
        raise AccessError(f"{path}: expected a .parquet file, found none; check access.path in the spec") from exc
    except (pa.ArrowException, OSError) as exc:
        why = " ".join(str(exc).split())
        raise AccessError(f"{path}: expected a whole .parquet file, but it cannot be read: {why}") from exc
