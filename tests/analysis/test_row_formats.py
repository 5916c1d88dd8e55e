"""Row formats side by side: bytes and speed are what a loop over rows says; the picture is one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from repo_builder.access.powerlaw import PowerLawHotness
from repo_builder.analysis.fleets import ComparisonCase
from repo_builder.analysis.row_formats import (
    RULES,
    FormatComparison,
    FormatResult,
    FormatScores,
    format_document,
    format_plans,
    formats_of,
    rows_per_s,
    rule_text,
    tables_bytes,
)
from repo_builder.analysis.row_formats_plot import plot_row_formats
from repo_builder.figures import new_figure, save_png
from repo_builder.model.row_rule import RowRule
from repo_builder.model.types import RowFormat
from tests.analysis.helpers import CPUS, PROFILE, SPEC, accesses

HOTNESS = PowerLawHotness(0.9, 0)
DIM = 32
BYTES = {"fp32": 4 * DIM, "fp16": 2 * DIM, "bf16": 2 * DIM, "int8": DIM + 8, "int8_half": DIM + 4, "int4": DIM // 2 + 4}
WIDE = replace(
    SPEC,
    model=replace(SPEC.model, tables=tuple(replace(table, format=RowFormat(DIM)) for table in SPEC.model.tables)),
)


def case() -> ComparisonCase:
    return ComparisonCase(WIDE, accesses(WIDE), PROFILE, CPUS, 4)


def test_every_rule_has_a_plan_of_its_own_whose_bytes_are_its_rows() -> None:
    found = dict(format_plans(case(), 2000))
    assert tuple(found) == RULES
    cut = 0
    for rule, plan in found.items():
        services = plan.embedding_services
        assert [each.row_dtype for each in services] == [rule.hot, *[rule.cold] * (len(services) - 1)]
        rows = [sum(shard.rows for shard in each.shards) for each in services]
        expected = sum(count * BYTES[rule.cold if i else rule.hot] for i, count in enumerate(rows))
        assert tables_bytes(WIDE.model, plan) == expected
        cut += len(services) > 1
    assert cut >= 4
    sizes = {rule: plan.deployed_memory_bytes for rule, plan in found.items()}
    assert sizes[RULES[0]] == max(sizes.values())
    assert sizes[RowRule("int8", "int8")] < sizes[RowRule("fp32", "int8")] < sizes[RowRule("fp32", "fp32")]


def test_rows_are_read_as_fast_as_their_formats_by_what_queries_gather() -> None:
    speeds = {each: 1e6 * (1 + i) for i, each in enumerate(formats_of(WIDE.model))}
    plans = dict(format_plans(case(), 2000))
    whole = speeds[RowFormat(DIM)]
    assert rows_per_s(WIDE.model, accesses(WIDE), plans[RowRule("fp32", "fp32")], speeds) == pytest.approx(1)
    of_int8 = speeds[RowFormat(DIM, "int8")] / whole
    assert rows_per_s(WIDE.model, accesses(WIDE), plans[RowRule("int8", "int8")], speeds) == pytest.approx(of_int8)
    plan = plans[RowRule("fp32", "int8")]
    hot, *cold = plan.embedding_services
    seconds = hot.gathers / whole + sum(each.gathers for each in cold) / speeds[RowFormat(DIM, "int8")]
    gathers = sum(each.gathers for each in plan.embedding_services)
    assert cold and rows_per_s(WIDE.model, accesses(WIDE), plan, speeds) == pytest.approx(gathers / seconds / whole)


def test_what_came_in_fewer_bits_is_counted_as_it_came() -> None:
    came = replace(WIDE.model.tables[0], format=RowFormat(DIM, "int4"))
    model = replace(WIDE.model, tables=(came, *WIDE.model.tables[1:]))
    quantized = replace(case(), spec=replace(WIDE, model=model))
    plan = dict(format_plans(quantized, 2000))[RowRule("fp16", "fp16")]
    rest = sum(table.rows for table in WIDE.model.tables[1:])
    assert tables_bytes(model, plan) == came.rows * BYTES["int4"] + rest * BYTES["fp16"]


def comparison(name: str, scored: bool) -> FormatComparison:
    """Fewer bytes and larger errors by the rule."""
    scores = [FormatScores(1e-5 * i, 1e-6 * i, 0.7, 0.71) if scored else None for i in range(len(RULES))]
    rules = enumerate(zip(RULES, scores, strict=True))
    results = tuple(FormatResult(rule, 1000 - 80 * i, 9000 - 500 * i, each) for i, (rule, each) in rules)
    return FormatComparison(name, 100.0, results, "drawn rows")


def test_picture_has_points_where_there_are_scores(tmp_path: Path) -> None:
    pictures = []
    for found in ([comparison("one", True), comparison("two", False)], [comparison("two", False)]):
        figure = new_figure(13, 3.8)
        axes = figure.subplots(1, 3)
        plot_row_formats(found, axes)
        save_png(figure, tmp_path / "p.png")
        pictures.append(np.asarray(imread(tmp_path / "p.png")))
        words = [text.get_text() for text in axes[0].texts]
        if len(found) == 2:
            # FP32's error of none is on no logarithmic axis
            assert words == ["fp16", "bf16", "int8", "int8_half", "int4"]
        else:
            assert words == ["no trained weights to see it on"]
        assert len(axes[2].patches) == len(found) * len(RULES)
    assert pictures[0].shape == pictures[1].shape


def test_document_says_what_was_not_seen_by_leaving_it_out() -> None:
    seen, unseen = format_document(comparison("one", True)), format_document(comparison("two", False))
    assert seen["formats"][3] == {
        "hot": "fp32",
        "cold": "int8",
        "tables_bytes": 760,
        "memory_bytes": 7500,
        "max_error": pytest.approx(3e-5),
        "mean_error": pytest.approx(3e-6),
        "auc": 0.7,
        "auc_fp32": 0.71,
    }
    assert unseen["formats"][3].keys() == {"hot", "cold", "tables_bytes", "memory_bytes"}


def test_rules_in_words() -> None:
    assert [rule_text(rule) for rule in RULES[2:4]] == ["bf16", "hot fp32, cold int8"]
