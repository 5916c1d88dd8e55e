"""Real locust on a real server: an open loop, honest latencies, wrong scores found, mistakes told in a line."""

import csv
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import kstest

from loadtest.run import NOT_ENDED, read_run
from tests.integration.conftest import Served, serve
from tests.integration.models import pytorch_scores, random_query

LOCUSTFILE = Path(__file__).parents[2] / "loadtest" / "locustfile.py"
pytestmark = [pytest.mark.server, pytest.mark.slow]


def locust(served: Served, *words: str, user: str = "GrpcUser") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--headless", "--only-summary"]
    addresses = ["--grpc-url", served.server.grpc, "--http-url", served.server.http]
    command += ["--repository", str(served.repository), *addresses, *words, user]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def recorded(path: Path) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """When queries were due (s), their latencies (ms), and what went wrong."""
    with path.open(newline="") as file:
        lines = sorted(csv.DictReader(file), key=lambda line: float(line["due_unix_s"]))
    numbers = np.array([[float(line["due_unix_s"]), float(line["latency_ms"])] for line in lines])
    return numbers[:, 0], numbers[:, 1], [line["error"] for line in lines if line["error"]]


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server for this file, and beside its repository a workload with expected scores: right, and wrong ones."""
    folder = tmp_path_factory.mktemp("locust")
    for served in serve(folder, "tiered", "int64", "python"):
        dense, indices = random_query(served.spec, 80, seed=1)
        scores = pytorch_scores(served.spec, dense, indices).reshape(10, 8, 1)
        np.savez(folder / "right.npz", **{"dense": dense, "indices": indices, "expected/score": scores[:5]})
        scores[2, 1] += 0.01
        np.savez(folder / "wrong.npz", **{"dense": dense, "indices": indices, "expected/score": scores})
        yield served


@pytest.mark.parametrize("user", ["GrpcUser", "HttpUser"])
def test_queries_come_at_poisson_times_and_every_score_is_right(own: Served, tmp_path: Path, user: str) -> None:
    words = ("-u", "15", "-r", "100", "-t", "6s", "--workload", str(own.repository.with_name("right.npz")))
    done = locust(own, *words, "--record", str(tmp_path / "run.csv"), user=user)
    assert done.returncode == 0, done.stderr
    due_s, latency_ms, errors = recorded(tmp_path / "run.csv")
    assert not errors and (latency_ms > 0).all()
    gaps = np.diff(due_s)[20:]  # after the users have started
    assert gaps.mean() == pytest.approx(1 / 150, rel=0.15)
    assert kstest(gaps, "expon", args=(0, gaps.mean())).pvalue > 0.001


def test_a_wrong_score_is_a_failure(own: Served, tmp_path: Path) -> None:
    words = ("-u", "5", "-r", "100", "-t", "3s", "--workload", str(own.repository.with_name("wrong.npz")))
    done = locust(own, *words, "--record", str(tmp_path / "run.csv"))
    due_s, _, errors = recorded(tmp_path / "run.csv")
    assert done.returncode == 1
    assert set(errors) == {"wrong score: off by 0.01"}
    assert len(errors) == pytest.approx(len(due_s) / 10, abs=4 * np.sqrt(len(due_s) / 10))  # one query of ten


def test_a_stalled_server_is_charged_for_what_came_meanwhile(own: Served, tmp_path: Path) -> None:
    """No coordinated omission: queries due during a stall of 2 s wait for its end, the first of them longest."""

    record, over = tmp_path / "run.csv", threading.Event()

    def stall() -> None:
        while not (record.exists() and record.stat().st_size > 100):  # some queries have been answered
            if over.wait(0.1):
                return
        os.kill(own.server.process.pid, signal.SIGSTOP)
        time.sleep(2)
        os.kill(own.server.process.pid, signal.SIGCONT)

    stalling = threading.Thread(target=stall)
    stalling.start()
    done = locust(own, "-u", "5", "-r", "100", "-t", "6s", "--record", str(record))
    over.set()
    stalling.join()
    assert done.returncode == 0, done.stderr
    due_s, latency_ms, _ = recorded(record)
    slow = latency_ms > 200
    assert 1500 < latency_ms.max() < 2500
    assert slow.sum() == pytest.approx(50 * 1.8, rel=0.35)  # 50 queries/s came all the time
    ends_s = due_s[slow] + latency_ms[slow] / 1000
    assert np.ptp(np.quantile(ends_s, [0.1, 0.9])) < 0.5  # they were due at any time, and answered when it went on


def test_traffic_follows_its_shape_and_ends_with_it(own: Served, tmp_path: Path) -> None:
    done = locust(own, "--traffic", "steps:40,160,20@3", "--record", str(tmp_path / "run.csv"))
    assert done.returncode == 0, done.stderr
    due_s, _, errors = recorded(tmp_path / "run.csv")
    counts, _ = np.histogram(due_s - due_s[0], [0.5, 2.5, 3.5, 5.5, 6.5, 8.5])
    expected = np.array([80, 320, 40])  # in the middle of each step: a shape is looked at every second
    assert not errors
    assert (np.abs(counts[::2] - expected) < 4 * np.sqrt(expected)).all(), counts


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--repository", "/nowhere"), "elasticrec: /nowhere: expected a built repository"),
        (("--workload", "/nowhere.npz"), "elasticrec: /nowhere.npz: expected a workload"),
        (("--traffic", "steps:1@x"), "elasticrec: traffic: SECONDS is no number"),
        (("--queries-per-user", "0"), "elasticrec: --queries-per-user: expected more than 0, got 0.0"),
        (
            ("--grpc-url", "127.0.0.1:9"),
            "elasticrec: 127.0.0.1:9: expected a server's grpc endpoint, none answers there",
        ),
    ],
)
def test_mistakes_are_one_line(own: Served, words: tuple[str, ...], message: str) -> None:
    done = locust(own, "-t", "1s", *words)
    assert done.returncode == 2
    assert message in done.stderr and "Traceback" not in done.stderr


def test_ctrl_c_leaves_a_partial_run_that_says_so(own: Served, tmp_path: Path) -> None:
    record = tmp_path / "run.json"
    command = [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--headless", "--repository", str(own.repository)]
    command += ["--grpc-url", own.server.grpc, "-u", "5", "-r", "100", "-t", "60s", "--record", str(record), "GrpcUser"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while not (record.exists() and read_run(record).timeline):
        assert process.poll() is None
        time.sleep(0.1)
    assert read_run(record).why == NOT_ENDED
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    run = read_run(record)
    assert not run.complete and run.why and run.why.startswith("interrupted after") and run.why.endswith("of 60 s")
    assert sum(sample.answered_qps for sample in run.timeline) > 50 and "Traceback" not in said


def test_a_server_that_dies_fails_what_comes_after(own_server: Served, tmp_path: Path) -> None:
    record = tmp_path / "run.csv"

    def kill() -> None:
        while not (record.exists() and record.stat().st_size > 100):
            time.sleep(0.1)
        os.kill(own_server.server.process.pid, signal.SIGKILL)

    killing = threading.Thread(target=kill)
    killing.start()
    done = locust(own_server, "-u", "5", "-r", "100", "-t", "5s", "--record", str(record))
    killing.join()
    due_s, _, errors = recorded(record)
    assert done.returncode == 1 and 0 < len(errors) < len(due_s)


def test_a_run_for_a_report_counts_every_query(own: Served, tmp_path: Path) -> None:
    done = locust(own, "-u", "5", "-r", "100", "-t", "4s", "--record", str(tmp_path / "run.json"))
    assert done.returncode == 0, done.stderr
    run = read_run(tmp_path / "run.json")
    assert run.complete and run.tool == "locust" and run.model == "small" and run.command[0] == "locust"
    assert sum(sample.offered_qps for sample in run.timeline) == pytest.approx(200, rel=0.35)
    assert sum(sample.errors for sample in run.timeline) == 0
    assert run.machine["tritonserver"] == "2.51.0" and run.memory_bytes["tritonserver"] > 2**20
    assert run.timeline[-1].memory_bytes.keys() == run.memory_bytes.keys()
