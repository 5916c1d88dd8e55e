"""The hotness that a spec asks for, wherever it comes from; counts from a `.npz`, an array per table, stand here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from repo_builder.access.hotness import AccessedTable, CountedHotness, Counts, Hotness
from repo_builder.access.npz import Header, NpzReader, name_problems, open_npz
from repo_builder.access.powerlaw import PowerLawHotness
from repo_builder.access.queries import check_tables
from repo_builder.access.trace import count_requests, holds_requests, load_trace, read_requests
from repo_builder.errors import AccessError
from repo_builder.model.types import Table
from repo_builder.output import Progress, Tell, nobody, silent
from repo_builder.spec import Access, AccessSource, Spec

_CHUNK_ITEMS = 1 << 20


def load_hotness(spec: Spec, progress: Progress = silent, tell: Tell = nobody) -> Hotness:
    """Where the accesses of the spec's tables fall; raises AccessError with every problem of a counts or trace file.

    `progress` is called while a file is read, which takes long for a long trace; `tell` with what was passed over.
    """
    tables = spec.queried.tables
    check_tables(tables)
    others = tuple(table for table in tables if table.name not in spec.table_access)
    if not spec.table_access:
        return _load(_Wanted(spec, spec.access, tables), progress, tell)
    of_others = _load(_Wanted(spec, spec.access, others), progress, tell) if others else None
    by_table = {
        table.name: _load(_Wanted(spec, spec.table_access[table.name], (table,)), progress, tell)
        for table in tables
        if table.name in spec.table_access
    }
    return HotnessByTable(by_table, of_others)


@dataclass(frozen=True, slots=True)
class HotnessByTable:
    """The hotness of tables some of which have accesses of their own."""

    own: Mapping[str, Hotness]
    others: Hotness | None

    def cdf(self, table: AccessedTable) -> NDArray[np.float64]:
        """See Hotness.cdf."""
        return self._of(table).cdf(table)

    def order(self, table: AccessedTable) -> NDArray[np.uint32]:
        """See Hotness.order."""
        return self._of(table).order(table)

    def _of(self, table: AccessedTable) -> Hotness:
        found = self.own.get(table.name, self.others)
        if found is None:
            raise ValueError(f"{table.name}: expected a table of the spec")
        return found


@dataclass(frozen=True, slots=True)
class _Wanted:
    """Accesses of some of a spec's tables, and where they come from."""

    spec: Spec
    access: Access
    tables: tuple[Table, ...]

    @property
    def path(self) -> Path:
        """Of the file that they are in."""
        if self.access.path is None:
            raise AccessError(f"access.path: expected a file for source {self.access.source}, got none")
        return self.access.path


def _load(wanted: _Wanted, progress: Progress, tell: Tell) -> Hotness:
    return _LOADERS[wanted.access.source](wanted, progress, tell)


def _powerlaw(wanted: _Wanted, progress: Progress, tell: Tell) -> Hotness:
    if wanted.access.locality is None:
        raise AccessError("access.locality: expected a share for source powerlaw, got none")
    return PowerLawHotness(wanted.access.locality, wanted.access.seed)


def _counts(wanted: _Wanted, progress: Progress, tell: Tell) -> Hotness:
    return load_counts(wanted.path, wanted.tables, progress)


def _trace(wanted: _Wanted, progress: Progress, tell: Tell) -> Hotness:
    opened = wanted.spec.opened
    if opened is None or not holds_requests(wanted.path, opened.model):
        return load_trace(wanted.path, wanted.tables, progress, tell)
    return count_requests(str(wanted.path), opened, read_requests(wanted.path, opened.model), progress, tell)


def _samples(wanted: _Wanted, progress: Progress, tell: Tell) -> Hotness:
    opened = wanted.spec.opened
    requests = opened.samples() if opened else None
    if opened is None or requests is None:
        raise AccessError("access.source: expected samples of requests (samples in the spec), got none")
    return count_requests("samples", opened, requests, progress, tell)


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
                problems += _counts_problems(path, reader, table)
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
        return _read_counts(path, reader, table)


def _counts_problems(path: Path, reader: NpzReader, table: AccessedTable) -> Sequence[str]:
    try:
        _read_counts(path, reader, table)
    except AccessError as exc:
        return exc.problems
    return []


def _read_counts(path: Path, reader: NpzReader, table: AccessedTable) -> Counts:
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


_LOADERS: Mapping[AccessSource, Callable[[_Wanted, Progress, Tell], Hotness]] = {
    "powerlaw": _powerlaw,
    "counts": _counts,
    "trace": _trace,
    "samples": _samples,
}
