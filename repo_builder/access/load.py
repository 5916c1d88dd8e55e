"""The hotness that a spec asks for, wherever it comes from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from repo_builder.access.counts import load_counts
from repo_builder.access.hotness import AccessedTable, Hotness
from repo_builder.access.powerlaw import PowerLawHotness
from repo_builder.access.queries import check_tables
from repo_builder.access.trace import count_requests, holds_requests, load_trace, read_requests
from repo_builder.errors import AccessError
from repo_builder.model.types import Table
from repo_builder.output import Progress, Tell, nobody, silent
from repo_builder.spec import Access, AccessSource, Spec


def load_hotness(spec: Spec, progress: Progress = silent, tell: Tell = nobody) -> Hotness:
    """Where the accesses of the spec's tables fall; raises AccessError with every problem of a counts or trace file.

    `progress` is called while a file is read, which takes long for a long trace; `tell` with what was passed over.
    """
    tables = spec.model.tables
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


_LOADERS: Mapping[AccessSource, Callable[[_Wanted, Progress, Tell], Hotness]] = {
    "powerlaw": _powerlaw,
    "counts": _counts,
    "trace": _trace,
    "samples": _samples,
}
