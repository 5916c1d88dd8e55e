"""The run record: what is written is what is read, whole, and mistakes are told."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from loadtest.run import LoadPoint, Run, RunSample, ServiceTimes, read_run, write_run
from repo_builder.errors import InputError

POINT = LoadPoint(
    "request_rate", 50.5, 49.0, 1.0, 2.0, 3.0, 1.5, 100, 1, {"rm1_dense": ServiceTimes(9, 8, 0.1, 0.2)}, 0.3
)
SAMPLE = RunSample(1.0, 50.0, 0.0, None, None, None, 3, {"dense": 2}, {"dense": 1 << 20})
RUN = Run(
    title="a run",
    tool="locust",
    started="2026-01-02T03:04:05+00:00",
    command=("elasticrec", "loadtest"),
    model="rm1",
    layout="fleet",
    batch=32,
    sla_ms=400.0,
    percentile=95,
    machine={"cpu": "a processor", "cores": 2},
)


@pytest.mark.parametrize(
    "run",
    [
        replace(RUN, why="interrupted"),
        replace(
            RUN, complete=True, points=(POINT, POINT), found_qps=49.0, memory_bytes={"rm1": 5}, replicas={"rm1": 2}
        ),
        replace(RUN, complete=True, timeline=(SAMPLE,), sla_ms=None),
    ],
)
def test_a_run_is_read_as_it_was_written(run: Run, tmp_path: Path) -> None:
    write_run(tmp_path / "run.json", RUN)
    write_run(tmp_path / "run.json", run)
    assert read_run(tmp_path / "run.json") == run
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"format": 2}, "format: expected 1, got 2; measure again"),
        ({"tool": "wrk"}, "tool: expected one of perf_analyzer, locust"),
        ({"percentile": 90}, "percentile: expected one of 95, 99"),
        ({"points": [{}]}, r"points\[0\]\.load_kind: expected this field"),
        ({"more": 1}, "more: unknown field"),
    ],
)
def test_a_mistake_names_its_field(change: dict[str, object], told: str, tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text(json.dumps({**json.loads(RUN.to_json()), **change}))
    with pytest.raises(InputError, match=told):
        read_run(path)


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be written"):
        write_run(tmp_path / "nowhere" / "run.json", RUN)
