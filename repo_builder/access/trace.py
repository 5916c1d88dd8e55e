"""Accesses counted from a trace of ids, in a stream, whatever its length: see `load_trace` for the kinds of files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from repo_builder.access.counted import CountedHotness, Counts
from repo_builder.access.hotness import AccessedTable
from repo_builder.access.progress import Progress, Tell, nobody, silent
from repo_builder.access.trace_arrays import count_npy, count_npz
from repo_builder.access.trace_parquet import count_parquet
from repo_builder.errors import AccessError

_NAMED = 12  # names that a note spells out


def load_trace(
    path: Path, tables: Sequence[AccessedTable], progress: Progress = silent, tell: Tell = nobody
) -> CountedHotness:
    """Count every table's accesses in a trace, in memory of 4 bytes a row of the tables.

    `.parquet`, or a folder of such parts: a column a table, of ids or of lists of them. `.npz`: an array a table; or
    `X_cat` (N, tables), as DLRM's preprocessing writes it. `.npy`: such a matrix alone. A matrix's columns are the
    spec's tables in their order. Other columns and arrays are left alone, and told once; so are tables without any
    access, whose rows all count as equally hot.

    AccessError lists, of each table, the first problem: no such array or column, one that does not hold integers, or an
    id out of range (with its place).
    """
    kind = "folder" if path.is_dir() else path.suffix
    if kind not in _FORMATS:
        got = kind or "no suffix"
        expected = ", ".join(suffix for suffix in _FORMATS if suffix != "folder")
        raise AccessError(f"{path}: expected a trace in a {expected} file, or a folder of .parquet parts, got {got}")
    counts, others = _FORMATS[kind](path, tables, progress)
    if others:
        tell(f"{path}: {len(others)} more that no table of the spec is named after: {_some(others)}")
    unseen = [table.name for table in tables if not counts[table.name].any()]
    if unseen:
        tell(f"{path}: no access to {_some(unseen)}: all of their rows count as equally hot")
    for name in unseen:
        counts[name].fill(1)
    return CountedHotness(lambda table: counts[table.name])


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(ascii(name)[1:-1][:60] for name in names[:_NAMED]) + more


_FORMATS: Mapping[str, Callable[[Path, Sequence[AccessedTable], Progress], tuple[dict[str, Counts], list[str]]]] = {
    ".npz": count_npz,
    ".npy": count_npy,
    ".parquet": count_parquet,
    "folder": count_parquet,
}
