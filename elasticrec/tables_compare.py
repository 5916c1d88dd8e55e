"""Comparisons for a terminal: at equal traffic, and of fleets over time."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from elasticrec.tables import plain_table, size
from repo_builder.analysis.choice import LEAST_FLEET_SAVING
from repo_builder.analysis.compare import METRICS, PAPER, Comparison, ComparisonReport, average_gains
from repo_builder.analysis.fleets import GPU_CACHE, MODEL_WISE, PER_TABLE, TIERED
from repo_builder.analysis.row_formats import FormatComparison, FormatScores, rule_text
from repo_builder.simulation.report import SimulationSummary
from repo_builder.words import count, times_less

_SWEPT = ("memory", "utility", "price in parts")
_SHORT = {GPU_CACHE: "GPU cache"}


def comparison_table(found: Comparison) -> Table:
    """One spec's strategies, a line each; in brackets how many times better than model-wise."""
    names = ("memory", "utility", "by bytes", "price/h", "in parts")
    table = plain_table(found.spec, *names, "nodes", "replicas", "remote calls")
    for result in found.results:
        gains = found.gains(result.strategy)
        figures = (
            size(result.memory_bytes),
            f"{result.utility.by_replica:.1%}",
            f"{result.utility.by_bytes:.1%}",
            _dollars(result.price_per_hour),
            _dollars(result.parts_price_per_hour),
        )
        cells = [f"{figure} {_bracket(gains[metric])}" for figure, metric in zip(figures, METRICS, strict=True)]
        nodes = "" if result.nodes is None else str(result.nodes)
        table.add_row(result.strategy, *cells, nodes, f"{result.replicas:,}", str(result.remote_calls))
    return table


def averages_table(report: ComparisonReport) -> Table:
    """The mean gains over the specs, the paper's beside."""
    table = plain_table("mean gain over model-wise", *METRICS)
    for strategy in report.strategies:
        if strategy != MODEL_WISE:
            gains = average_gains(report.comparisons, strategy)
            table.add_row(strategy, *(_times(gains[metric]) for metric in METRICS))
    published = (f"{PAPER[metric]:.2f}x" if metric in PAPER else "not published" for metric in METRICS)
    table.add_row("ElasticRec as published", *published)
    return table


def gains_table(report: ComparisonReport) -> Table:
    """The mean gains at every point of the sweep."""
    others = [strategy for strategy in report.strategies if strategy != MODEL_WISE]
    table = plain_table(
        "model-wise\nreplicas", *(f"{metric}\n{_SHORT.get(name, name)}" for metric in _SWEPT for name in others)
    )
    for point, first in enumerate(report.sweeps[0]):
        gains = {name: average_gains(report.sweep_at(point), name) for name in others}
        cells = (_times(gains[name][metric]) for metric in _SWEPT for name in others)
        table.add_row(str(first.model_wise_replicas), *cells)
    return table


def row_formats_table(found: FormatComparison) -> Table:
    """One spec's row formats, a line each; in brackets how many times fewer bytes than FP32 rows take."""
    scored = any(result.scores for result in found.results)
    speed = any(result.rows_per_s is not None for result in found.results)
    columns = [
        "tables",
        "memory",
        *(["max error", "mean error", "AUC"] if scored else []),
        *(["rows/s"] if speed else []),
    ]
    table = plain_table(f"{found.spec}, rows", *columns)
    first = found.results[0]
    for result in found.results:
        table.add_row(
            rule_text(result.rule),
            f"{size(result.tables_bytes)} {_bracket(first.tables_bytes / result.tables_bytes)}",
            f"{size(result.memory_bytes)} {_bracket(first.memory_bytes / result.memory_bytes)}",
            *(_scores(result.scores) if scored else ()),
            *(["" if result.rows_per_s is None else f"{result.rows_per_s:.2f}x"] if speed else []),
        )
    return table


