"""Small specs and tables for the access tests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from repo_builder.model.dlrm import Dlrm, DlrmTable, Weights
from repo_builder.spec import Access, Serving, Spec


def table(name: str = "C", rows: int = 10, pooling: int = 4) -> DlrmTable:
    return DlrmTable(name, rows, 8, pooling)


def spec(tables: Sequence[DlrmTable], access: Access) -> Spec:
    form = Dlrm(13, (16, 8), (1,), tuple(tables), "int64", Weights("random"))
    return Spec.of_dlrm("m", form, access, Serving(100.0))


def from_file(source: str, path: Path, *tables: DlrmTable) -> Spec:
    return spec(tables, Access("trace" if source == "trace" else "counts", path))
