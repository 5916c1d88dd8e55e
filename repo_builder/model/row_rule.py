"""The rule by which a model's rows are stored: what the spec's `rows` says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from repo_builder.model.types import RowDtype


@dataclass(frozen=True, slots=True)
class RowRule:
    """How services store rows that come in float32 (`RowFormat.stored_as`).

    hot: in the hottest service, `tier0` or a table's own `_s0`, and in one that holds all rows. cold: in every other.
    budget: the score error, at most, that hot and cold are still to be chosen for; until then they are fp32.
    """

    hot: RowDtype = "fp32"
    cold: RowDtype = "fp32"
    budget: float | None = None


AS_THEY_COME = RowRule()
"""Where a spec says nothing of rows."""


def read_row_rule(rows: str | Mapping[str, Any]) -> RowRule:
    """The rule of a checked spec's `rows`: a dtype for all services, those of hot and cold ones, or a budget."""
    return RowRule(**rows) if isinstance(rows, Mapping) else RowRule(rows, rows)  # type: ignore[arg-type] # the schema knows the dtypes
