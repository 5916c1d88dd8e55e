"""Rows are read by the kernel that serves, in every format; how fast is the machine's affair."""

from __future__ import annotations

from typing import get_args

import pytest

from repo_builder.errors import InputError
from repo_builder.model.types import RowDtype, RowFormat
from repo_builder.repository import row_speed
from repo_builder.repository.row_speed import ROUNDS, measure_rows


def test_every_format_of_every_dim_has_a_speed() -> None:
    formats = [RowFormat(dim, dtype) for dim in (8, 33) for dtype in get_args(RowDtype)]
    steps = []
    found = measure_rows(formats, lambda *step: steps.append(step), matrix_bytes=1 << 16)
    assert found.keys() == set(formats)
    assert all(speed > 0 for speed in found.values())
    assert steps == [(done + 1, 2 * ROUNDS) for done in range(2 * ROUNDS)]


def test_rows_beyond_memory_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_speed, "MATRIX_BYTES", 0)
    with pytest.raises(InputError, match="--row-speed: rows to read"):
        measure_rows([RowFormat(8, "int8")], lambda *_: None, matrix_bytes=1 << 60)
