"""A budget of score error: spent wherever something is planned, kept by what is built, told in one line."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import elasticrec
from elasticrec.cli import main
from elasticrec.loading import unwatched
from elasticrec.rows import compare_rows, with_chosen_rows
from elasticrec.tables import size
from elasticrec.tables_plan import plan_summary
from repo_builder.analysis.fleets import ComparisonCase
from repo_builder.analysis.row_formats import RULES, FormatComparison
from repo_builder.errors import InputError, SpecError
from repo_builder.export.examples import write_example_checkpoint
from repo_builder.model.row_rule import RowRule
from repo_builder.partition.accesses import model_accesses
from repo_builder.partition.cost import DEFAULT_PROFILE
from repo_builder.partition.placement.cluster import Cluster, NodePool
from repo_builder.repository.samples import sample_queries
from repo_builder.spec import Spec, parse_spec
from tests.repository.test_row_budget import SMALL, LargeHotRows, wide_spec
from triton_backends.kernels.row_formats import decode_rows, row_bytes

DOCUMENT: dict[str, Any] = {
    "name": "small",
    "dense_features": 4,
    "bottom_mlp": [16, 8],
    "top_mlp": [16, 1],
    "tables": [
        {"name": "items", "rows": 600, "dim": 8, "pooling": 4},
        {"name": "users", "rows": 90, "dim": 8, "pooling": 1},
    ],
    "weights": {"source": "random", "seed": 3},
    "access": {"source": "powerlaw", "locality": 0.9},
    "serving": {"target_qps": 500, "batch": 8},
}


def with_budget(budget: float) -> tuple[Spec, LargeHotRows]:
    spec, source = wide_spec()
    return replace(spec, rows=RowRule(budget=budget)), source


def written_table(folder: Path, plan: elasticrec.Plan, spec: Spec) -> np.ndarray:
    """The one table of a repository, out of its services' files."""
    (table,), hotness = spec.model.tables, elasticrec.load_hotness(spec)
    found, order = np.full((table.rows, table.format.dim), np.nan, np.float32), hotness.order(table)
    for service in plan.embedding_services:
        (shard,), size = service.shards, row_bytes(table.format.dim, service.row_dtype)
        stored = np.fromfile(folder / f"{spec.name}_{service.name}" / "1" / "weights.bin", np.uint8).reshape(-1, size)
        ids = np.sort(order[shard.begin : shard.end])
        found[ids] = decode_rows(stored, table.format.dim, service.row_dtype)
    return found


@pytest.mark.parametrize(("budget", "profile"), [(1e-4, SMALL), (2e-3, SMALL), (0.03, SMALL), (0.03, DEFAULT_PROFILE)])
def test_a_budget_is_kept_by_what_is_built(budget: float, profile: elasticrec.Profile, tmp_path: Path) -> None:
    """By the whole model on the tables that lie in the repository, cut or not."""
    told: list[str] = []
    spec, source = with_budget(budget)
    plan = elasticrec.plan(spec, profile=profile, s_max=2, tell=told.append)
    assert plan.grouping == ("tiered" if profile is SMALL else "model_wise")
    assert {service.row_dtype for service in plan.embedding_services} != {"fp32"}
    built = elasticrec.build(spec, tmp_path / "built", plan)
    other = LargeHotRows(source.model)
    other.tables = [written_table(tmp_path / "built", plan, spec)]
    errors = []
    for query in sample_queries(spec, source, elasticrec.load_hotness(spec)).queries:
        own = source.answers(query)
        errors += [np.abs(each.astype(np.float64) - own[name]).max() for name, each in other.answers(query).items()]
    assert 1e-6 < max(errors) <= budget + 1e-6
    assert built.manifest.proof and built.manifest.proof.score_error
    assert built.manifest.proof.score_error.max <= budget
    (line,) = told
    assert line.startswith("toy: rows ") and line.endswith(f"drawn rows; the budget is {budget:g}")
    (error,) = re.findall(r"score error at most (\S+),", line)
    assert float(error) == pytest.approx(max(errors), rel=0.06)


def test_a_budget_of_nothing_is_float32_and_a_huge_one_int4() -> None:
    dtypes = [
        {
            service.row_dtype
            for service in elasticrec.plan(with_budget(budget)[0], profile=SMALL, least_saving=0).embedding_services
        }
        for budget in (0, 1e9)
    ]
    assert dtypes == [{"fp32"}, {"int4"}]


def build(spec: Spec, target: Path) -> object:
    return elasticrec.build(spec, target).plan.embedding_services[0].row_dtype


def explain(spec: Spec, _: Path) -> object:
    return elasticrec.explain(spec, profile=SMALL, least_saving=0).plan.embedding_services[0].row_dtype


def sweep(spec: Spec, _: Path) -> object:
    return elasticrec.sweep(spec, elasticrec.Sweep("s_max", (1, 2)), profile=SMALL).setting.spec.rows.cold


def build_whole(spec: Spec, target: Path) -> object:
    return elasticrec.build(spec, target, layout="model-wise").plan.embedding_services[0].row_dtype


@pytest.mark.parametrize("verb", [build, build_whole, explain, sweep])
def test_every_verb_that_plans_spends_the_budget(verb: Callable[[Spec, Path], object], tmp_path: Path) -> None:
    assert verb(with_budget(1e9)[0], tmp_path / "built") == "int4"