def _scores(scores: FormatScores | None) -> tuple[str, str, str, str]:
    if scores is None:
        return "out of range", "", "", ""
    errors = f"{scores.max_error:.1e}", f"{scores.mean_error:.1e}"
    if scores.auc is None or scores.auc_fp32 is None:
        return *errors, "", ""
    return *errors, f"{scores.auc:.5f}", f"{scores.auc - scores.auc_fp32:+.0e}"


def comparison_notes(report: ComparisonReport) -> str:
    """What was held equal, and what the cluster could not hold."""
    lines = [
        f"traffic of {count(report.model_wise_replicas, 'model-wise replica')}: "
        + ", ".join(f"{found.spec} {found.target_qps:,.0f} queries/s" for found in report.comparisons)
    ]
    lines += [
        f"{found.spec}, {result.strategy}: {line}"
        for found in report.comparisons
        for result in found.results
        for line in result.unplaced.splitlines()
    ]
    lines += [line for found in report.comparisons for line in _refusals(found)]
    lines += [f"{found.spec}, rows: {found.told}" for found in report.row_formats]
    lines.append("rows: memory of the tiered fleet at that traffic, nothing placed on nodes")
    lines.append("gains: how many times better than model-wise; 1x is equal, below it is worse; in brackets above")
    if not report.cluster.gpu_pools:
        lines.append(f"cluster {report.cluster.name} has no GPUs: model-wise with a GPU cache is left out")
    return "\n".join(lines)


def _refusals(found: Comparison) -> list[str]:
    """Which of ElasticRec's fleets do not pay in memory, beside as much traffic in whole replicas."""
    base = found.result(MODEL_WISE)
    cut = [result for result in found.results if result.strategy in (PER_TABLE, TIERED)]
    if base is None or not cut:
        return []
    refused = [result for result in cut if result.memory_bytes > (1 - LEAST_FLEET_SAVING) * base.memory_bytes]
    if len(refused) == len(cut):
        best = min(cut, key=lambda result: result.memory_bytes)
        return [
            f"{found.spec}: do not cut this model at this traffic: replicate it: {size(base.memory_bytes)} whole, "
            f"{size(best.memory_bytes)} {best.strategy}; a fleet must save {LEAST_FLEET_SAVING:.0%} to be worth it"
        ]
    return [f"{found.spec}, {result.strategy}: does not pay: no less memory than whole replicas" for result in refused]


def simulation_table(summaries: Sequence[SimulationSummary]) -> Table:
    """What each simulated fleet took, a line each."""
    price = summaries[0].price is not None
    table = plain_table(
        "fleet", "replicas, mean", "peak", "memory, mean", "peak", "past the SLA", *(["price"] if price else [])
    )
    for each in summaries:
        table.add_row(
            each.fleet,
            f"{each.mean_replicas:,.1f}",
            f"{each.peak_replicas:,}",
            size(each.mean_memory_bytes),
            size(each.peak_memory_bytes),
            f"{each.missed_share:.3%}",
            *([f"{each.price:,.2f}"] if each.price is not None else []),
        )
    return table


def simulation_summary(summaries: Sequence[SimulationSummary]) -> str:
    """The second fleet beside the first, model-wise, and what stood at its maximum."""
    whole, ours = summaries
    times = [f"{times_less(whole.mean_memory_bytes / ours.mean_memory_bytes)} memory"]
    if whole.price is not None and ours.price:
        times.append(f"{times_less(whole.price / ours.price)} to pay (nodes as if sold in parts)")
    lines = [f"{ours.fleet} against {whole.fleet}, means over time: {', '.join(times)}"]
    lines += [
        f"{each.fleet}: at its maximum: {', '.join(each.at_maximum)}; raise serving.target_qps"
        for each in summaries
        if each.at_maximum
    ]
    return "\n".join(lines)


def _times(gain: float | None) -> str:
    return "not placed" if gain is None else f"{gain:.2f}x"


def _bracket(gain: float | None) -> str:
    return "" if gain is None else f"({gain:.2f}x)"


def _dollars(price: float | None) -> str:
    return "not placed" if price is None else f"{price:,.2f}"
