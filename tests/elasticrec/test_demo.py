"""The tour from a checkpoint to measured queries, on the real server."""

import getpass
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from elasticrec.cli import main
from elasticrec.commands.demo import demo_table
from elasticrec.demo import Options, Report, run_demo
from repo_builder.export.dlrm.source import DlrmSource

pytestmark = [pytest.mark.server, pytest.mark.slow]


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where temporary files go; after the test there is none, nor a process, nor shared memory."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    before, regions_before = set(psutil.Process().children(recursive=True)), regions()
    yield folder
    left = [path.name for path in folder.iterdir()]
    assert set(left) <= {f"torchinductor_{getpass.getuser()}"}  # torch's own cache, when it is first imported
    assert not set(psutil.Process().children(recursive=True)) - before
    assert not regions() - regions_before


def regions() -> set[Path]:
    """Shared memory of the servers that this process runs."""
    return set(Path("/dev/shm").glob(f"elasticrec_{os.getpid()}_*"))  # noqa: S108 - where Triton puts it


def test_the_tour(tmp_path: Path) -> None:
    """Five steps of each model told, right scores over both protocols, and figures for every part."""
    said: list[str] = []
    reports: list[Report] = []
    run_demo(Options(tmp_path / "out", table_rows=1000, queries=64, seconds=1.5), said.append, reports.append)
    assert [line[0] for line in said] == 2 * ["1", "2", "3", "4", "4", "5"]
    assert [report.spec.name for report in reports] == ["demo", "dcn_v2"]
    for report in reports:
        check(report)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        ".elasticrec-demo",
        *("demo.yaml", "demo.pt", "demo", "demo.log", "demo.json"),
        *("dcn_v2.yaml", "dcn_v2.pt2", "dcn_v2", "dcn_v2.log", "dcn_v2.json"),
    }


def check(report: Report) -> None:
    name = report.spec.name
    assert set(report.differences) == {"grpc", "http"}
    assert all(0 <= difference <= 1e-5 for difference in report.differences.values())
    models = {f"{name}_{service.name}" for service in report.plan.services} | {f"{name}_router"}
    assert len(report.plan.embedding_services) >= 1
    own_process = {f"{name}_{service.name}" for service in report.plan.embedding_services} | {"tritonserver"}
    cut = len(report.plan.embedding_services) > 1  # else there are no id maps
    assert set(report.memory) == own_process | ({f"{name}_router"} if cut else set())
    assert all(report.memory[each] > 2**20 for each in own_process) and all(report.memory.values())
    assert set(report.times) == models | {name}
    queries = report.times[name].requests
    assert queries >= 2 + report.measurement.throughput_qps  # those compared, and a second's and more
    for model in models:
        times = report.times[model]
        assert queries <= times.requests <= queries + 100, model  # and its warm-up's
        assert 0 < times.executions <= times.requests and times.compute_ms > 0, model
    assert demo_table(report).row_count == len(models) + 2


def test_the_command_line_takes_a_single_row(capsys: pytest.CaptureFixture[str]) -> None:
    """Less than the query of 32 rows that the load is made of."""
    assert main(["demo", "--rows", "1000", "--queries", "1", "--seconds", "1"]) == 0
    told = capsys.readouterr()
    assert told.err == ""
    found = re.findall(r"^scores equal .* max abs difference (\S+)$", told.out, re.MULTILINE)
    assert len(found) == 2 and all(float(each) <= 1e-5 for each in found)
    for model in ("demo_router", "demo_tier0", "dcn_v2_tier0", "tritonserver"):
        assert re.search(rf"^{model} .* [KM]iB", told.out, re.MULTILINE), model


def test_a_folder_of_somebody_elses_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/demo.pt").write_text("mine")
    assert main(["demo", "--rows", "1000", "-o", str(tmp_path / "mine")]) == 2
    assert "expected an empty folder, or that of a former demo, got other files" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["demo.pt"]


def test_one_wrong_score_fails_it_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The last row of more than one query may hold is compared too."""
    right = DlrmSource.answers

    def off(source: DlrmSource, inputs: Any) -> Any:
        scores = right(source, inputs)["score"].copy()
        if len(scores) == 4097:  # not those that the build is proven with
            scores[-1] += 1e-3
        return {"score": scores}

    monkeypatch.setattr(DlrmSource, "answers", off)
    assert main(["demo", "--rows", "1000", "--queries", "4097", "--seconds", "1"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert re.fullmatch(r"elasticrec: grpc: expected scores within 1e-05 of PyTorch's, got 0\.00(0999|1)\d*", lines[0])
