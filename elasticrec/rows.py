"""Row formats: those that a budget of score error allows, chosen before anything is planned; and all side by side."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from elasticrec.loading import Watch
from repo_builder.access.hotness import Hotness
from repo_builder.analysis.fleets import ComparisonCase
from repo_builder.analysis.row_formats import (
    FormatComparison,
    FormatResult,
    FormatScores,
    format_plans,
    formats_of,
    rows_per_s,
    rule_text,
    tables_bytes,
)
from repo_builder.errors import InputError, MissingExtraError
from repo_builder.extras import named_extras
from repo_builder.model.source import ModelFile
from repo_builder.output import Tell
from repo_builder.partition.plan import Plan
from repo_builder.spec import Spec

if TYPE_CHECKING:
    from repo_builder.repository.row_error import RowError, RowTrial  # which import onnxruntime


def with_chosen_rows(spec: Spec, hotness: Hotness, planned: Callable[[Spec], Plan], watch: Watch, tell: Tell) -> Spec:
    """A spec whose budget of score error is spent: its rows are of the formats with the least memory within it.

    planned: makes a spec's plan, as the caller will. Reads all tables once, as that takes; a spec without a budget is
    given back as it is. Raises InputError where the weights are not there, and what reading them raises.
    """
    if spec.rows.budget is None:
        return spec
    from repo_builder.repository.row_budget import choose_rows  # which imports gRPC's Python

    if _weights_missing(spec):
        raise InputError(
            f"rows.budget: expected the model's weights, to tell the score error of, found no {_weights_path(spec)}; "
            "bring them, or name the formats, as in rows: {hot: fp32, cold: int8}"
        )
    trial = _trial(spec, hotness, watch)
    choice = choose_rows(spec, trial, planned)
    tell(
        f"{spec.name}: rows {rule_text(choice.rule)}: score error at most {choice.error.max:.1e}, on average "
        f"{choice.error.mean:.1e}, on {trial.samples.told}; the budget is {spec.rows.budget:g}"
    )
    return replace(spec, rows=choice.rule)


def compare_rows(
    case: ComparisonCase, hotness: Hotness, target_qps: float, row_speed: bool, watch: Watch
) -> FormatComparison:
    """Row formats at so many queries per second; scores where the weights are trained ones, and there."""
    from repo_builder.repository.row_speed import measure_rows  # imports the kernels

    model = case.spec.model
    plans = list(format_plans(case, target_qps))
    trial, told = None, _why_no_scores(case.spec)
    if not told:
        try:
            trial = _trial(case.spec, hotness, watch)
            told = f"scores of {trial.samples.told}"
        except MissingExtraError as exc:  # without it all else can be told
            told = f"no score error: {exc}"
    speeds = None
    if row_speed:
        with watch("reading rows") as progress:
            speeds = measure_rows(formats_of(model), progress)
    results = tuple(
        FormatResult(
            rule,
            tables_bytes(model, plan),
            plan.deployed_memory_bytes,
            _scores(trial.error(plan)) if trial else None,
            rows_per_s(model, case.accesses, plan, speeds) if speeds else None,
        )
        for rule, plan in plans
    )
    return FormatComparison(case.spec.name, target_qps, results, told)


@named_extras()
def _trial(spec: Spec, hotness: Hotness, watch: Watch) -> RowTrial:
    from repo_builder.export.dlrm.source import open_source  # torch and onnx are slow to import
    from repo_builder.repository.row_error import RowTrial
    from repo_builder.repository.samples import sample_queries

    source = open_source(spec)
    samples = sample_queries(spec, source, hotness)
    with watch("weighing row formats") as progress:
        return RowTrial(source, hotness, samples, progress)


def _scores(error: RowError | None) -> FormatScores | None:
    """Of the output whose AUC changes most."""
    if error is None:
        return None
    ranked = [output for output in error.outputs if output.auc_change is not None]
    most = max(ranked, key=lambda output: abs(output.auc_change or 0), default=None)
    auc, auc_fp32 = (most.auc, most.auc_fp32) if most else (None, None)
    return FormatScores(error.max, error.mean, auc, auc_fp32)


def _why_no_scores(spec: Spec) -> str:
    """Why scores of stored rows cannot be told; "" where they can."""
    if _weights_missing(spec):
        return f"no score error: {_weights_path(spec)} is not there"
    if not isinstance(spec.form, ModelFile) and spec.form.weights.source == "random":
        return "no score error: weights drawn from a seed say nothing of trained ones"
    return ""


def _weights_missing(spec: Spec) -> bool:
    path = _weights_path(spec)
    return path is not None and not path.exists()


def _weights_path(spec: Spec) -> Path | None:
    """Of a file that is still to be opened: a model file was when the spec was read."""
    return None if isinstance(spec.form, ModelFile) else spec.form.weights.path
