"""Small specs and tables for the access tests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from repo_builder.spec import Access, Serving, Spec, Table, Weights


def table(name: str = "C", rows: int = 10, pooling: int = 4) -> Table:
    return Table(name, rows, 8, pooling)


def spec(tables: Sequence[Table], access: Access) -> Spec:
    return Spec("m", 13, (16, 8), (1,), tuple(tables), "int64", Weights("random"), access, Serving(100.0))


def from_file(source: str, path: Path, *tables: Table) -> Spec:
    return spec(tables, Access("trace" if source == "trace" else "counts", path))
