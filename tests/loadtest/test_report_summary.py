"""What the report picks out of a run."""

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import pytest

from loadtest.report.summary import breakdown_point, holds, report_csv, report_json, summarize
from loadtest.run import Run, read_run
from tests.loadtest.runs import day, runs, sweep

RUN = sweep("title", "single", 160, ("rm1", "rm1_dense"), "concurrency")


def best_by_brute_force(run: Run) -> float | None:
    """Latencies at 50, 95, 99 against the SLA, written out."""
    found = None
    for point in run.points:
        latency_ms = point.p95_ms if run.percentile == 95 else point.p99_ms
        if point.errors or (run.sla_ms is not None and latency_ms > run.sla_ms):
            continue
        if found is None or point.throughput_qps > found:
            found = point.throughput_qps
    return found


@pytest.mark.parametrize("sla_ms", [None, 1.0, 20.0, 33.6, 50.0, 10_000.0])
@pytest.mark.parametrize("percentile", [95, 99])
def test_the_best_point_has_the_most_queries_within_the_sla_without_errors(sla_ms: float, percentile: int) -> None:
    run = replace(RUN, sla_ms=sla_ms, percentile=percentile, points=RUN.points[::-1])
    assert summarize(run).throughput_qps == best_by_brute_force(run)


def test_an_sla_is_met_at_its_very_value() -> None:
    point = RUN.points[0]
    assert holds(replace(RUN, sla_ms=point.p95_ms), point)
    assert not holds(replace(RUN, sla_ms=point.p95_ms - 1e-9), point)


def test_errors_and_memory_are_added_up() -> None:
    assert summarize(RUN).errors == 13
    assert summarize(day()).errors == 4
    assert summarize(RUN).memory_bytes == sum(RUN.memory_bytes.values())
    assert summarize(replace(RUN, memory_bytes={})).memory_bytes is None


def test_the_breakdown_is_of_the_best_point_that_was_measured() -> None:
    assert breakdown_point(RUN) is summarize(RUN).best
    bare = tuple(replace(point, services={}) for point in RUN.points[1:])
    assert breakdown_point(replace(RUN, points=(RUN.points[0], *bare))) is RUN.points[0]
    assert breakdown_point(replace(RUN, points=bare)) is None


def test_json_holds_the_runs_whole(tmp_path: Path) -> None:
    document = json.loads(report_json(runs()))
    for run, found in zip(runs(), document["runs"], strict=True):
        (tmp_path / "run.json").write_text(json.dumps(found["run"]))
        assert read_run(tmp_path / "run.json") == run


def test_csv_holds_every_value_once() -> None:
    given = runs()
    lines = list(csv.DictReader(io.StringIO(report_csv(given))))
    found = {
        (int(line["run"]), line["part"], line["at_kind"], line["at"], line["name"], line["measure"]): float(
            line["value"]
        )
        for line in lines
    }
    assert len(found) == len(lines)
    assert {line["title"] for line in lines} == {run.title for run in given}
    expected = {}
    for i, run in enumerate(given):
        for point in run.points:
            at = (point.load_kind, str(point.load))
            for measure in (
                "throughput_qps",
                "p50_ms",
                "p95_ms",
                "p99_ms",
                "mean_ms",
                "queries",
                "errors",
                "network_ms",
            ):
                expected[i, "point", *at, "", measure] = getattr(point, measure)
            for name, times in point.services.items():
                for measure in ("requests", "executions", "queue_ms", "compute_ms"):
                    expected[i, "service", *at, name, measure] = getattr(times, measure)
        for sample in run.timeline:
            at = ("time_s", str(sample.time_s))
            for measure in ("offered_qps", "answered_qps", "p50_ms", "p95_ms", "p99_ms", "errors"):
                expected[i, "timeline", *at, "", measure] = getattr(sample, measure)
            expected |= {(i, "replicas", *at, name, "replicas"): n for name, n in sample.replicas.items()}
            expected |= {(i, "memory", *at, name, "memory_bytes"): n for name, n in sample.memory_bytes.items()}
        expected |= {(i, "memory", "", "", name, "memory_bytes"): n for name, n in run.memory_bytes.items()}
        expected |= {(i, "rows", "", "", name, "rows"): each.rows for name, each in run.rows.items()}
        expected |= {(i, "rows", "", "", name, "size_bytes"): each.size_bytes for name, each in run.rows.items()}
        if run.score_error:
            expected[i, "rows", "", "", "", "max_score_error"] = run.score_error.max
            expected[i, "rows", "", "", "", "mean_score_error"] = run.score_error.mean
    assert found == {key: value for key, value in expected.items() if value is not None}
