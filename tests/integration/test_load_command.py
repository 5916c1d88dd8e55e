"""`elasticrec loadtest perf` on a real server: figures, the run file, a search, an interruption, mistakes in a line."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import tritonclient.http

from loadtest.perf_run import within
from loadtest.run import NOT_ENDED, read_run
from repo_builder.access.query_file import QueryFile
from repo_builder.profiling.perf_analyzer import LoadTestError, run, write_input_data
from tests.integration.conftest import Served, serve
from tests.integration.models import random_query

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One server is enough here."""
    yield from serve(tmp_path_factory.mktemp("perf"), "tiered", "int64", "native")


def words(served: Served, output: Path, *more: str) -> list[str]:
    command = [sys.executable, "-m", "elasticrec.cli", "loadtest", "perf", str(served.repository)]
    return [*command, "-o", str(output), "--seconds", "0.9", "--url", served.server.grpc, *more]


def perf(served: Served, output: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words(served, output, *more), capture_output=True, text=True, timeout=200, check=False)


def test_sweeps_are_recorded(served: Served, tmp_path: Path) -> None:
    done = perf(served, tmp_path / "run.json", "--concurrency", "1:2", "--request-rate", "40")
    assert done.returncode == 0, done.stderr
    found = read_run(tmp_path / "run.json")
    assert found.complete and found.why is None and found.model == "small" and found.batch == 8
    assert [(point.load_kind, point.load) for point in found.points] == [
        ("concurrency", 1),
        ("concurrency", 2),
        ("request_rate", 40),
    ]
    for point in found.points:
        assert 0 < point.p50_ms <= point.p95_ms <= point.p99_ms and point.queries > 0
        assert {"small_router", "small_dense"} <= set(point.services)
    assert {"small_router", "small_tier0", "tritonserver"} <= set(found.memory_bytes)
    assert 2**20 < sum(found.memory_bytes.values()) < 2**31 and not found.replicas
    assert found.points[2].throughput_qps == pytest.approx(40, rel=0.5)


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_shared_memory(served: Served, tmp_path: Path, protocol: str) -> None:
    """The server knows the client's regions while it runs, and none afterwards."""
    address = served.server.grpc if protocol == "grpc" else served.server.http
    more = ("--protocol", protocol, "--url", address, "--concurrency", "1", "--shared-memory")
    server = tritonclient.http.InferenceServerClient(served.server.http)
    process = subprocess.Popen(words(served, tmp_path / "run.json", *more), stderr=subprocess.PIPE, text=True)
    seen = 0
    while process.poll() is None:
        seen = max(seen, len(server.get_system_shared_memory_status()))
        time.sleep(0.02)
    assert process.returncode == 0 and process.stderr, process.stderr
    process.stderr.close()
    assert read_run(tmp_path / "run.json").points[0].throughput_qps > 0
    assert seen >= 2 and not server.get_system_shared_memory_status()  # dense, indices


@pytest.mark.long  # it measures what the machine has left: nothing else may run beside it
def test_a_search_finds_a_rate_that_the_server_holds(served: Served, tmp_path: Path) -> None:
    done = perf(served, tmp_path / "run.json", "--search", "--sla-ms", "20")
    assert done.returncode == 0, done.stderr
    found = read_run(tmp_path / "run.json")
    assert found.complete and found.found_qps is not None
    held = next(point for point in found.points if point.throughput_qps == found.found_qps)
    assert held.load_kind == "request_rate" and held.p95_ms <= 20
    assert held.throughput_qps == pytest.approx(held.load, rel=0.15)
    failed = [point.load for point in found.points if not within(point, 20, 95)]
    assert any(held.load < load < 1.2 * held.load for load in failed)  # a little more was too much


def test_an_sla_that_an_idle_server_misses(served: Served, tmp_path: Path) -> None:
    done = perf(served, tmp_path / "run.json", "--search", "--sla-ms", "0.01")
    assert done.returncode == 1 and "within the SLA of 0.01 ms, but one query at a time takes" in done.stderr
    found = read_run(tmp_path / "run.json")
    assert not found.complete and found.why and len(found.points) == 1


def test_ctrl_c_leaves_what_was_measured(own_server: Served, tmp_path: Path) -> None:
    """On a server of its own: an old one can die of the calls that perf_analyzer leaves."""
    output = tmp_path / "run.json"
    process = subprocess.Popen(words(own_server, output, "--concurrency", "1:50"), stderr=subprocess.PIPE, text=True)
    while not (output.exists() and read_run(output).points):
        assert process.poll() is None
        time.sleep(0.1)
    assert read_run(output).why == NOT_ENDED
    os.kill(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 1 and "interrupted" in said and "Traceback" not in said
    found = read_run(output)
    assert not found.complete and found.why == "interrupted" and found.points


def test_a_server_that_dies_leaves_what_was_measured(own_server: Served, tmp_path: Path) -> None:
    output = tmp_path / "run.json"
    process = subprocess.Popen(words(own_server, output, "--concurrency", "1:50"), stderr=subprocess.PIPE, text=True)
    while not (output.exists() and read_run(output).points):
        assert process.poll() is None
        time.sleep(0.1)
    os.kill(own_server.server.process.pid, signal.SIGKILL)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1 and "perf_analyzer" in said and "Traceback" not in said
    found = read_run(output)
    assert not found.complete and found.why and found.points


def test_another_model_than_the_servers_is_told(served: Served, tmp_path: Path) -> None:
    manifest = json.loads((served.repository / "manifest.json").read_text())
    (tmp_path / "other").mkdir()
    (tmp_path / "other/manifest.json").write_text(json.dumps({**manifest, "name": "other"}))
    (tmp_path / "other/queries.npz").write_bytes((served.repository / "queries.npz").read_bytes())
    done = perf(replace(served, repository=tmp_path / "other"), tmp_path / "run.json")
    assert done.returncode == 1 and "expected the model other, which this server does not serve" in done.stderr
    assert not (tmp_path / "run.json").exists()


@pytest.mark.parametrize(
    ("more", "code", "told"),
    [
        (("--url", "127.0.0.1:9"), 1, "127.0.0.1:9: expected a server's grpc endpoint, none answers there"),
        (("--url", "nowhere"), 2, "--url: expected HOST:PORT"),
        (("--seconds", "0"), 2, "--seconds: expected a number from 0.3"),
        (("--concurrency", "0"), 2, "--concurrency: expected FIRST[:LAST[:STEP]]"),
    ],
)
def test_mistakes_are_told(served: Served, tmp_path: Path, more: tuple[str, ...], code: int, told: str) -> None:
    done = perf(served, tmp_path / "run.json", *more)
    assert done.returncode == code and told in done.stderr and "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_the_ids_arrive_as_they_were_written(served: Served, tmp_path: Path) -> None:
    """The router names the one id that no table has."""
    dense, indices = random_query(served.spec, 8, seed=0)
    indices[5, 2] = 123456
    queries = QueryFile({"dense": dense, "indices": indices})
    write_input_data(tmp_path / "data.json", queries, served.spec.model.inputs, 8)
    with pytest.raises(LoadTestError, match="id 123456 in row 5, column 2"):
        run("small", served.server.grpc, tmp_path / "data.json", 1, 0.9)