def test_a_simulation_has_whole_replicas_of_the_rows_that_the_budget_chose() -> None:
    """Each pod beside the least memory of a container holds one copy of the tables."""
    spec, traffic = with_budget(1e9)[0], elasticrec.Traffic((0.0,), (1.0,), 60.0)
    told: list[str] = []
    (pod,) = elasticrec.simulate(spec, traffic, profile=SMALL, tell=told.append)[0].timeline.fleet.services
    assert told[0].startswith("toy: rows int4: ")
    tables = spec.model.stored_bytes("int4")
    assert pod.memory_bytes == tables + spec.model.dense.parameter_bytes + SMALL.min_memory_bytes


def test_a_simulation_counts_the_clusters_containers_as_plans_do() -> None:
    spec, traffic = replace(with_budget(1)[0], rows=RowRule()), elasticrec.Traffic((0.0,), (1.0,), 60.0)
    cluster = replace(CLUSTER, min_memory_bytes=10**9)
    whole, ours = elasticrec.simulate(spec, traffic, profile=SMALL, cluster=cluster)
    planned = elasticrec.plan(spec, profile=SMALL, cluster=cluster, grouping="tiered").services
    memory = {service.name: service.memory_bytes for service in planned}
    assert {service.name: service.memory_bytes for service in ours.timeline.fleet.services} == memory
    assert all(service.memory_bytes > 10**9 for service in whole.timeline.fleet.services)


@pytest.mark.parametrize("rows", [RowRule("int8", "int8"), RowRule("fp32", "int4"), RowRule(budget=1e9)])
def test_one_copy_of_the_tables_is_told_as_it_is_stored(rows: RowRule) -> None:
    spec = replace(with_budget(1)[0], rows=rows)
    plan = elasticrec.plan(spec, profile=SMALL, grouping="tiered", s_max=2)
    held = sum(service.memory_bytes - SMALL.min_memory_bytes for service in plan.embedding_services)
    (told,) = re.findall(r"one copy of the tables is (.*?)\)", plan_summary(plan, spec))
    assert told == size(held)
    assert told != size(spec.model.size_bytes)


def test_a_spec_without_a_budget_is_not_read() -> None:
    spec = parse_spec({**DOCUMENT, "weights": {"source": "dlrm", "path": "none.pt"}}, Path("spec.yaml"))

    def never(_: Spec) -> elasticrec.Plan:
        raise AssertionError

    found = with_chosen_rows(spec, elasticrec.load_hotness(spec), never, unwatched, print)
    assert found is spec


def test_a_plan_beyond_the_budget_is_not_built(tmp_path: Path) -> None:
    spec, _ = with_budget(1e-4)
    plan = elasticrec.plan(replace(spec, rows=RowRule("int4", "int4")), profile=SMALL)
    with pytest.raises(SpecError, match=r"rows\.budget: expected a score error of at most 0\.0001 on samples, got "):
        elasticrec.build(spec, tmp_path / "built", plan)
    assert not (tmp_path / "built").exists()


def test_a_budget_without_weights_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = {**DOCUMENT, "weights": {"source": "dlrm", "path": "none.pt"}, "rows": {"budget": 1e-3}}
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(document))
    assert main(["plan", str(tmp_path / "spec.yaml")]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert "rows.budget: expected the model's weights, to tell the score error of, found no" in line
    assert line.endswith("none.pt; bring them, or name the formats, as in rows: {hot: fp32, cold: int8}")


CLUSTER = Cluster("cpus", (NodePool("cpu", 50, 8000, 4_000_000_000, 0, 0, 2.0),))


def compared(spec: Spec) -> FormatComparison:
    hotness = elasticrec.load_hotness(spec)
    case = ComparisonCase(spec, model_accesses(spec, hotness), SMALL, CLUSTER, 4)
    return compare_rows(case, hotness, 500, False, unwatched)


def test_scores_are_compared_where_trained_weights_are_there(tmp_path: Path) -> None:
    drawn = parse_spec(DOCUMENT, tmp_path / "spec.yaml")
    trained = parse_spec({**DOCUMENT, "weights": {"source": "dlrm", "path": "model.pt"}}, tmp_path / "spec.yaml")
    missing = compared(trained)
    write_example_checkpoint(drawn.dlrm, tmp_path / "model.pt")
    found, of_drawn = compared(trained), compared(drawn)
    assert found.told == "scores of 2,048 drawn rows"
    assert missing.told.startswith("no score error: ") and missing.told.endswith("model.pt is not there")
    assert "say nothing of trained ones" in of_drawn.told
    for each in (found, missing, of_drawn):
        assert [result.rule for result in each.results] == list(RULES)
        assert [result.tables_bytes for result in each.results] == [result.tables_bytes for result in found.results]
    assert all(result.scores is None for result in (*missing.results, *of_drawn.results))
    errors = {result.rule: result.scores.max_error for result in found.results if result.scores}
    assert errors[RULES[0]] == 0
    assert 0 < errors[RowRule("fp16", "fp16")] < errors[RowRule("int8", "int8")] < errors[RowRule("int4", "int4")]
    assert all(result.scores and result.scores.auc for result in found.results)


def test_a_file_that_ends_early_is_told(tmp_path: Path) -> None:
    trained = parse_spec({**DOCUMENT, "weights": {"source": "dlrm", "path": "model.pt"}}, tmp_path / "spec.yaml")
    (tmp_path / "model.pt").write_bytes(b"no checkpoint")
    with pytest.raises(InputError, match=r"model\.pt"):
        compared(trained)


def test_comparing_nothing_is_told() -> None:
    with pytest.raises(InputError, match="specs: expected at least one to compare, got none"):
        elasticrec.compare([], CLUSTER)
