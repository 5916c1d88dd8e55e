"""A budget of score error, spent: the row formats of hot and cold services that take the least memory within it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import get_args

from repo_builder.model.row_rule import RowRule
from repo_builder.model.types import RowDtype, RowFormat
from repo_builder.partition.plan import Plan
from repo_builder.repository.row_error import RowError, RowTrial
from repo_builder.spec import Spec

_DTYPES: tuple[RowDtype, ...] = get_args(RowDtype)
_SOME_DIM = 64  # of which row formats' sizes go as they do for any


@dataclass(frozen=True, slots=True)
class RowChoice:
    """The formats that were chosen, the plan that they make, and what they do to scores."""

    rule: RowRule
    plan: Plan
    error: RowError


def row_rules() -> Sequence[RowRule]:
    """All that may be chosen: cold rows in no more bytes than hot ones, two formats where one is smaller."""
    sizes = {dtype: RowFormat(_SOME_DIM, dtype).row_bytes for dtype in _DTYPES}
    return [RowRule(hot, cold) for hot in _DTYPES for cold in _DTYPES if hot == cold or sizes[cold] < sizes[hot]]


def choose_rows(spec: Spec, trial: RowTrial, planned: Callable[[Spec], Plan]) -> RowChoice:
    """The plan with the least memory over all replicas whose score error on samples is at most the spec's budget.

    planned: makes a spec's plan. Rows in float32 have no error, so there always is one. Of plans with as much memory
    the one with the wider cold rows comes first, and then the wider hot ones.
    """
    budget = spec.rows.budget or 0.0
    plans = [(planned(replace(spec, rows=rule)), rule) for rule in row_rules()]
    order = {dtype: i for i, dtype in enumerate(_DTYPES)}
    plans.sort(key=lambda item: (item[0].deployed_memory_bytes, order[item[1].cold], order[item[1].hot]))
    for plan, rule in plans:
        error = trial.error(plan)
        if error is not None and error.max <= budget:
            return RowChoice(rule, plan, error)
    raise ValueError("rows in float32: expected no score error")
