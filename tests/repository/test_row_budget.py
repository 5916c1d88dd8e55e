"""A budget of score error is kept by what is built, and no plan within it takes less memory."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import pytest

from repo_builder.access.powerlaw import PowerLawHotness
from repo_builder.model.row_rule import RowRule
from repo_builder.model.types import BATCH, Model, RowDtype, RowFormat, Table
from repo_builder.output import silent
from repo_builder.partition.cost import Profile, ServiceTime
from repo_builder.partition.plan import Plan
from repo_builder.partition.planner import make_plan
from repo_builder.repository.row_budget import RowChoice, choose_rows, row_rules
from repo_builder.repository.row_error import RowTrial
from repo_builder.repository.samples import SampleQueries
from repo_builder.spec import Spec
from tests.partition.helpers import DENSE_TIME
from tests.repository.test_row_error import with_stored_tables
from tests.toy_source import ROWS, ToySource, toy_spec

HOTNESS = PowerLawHotness(0.9, 0)
SMALL = Profile("small containers", ServiceTime(1e-5, 4e-4), 100, DENSE_TIME)
DTYPES: tuple[RowDtype, ...] = ("fp32", "fp16", "bf16", "int8", "int8_half", "int4")


class LargeHotRows(ToySource):
    """The hotter a row, the larger its numbers."""

    def __init__(self, model: Model) -> None:
        super().__init__(model)
        for rows, table in zip(self.tables, model.tables, strict=True):
            rows[HOTNESS.order(table)] *= (np.arange(1, table.rows + 1, dtype=np.float32) ** np.float32(-1))[:, None]


def wide_spec() -> tuple[Spec, ToySource]:
    """A toy whose rows are of 32 numbers, so that formats differ in bytes; hot ones are large, as trained ones are."""
    spec, _ = toy_spec("rows")
    tables = (Table("items", 500, RowFormat(32)),)
    model = replace(spec.model, tables=tables, lookups=tuple(replace(it, shape=(BATCH, 32)) for it in ROWS.lookups))
    source = LargeHotRows(model)
    return replace(spec, model=model, opened=source), source


def planned(spec: Spec) -> Plan:
    return make_plan(spec, HOTNESS, SMALL, "tiered", 2)


def trial_of(source: ToySource) -> RowTrial:
    return RowTrial(source, HOTNESS, SampleQueries((source.query(200, seed=4),), {}, ""), silent)


def chosen(budget: float, trial: RowTrial, spec: Spec) -> RowChoice:
    return choose_rows(replace(spec, rows=RowRule(budget=budget)), trial, planned)


@dataclass(frozen=True, slots=True)
class Weighed:
    """A rule by brute force: its plan's memory, and the error of the whole model on tables that were stored so."""

    rule: RowRule
    memory_bytes: int
    error: float


@pytest.fixture(scope="module")
def weighed() -> list[Weighed]:
    """All pairs of formats, cold ones wider than hot ones too."""
    spec, source = wide_spec()
    query = source.query(200, seed=4)
    own, found = source.answers(query), []
    for rule in (RowRule(hot, cold) for hot in DTYPES for cold in DTYPES):
        plan = planned(replace(spec, rows=rule))
        other = with_stored_tables(source, plan, HOTNESS).answers(query)
        error = max(np.abs(other[name].astype(np.float64) - each).max() for name, each in own.items())
        found.append(Weighed(rule, plan.deployed_memory_bytes, error))
    return found


def test_no_rule_within_the_budget_takes_less_memory(weighed: list[Weighed]) -> None:
    """At budgets between all errors that there are; the rules that are chosen differ, hot and cold ones too."""
    spec, source = wide_spec()
    trial = trial_of(source)
    errors = sorted({each.error for each in weighed})
    rules = []
    for low, high in pairwise(errors):
        if high - low < 1e-5:  # the arithmetic of the two differs by less
            continue
        budget = (low + high) / 2
        choice = chosen(budget, trial, spec)
        (own,) = (each for each in weighed if each.rule == choice.rule)
        assert own.error <= budget
        assert choice.error.max == pytest.approx(own.error, rel=1e-3, abs=2e-6)
        assert own.memory_bytes == choice.plan.deployed_memory_bytes
        cheaper = [each.rule for each in weighed if each.error <= budget and each.memory_bytes < own.memory_bytes]
        assert not [rule for rule in cheaper if DTYPES.index(rule.cold) >= DTYPES.index(rule.hot)]
        rules.append(choice.rule)
    assert len(set(rules)) >= 4
    assert any(rule.hot != rule.cold for rule in rules)


def test_a_budget_of_nothing_is_float32_and_a_huge_one_int4() -> None:
    spec, source = wide_spec()
    trial = trial_of(source)
    nothing, huge = chosen(0, trial, spec), chosen(1e9, trial, spec)
    assert (nothing.rule, nothing.error.max) == (RowRule("fp32", "fp32"), 0)
    assert huge.rule == RowRule("int4", "int4")
    assert {service.row_dtype for service in huge.plan.embedding_services} == {"int4"}


def test_cold_rows_are_never_wider_than_hot_ones() -> None:
    rules = row_rules()
    assert len(rules) == len(set(rules)) == 20
    assert RowRule("int8", "fp16") not in rules and RowRule("fp16", "bf16") not in rules
    assert all(rule.budget is None for rule in rules)


def test_a_format_that_cannot_hold_a_row_is_passed_over() -> None:
    """Numbers beyond float16's: neither fp16 nor int4, whose scale is one."""
    spec, source = wide_spec()
    source.tables = [rows * np.float32(1e6) for rows in source.tables]
    assert chosen(1e9, trial_of(source), spec).rule == RowRule("int8", "int8")
