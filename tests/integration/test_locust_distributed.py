"""Real locust in several processes on a real server: the rate is shared out, every query counted and checked once."""

import csv
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import kstest

from loadtest.run import read_run
from repo_builder.serving.server import free_ports
from tests.integration.conftest import Served, serve
from tests.integration.models import pytorch_scores, random_query

LOCUSTFILE = Path(__file__).parents[2] / "loadtest" / "locustfile.py"
pytestmark = [pytest.mark.server, pytest.mark.slow]


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server for this file, and beside its repository a workload whose every tenth score is wrong."""
    folder = tmp_path_factory.mktemp("locust")
    for served in serve(folder, "tiered", "int64", "native"):
        dense, indices = random_query(served.spec, 80, seed=1)
        scores = pytorch_scores(served.spec, dense, indices).reshape(10, 8, 1)
        scores[2, 1] += 0.01
        np.savez(folder / "wrong.npz", **{"dense": dense, "indices": indices, "expected/score": scores})
        yield served


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--headless", "--only-summary", *words]


def asked(served: Served) -> list[str]:
    addresses = ["--grpc-url", served.server.grpc, "--http-url", served.server.http]
    return ["--repository", str(served.repository), *addresses]


def ports() -> list[str]:
    free = str(free_ports().http)
    return ["--master-port", free, "--master-bind-port", free]


def recorded(path: Path) -> tuple[np.ndarray, list[str]]:
    """When queries were due (s), and what went wrong."""
    with path.open(newline="") as file:
        lines = sorted(csv.DictReader(file), key=lambda line: float(line["due_unix_s"]))
    return np.array([float(line["due_unix_s"]) for line in lines]), [line["error"] for line in lines if line["error"]]


def counted(summary: str) -> tuple[int, int]:
    """Requests and failures of locust's own summary."""
    row = next(line for line in summary.splitlines() if line.split()[:1] == ["Aggregated"]).split()
    return int(row[1]), int(row[2].split("(")[0])


@pytest.mark.parametrize("user", ["GrpcUser", "HttpUser"])
def test_two_processes_share_one_rate_and_every_query_is_recorded_once(own: Served, tmp_path: Path, user: str) -> None:
    words = ("--processes", "2", *ports(), "-u", "15", "-r", "1000", "-t", "6s", "--record", str(tmp_path / "run.csv"))
    workload = ("--workload", str(own.repository.with_name("wrong.npz")))
    done = subprocess.run(
        command(*asked(own), *words, *workload, user), capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr  # 1: there were failures
    due_s, errors = recorded(tmp_path / "run.csv")
    assert counted(done.stdout + done.stderr) == (len(due_s), len(errors))
    assert len(np.unique(due_s)) > 0.98 * len(due_s)  # the workers' times are not the same ones; some meet by chance
    assert set(errors) == {"wrong score: off by 0.01"}
    assert len(errors) == pytest.approx(len(due_s) / 10, abs=4 * np.sqrt(len(due_s) / 10))
    gaps = np.diff(due_s)[20:]
    assert gaps.mean() == pytest.approx(1 / 150, rel=0.15)  # 15 users of 10 queries/s in all
    assert kstest(gaps, "expon", args=(0, gaps.mean())).pvalue > 0.001


def test_workers_started_by_themselves_send_what_the_master_says(own: Served, tmp_path: Path) -> None:
    """Neither worker is told a repository or a rate; the record is the master's."""
    given = ports()
    words = ("--master", "--expect-workers", "2", "--master-bind-host", "127.0.0.1", *given)
    load = ("--traffic", "steps:40,120@3", "--queries-per-user", "5", "--record", str(tmp_path / "run.json"))
    log = tmp_path / "workers.log"
    with log.open("w") as file:
        workers = [subprocess.Popen(command("--worker", *given), stdout=file, stderr=file) for _ in range(2)]
        try:
            done = subprocess.run(
                command(*words, *asked(own), *load, "GrpcUser"),
                capture_output=True,
                text=True,
                timeout=120,
                check=False,
            )
            codes = [worker.wait(60) for worker in workers]
        finally:
            for worker in workers:
                worker.kill()
    assert done.returncode == 0, done.stderr
    assert codes == [0, 0] and "Traceback" not in done.stderr + log.read_text()
    run = read_run(tmp_path / "run.json")
    offered = np.array([sample.offered_qps for sample in run.timeline])
    assert run.complete and run.memory_bytes["tritonserver"] > 2**20
    assert counted(done.stdout + done.stderr)[0] == offered.sum()
    assert offered.sum() == pytest.approx(3 * 40 + 3 * 120, rel=0.35)


def test_a_mistake_is_told_once(own: Served) -> None:
    words = ("--processes", "2", *ports(), "-t", "1s", "--repository", "/nowhere", "GrpcUser")
    done = subprocess.run(command(*words), capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert done.stderr.count("elasticrec: /nowhere: expected a built repository") == 1


def test_what_a_worker_cannot_do_ends_the_master(own: Served, tmp_path: Path) -> None:
    """The workload lies where the master is, and not where the worker looks for it."""
    (tmp_path / "here").mkdir()
    (tmp_path / "here/load.npz").write_bytes(own.repository.with_name("wrong.npz").read_bytes())
    given = ports()
    words = ("--master", "--master-bind-host", "127.0.0.1", *given, "-t", "1s", "--workload", "here/load.npz")
    (tmp_path / "there").mkdir()
    worker = subprocess.Popen(
        command("--worker", *given), cwd=tmp_path / "there", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        done = subprocess.run(
            command(*words, *asked(own), "GrpcUser"),
            cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert worker.wait(60) == 2
    finally:
        worker.kill()
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "elasticrec: worker " in done.stderr and "here/load.npz: expected a workload" in done.stderr


def test_ctrl_c_keeps_what_all_workers_sent(own: Served, tmp_path: Path) -> None:
    record = tmp_path / "run.json"
    words = ("--processes", "2", *ports(), "-u", "5", "-r", "100", "-t", "60s", "--record", str(record), "GrpcUser")
    process = subprocess.Popen(
        command(*asked(own), *words), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    while not (record.exists() and read_run(record).timeline):
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    run = read_run(record)
    assert not run.complete and run.why and run.why.startswith("interrupted after")
    assert sum(sample.offered_qps for sample in run.timeline) == counted(said)[0] > 50 and "Traceback" not in said
