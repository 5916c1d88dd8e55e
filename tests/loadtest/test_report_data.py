"""The report's JSON and CSV hold the runs' very values."""

import csv
import io
import json
from pathlib import Path

from loadtest.report.data import report_csv, report_json
from loadtest.run import read_run
from tests.loadtest.runs import runs


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
    assert found == {key: value for key, value in expected.items() if value is not None}
