"""Access counts from a `.npz`: an array per table, under its expanded name, saying how often each row was accessed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from repo_builder.access.hotness import AccessedTable, CountedHotness, Counts
from repo_builder.access.npz import Header, NpzReader, name_problems, open_npz
from repo_builder.errors import AccessError
from repo_builder.output import Progress, silent

_CHUNK_ITEMS = 1 << 20


def load_counts(path: Path, tables: Sequence[AccessedTable], progress: Progress = silent) -> CountedHotness:
    """Check every table's counts, then read them again, one table at a time, whenever they are asked for.

    AccessError lists every problem of the file: an array missing, unknown, of the wrong length or dtype, negative,
    not finite, or all zero. Progress is in items of all arrays.
    """
    names = [table.name for table in tables]
    with open_npz(path) as reader:
        problems = name_problems(path, "array", reader.names, names)
        total = sum(table.rows for table in tables)
        done = 0
        for table in tables:
            if table.name in reader.names:
                problems += _problems(path, reader, table)
            done += table.rows
            progress(done, total)
    if problems:
        raise AccessError(*problems)
    return CountedHotness(lambda table: _table_counts(path, table))


def _table_counts(path: Path, table: AccessedTable) -> Counts:
    """One table's counts: (rows,) in the file's own dtype (at least 32 bits when float), or AccessError."""
    with open_npz(path) as reader:
        if table.name not in reader.names:
            raise AccessError(*name_problems(path, "array", reader.names, [table.name])[:1])
        return _read(path, reader, table)


def _problems(path: Path, reader: NpzReader, table: AccessedTable) -> Sequence[str]:
    try:
        _read(path, reader, table)
    except AccessError as exc:
        return exc.problems
    return []


def _read(path: Path, reader: NpzReader, table: AccessedTable) -> Counts:
    where = f"{path}: {table.name}"
    header = reader.header(table.name)
    _check_header(where, header, table)
    counts = np.empty(table.rows, _native(header))
    begin = 0
    for chunk in reader.chunks(table.name, _CHUNK_ITEMS):
        with np.errstate(over="ignore"):  # a long double beyond float64 becomes infinite, and is refused below
            counts[begin : begin + len(chunk)] = chunk
        _check_values(where, counts[begin : begin + len(chunk)], begin)
        begin += len(chunk)
    _check_total(where, counts)
    return counts


def _native(header: Header) -> np.dtype[np.generic]:
    """The dtype to hold: this machine's byte order, and of the floats float32 or float64."""
    if header.dtype.kind in "iu":
        return header.dtype.newbyteorder("=")
    return np.dtype(np.float32 if header.dtype.itemsize <= 4 else np.float64)


def _check_header(where: str, header: Header, table: AccessedTable) -> None:
    if header.shape != (table.rows,):
        got = f"{header.shape[0]} counts" if len(header.shape) == 1 else f"an array of shape {header.shape}"
        raise AccessError(f"{where}: expected {table.rows} counts, one per row (tables: rows), got {got}")
    if header.dtype.kind not in "iuf":
        raise AccessError(f"{where}: expected integer or float counts, got dtype {header.dtype}")


def _check_values(where: str, counts: Counts, begin: int) -> None:
    wrong = ~np.isfinite(counts) | (counts < 0)
    if wrong.any():
        first = int(wrong.argmax())
        what = "counts >= 0 and finite"
        raise AccessError(f"{where}: expected {what}, got {counts[first]} at row {begin + first}")


def _check_total(where: str, counts: Counts) -> None:
    if not counts.any():
        raise AccessError(f"{where}: expected at least one access, got {len(counts)} counts that are all 0")
    if counts.dtype.kind in "iu":
        total = (int((counts >> 32).sum()) << 32) + int((counts & 0xFFFFFFFF).sum()) if counts.itemsize == 8 else 0
        if total >= 2**64:
            raise AccessError(f"{where}: expected counts that add up to less than 2**64, got {total}; scale them down")
