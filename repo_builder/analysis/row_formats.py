"""Row formats side by side at equal traffic: bytes, what they do to scores, and how fast their rows are read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, get_args

from repo_builder.analysis.fleets import TIERED, ComparisonCase, SizedFleets
from repo_builder.model.row_rule import RowRule
from repo_builder.model.types import Model, RowDtype, RowFormat
from repo_builder.partition.accesses import ModelAccesses
from repo_builder.partition.plan import Plan, Shard

RULES = (
    RowRule("fp32", "fp32"),
    RowRule("fp16", "fp16"),
    RowRule("bf16", "bf16"),
    RowRule("fp32", "int8"),
    RowRule("fp16", "int8"),
    RowRule("int8", "int8"),
    RowRule("fp32", "int8_half"),
    RowRule("int8_half", "int8_half"),
    RowRule("fp32", "int4"),
    RowRule("fp16", "int4"),
    RowRule("int8", "int4"),
    RowRule("int4", "int4"),
)
"""Those that are compared, the first as rows come."""

Speeds = Mapping[RowFormat, float]
"""Rows per second that the kernel reads, by format."""


@dataclass(frozen=True, slots=True)
class FormatScores:
    """What stored rows do to scores on samples: differences at most and on average; AUC of them and of FP32 rows."""

    max_error: float
    mean_error: float
    auc: float | None
    auc_fp32: float | None


@dataclass(frozen=True, slots=True)
class FormatResult:
    """One rule's tiered fleet.

    tables_bytes: one copy of all rows; memory_bytes: all replicas. scores: None where they were not looked at, or a row
    holds a number that its format cannot. rows_per_s: of a query's rows, as a share of FP32's; None: not measured.
    """

    rule: RowRule
    tables_bytes: int
    memory_bytes: int
    scores: FormatScores | None = None
    rows_per_s: float | None = None


@dataclass(frozen=True, slots=True)
class FormatComparison:
    """One spec's formats. told: what the scores were seen on, or why they were not."""

    spec: str
    target_qps: float
    results: tuple[FormatResult, ...]
    told: str


def rule_text(rule: RowRule) -> str:
    """A rule in words: int8, or hot fp32, cold int8."""
    return rule.hot if rule.hot == rule.cold else f"hot {rule.hot}, cold {rule.cold}"


def format_plans(case: ComparisonCase, target_qps: float) -> Iterator[tuple[RowRule, Plan]]:
    """Every rule's tiered plan at so many queries per second."""
    for rule in RULES:
        spec = replace(case.spec, rows=rule)
        fleets = SizedFleets(replace(case, spec=spec, accesses=case.accesses.stored_by(rule)))
        plan = fleets.fleet(TIERED, target_qps).plan
        if plan is not None:
            yield rule, plan


def tables_bytes(model: Model, plan: Plan) -> int:
    """One copy of all rows as the plan's services store them."""
    return sum(shard.rows * stored.row_bytes for shard, stored in _stored(model, plan))


def rows_per_s(model: Model, accesses: ModelAccesses, plan: Plan, speeds: Speeds) -> float:
    """How many of a query's rows are read in a second, as a share of those in float32."""
    of_table = {table.table: table for table in accesses.tables}
    seconds = seconds_fp32 = 0.0
    for shard, stored in _stored(model, plan):
        table = of_table[shard.table]
        gathers = table.gathers * float(table.cdf[shard.end] - table.cdf[shard.begin])
        seconds += gathers / speeds[stored]
        seconds_fp32 += gathers / speeds[RowFormat(stored.dim)]
    return seconds_fp32 / seconds


def formats_of(model: Model) -> Sequence[RowFormat]:
    """All formats that a model's rows may be stored in, and float32 of their dims."""
    dtypes: Sequence[RowDtype] = get_args(RowDtype)
    return sorted({RowFormat(table.format.dim, dtype) for table in model.tables for dtype in dtypes}, key=str)


def format_document(found: FormatComparison) -> Mapping[str, Any]:
    """For the report's JSON."""
    return {
        "spec": found.spec,
        "target_qps": found.target_qps,
        "scores_of": found.told,
        "formats": [
            {
                "hot": result.rule.hot,
                "cold": result.rule.cold,
                "tables_bytes": result.tables_bytes,
                "memory_bytes": result.memory_bytes,
                **(asdict(result.scores) if result.scores else {}),
                **({} if result.rows_per_s is None else {"rows_per_s": result.rows_per_s}),
            }
            for result in found.results
        ],
    }


def _stored(model: Model, plan: Plan) -> Iterator[tuple[Shard, RowFormat]]:
    """Each shard, and how its rows are stored."""
    came = {table.name: table.format for table in model.tables}
    for service in plan.embedding_services:
        for shard in service.shards:
            yield shard, came[shard.table].stored_as(service.row_dtype)
