"""`elasticrec up`, `ps`, `scale`, `logs` and `down` as a user runs them, on real servers."""

import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest

from elasticrec.cli import main
from loadtest.run import read_run
from repo_builder.local_fleet.supervisor import AT_ONCE
from repo_builder.repository.manifest import MANIFEST, entry_of, load_manifest
from tests.integration.fleets import eventually
from tests.integration.models import pytorch_scores, random_query, score
from tests.integration.ups import Built, Up, built, following_load, ready, up

LOCUSTFILE = Path(__file__).parents[2] / "loadtest" / "locustfile.py"
pytestmark = [pytest.mark.server, pytest.mark.slow]


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return built(tmp_path_factory.mktemp("up"), sla_ms=20_000)  # a query's deadline, which no slow machine may miss


@pytest.fixture(scope="module")
def running(fleet: Built) -> Iterator[Up]:
    with ready(fleet) as process:
        yield process


def elasticrec(*words: object) -> int:
    return main([str(word) for word in words])


def test_it_prints_the_front_ends_and_scores_as_pytorch(fleet: Built, running: Up) -> None:
    line = next(line for line in running.lines if line.startswith("frontend-1  grpc"))
    address = line.split()[2]
    query = random_query(fleet.spec, 4, seed=1)
    np.testing.assert_allclose(score("grpc", address, "small", *query), pytorch_scores(fleet.spec, *query), atol=1e-5)
    assert json.loads(fleet.run.addresses.read_text())["frontend"] == [address]


def test_native_shards_are_called_at_a_port_of_their_own(tmp_path: Path) -> None:
    fleet = built(tmp_path, sla_ms=20_000, shard_backend="native")
    query = random_query(fleet.spec, 4, seed=1)
    with ready(fleet):
        (frontend,) = fleet.replicas("frontend")
        (shard,) = fleet.replicas("tier0")
        assert frontend["calls"] == frontend["grpc"] and shard["calls"] != shard["grpc"]
        assert json.loads(fleet.run.addresses.read_text())["tier0"] == [shard["calls"]]
        scores = score("grpc", frontend["grpc"], "small", *query)
        np.testing.assert_allclose(scores, pytorch_scores(fleet.spec, *query), atol=1e-5)


def test_everything_listens_on_the_loopback_address_alone(running: Up) -> None:
    listening = [
        connection.laddr.ip
        for process in [psutil.Process(running.process.pid), *running.children()]
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert len(listening) >= 9 and {ip.removeprefix("::ffff:") for ip in listening} == {"127.0.0.1"}


def test_a_load_test_records_every_service(fleet: Built, running: Up, tmp_path: Path) -> None:
    """perf_analyzer knows the front end alone; the rest is read from the fleet's own servers."""
    loads = ("--concurrency", 2, "--seconds", 0.9, "-o", tmp_path / "run.json")
    assert elasticrec("loadtest", "perf", fleet.folder, *loads) == 0
    run = read_run(tmp_path / "run.json")
    (point,) = run.points
    assert set(point.services) == {"small_router", "small_dense", "small_tier0", "small_tier1"}
    for times in point.services.values():
        assert times.requests >= times.executions > 0 and times.compute_ms > 0
    assert point.services["small_tier0"].requests > point.queries / 2  # queries that wait share a call
    assert set(run.memory_bytes) == {"frontend", "tier0", "tier1"} == set(run.replicas)
    assert all(held > 2**20 for held in run.memory_bytes.values())


def test_locust_asks_the_front_ends_that_are_up_and_records_replicas(fleet: Built, running: Up, tmp_path: Path) -> None:
    words = ["-f", str(LOCUSTFILE), "--headless", "--only-summary", "--repository", str(fleet.folder)]
    load = ["-u", "3", "-r", "100", "-t", "5s", "--record", str(tmp_path / "run.json"), "GrpcUser"]
    done = subprocess.run([sys.executable, "-m", "locust", *words, *load], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    run = read_run(tmp_path / "run.json")
    last = run.timeline[-1]
    assert last.replicas == {"frontend": 1, "tier0": 1, "tier1": 1} == run.replicas
    assert all(held > 2**20 for held in last.memory_bytes.values())
    assert sum(sample.errors for sample in run.timeline) == 0 < sum(sample.answered_qps for sample in run.timeline)


def test_only_the_owner_reaches_the_socket(fleet: Built, running: Up) -> None:
    assert stat.S_IMODE(fleet.run.socket.stat().st_mode) == 0o600
    assert stat.S_IMODE(fleet.run.path.stat().st_mode) == 0o700


def test_ps_lists_replicas_with_traffic_and_memory(
    fleet: Built, running: Up, capsys: pytest.CaptureFixture[str]
) -> None:
    with following_load(fleet, 1, pause_s=0.02):
        eventually(lambda: fleet.service("frontend")["qps"] > 5)
        assert elasticrec("ps", fleet.folder, "--json") == 0
    services = {service["name"]: service for service in json.loads(capsys.readouterr().out)["services"]}
    assert set(services) == {"frontend", "tier0", "tier1"}
    assert services["tier0"]["qps"] > 5 and services["frontend"]["p95_ms"] > 0
    pid = services["tier0"]["replicas"][0]["pid"]
    own_bytes = psutil.Process(pid).memory_full_info().pss
    assert own_bytes * 0.8 < services["tier0"]["memory_bytes"] < 50 * own_bytes
    assert elasticrec("ps", fleet.folder) == 0
    text = capsys.readouterr().out
    assert "tier1-1" in text and str(pid) in text


def test_scores_stay_right_while_replicas_come_and_go(fleet: Built, running: Up) -> None:
    """Front ends too; the second replica of a shard takes queries, and none fails when it leaves."""
    with following_load(fleet, 2) as seen:
        assert elasticrec("scale", fleet.folder, "tier0=2", "frontend=2") == 0
        eventually(lambda: len(fleet.replicas("tier0")) == 2 and len(fleet.replicas("frontend")) == 2, 60)
        time.sleep(1.5)
        newest = fleet.replicas("tier0")[1]["name"]
        assert elasticrec("scale", fleet.folder, "tier0=1", "frontend=1") == 0
        eventually(lambda: sum(len(service["replicas"]) for service in fleet.status()["services"]) == 3, 60)
        time.sleep(0.5)
    assert seen.answers > 50 and not seen.errors and not seen.wrong
    served = [line for line in (fleet.run.logs / "frontend-1.log").read_text().splitlines() if "serves" in line]
    assert len(served) >= 3  # tier0-1, tier1-1 and the newcomer
    assert f"{newest}: stopped" in fleet.events()


def test_a_killed_replica_is_replaced_and_no_query_fails_beside_a_second(fleet: Built, running: Up) -> None:
    fleet_scaled(fleet, tier1=2)
    with following_load(fleet, 2) as seen:
        time.sleep(0.5)
        victim = fleet.replicas("tier1")[0]
        os.kill(victim["pid"], signal.SIGKILL)
        eventually(lambda: victim["name"] not in [r["name"] for r in fleet.replicas("tier1")], 20)
        eventually(lambda: len(fleet.replicas("tier1")) == 2, 60)
        time.sleep(0.5)
    assert seen.answers > 50 and not seen.errors and not seen.wrong
    assert f"{victim['name']}: tritonserver was ended by SIGKILL (Killed)" in fleet.events()
    fleet_scaled(fleet, tier1=1)


def fleet_scaled(fleet: Built, **wanted: int) -> None:
    assert elasticrec("scale", fleet.folder, *(f"{name}={count}" for name, count in wanted.items())) == 0
    eventually(lambda: all(len(fleet.service(name)["replicas"]) == count for name, count in wanted.items()), 60)
    eventually(lambda: all(len(fleet.replicas(name)) == count for name, count in wanted.items()), 60)


def test_logs_of_all_of_a_service_and_of_a_replica(
    fleet: Built, running: Up, capsys: pytest.CaptureFixture[str]
) -> None:
    for words, names in (
        ([], {"fleet", "frontend-1", "tier0-1", "tier1-1"}),
        (["tier1"], {"tier1-1"}),
        (["frontend-1"], {"frontend-1"}),
    ):
        assert elasticrec("logs", fleet.folder, *words) == 0
        found = {line.split()[0] for line in capsys.readouterr().out.splitlines()}
        assert found >= names and (not words or {name.rpartition("-")[0] for name in found} == {words[0].split("-")[0]})
    assert elasticrec("logs", fleet.folder, "tier7") == 2
    assert "tier7: expected a service or one of fleet, frontend-1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["scale", "tier9=2"], "tier9: expected a service, one of frontend, tier0, tier1"),
        (["scale", "tier0=99999"], "frontend=1 tier0=99999 tier1=1: too many for this machine: 100,001 servers, and"),
        (["up"], "is up already; see elasticrec ps"),
    ],
)
def test_what_is_refused(
    words: list[str], message: str, fleet: Built, running: Up, capsys: pytest.CaptureFixture[str]
) -> None:
    assert elasticrec(words[0], fleet.folder, *words[1:]) == 2
    assert message in capsys.readouterr().err.replace("\n", " ")


def test_a_fleet_that_was_asked_for_too_much_by_force_still_obeys(fleet: Built, running: Up) -> None:
    assert elasticrec("scale", fleet.folder, "tier0=99999", "--force") == 0
    eventually(lambda: len(fleet.service("tier0")["replicas"]) > 1, 60)
    assert len(fleet.replicas("tier0", "starting")) <= AT_ONCE
    fleet_scaled(fleet, tier0=1)


def test_down_leaves_nothing_but_logs_whatever_is_being_started(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fleet = built(tmp_path)
    with ready(fleet) as running:
        assert elasticrec("scale", fleet.folder, "tier0=99999", "--force") == 0
        eventually(lambda: fleet.replicas("tier0", "starting"), 60)
        started = running.children()
        assert elasticrec("down", fleet.folder) == 0
        assert not [process for process in started if process.is_running()]
        assert running.process.wait(10) == 0
    assert {path.name for path in fleet.run.path.iterdir()} == {"lock", "logs"}
    assert not list(Path("/dev/shm").glob(f"elasticrec_{running.process.pid}_*"))  # noqa: S108 - Triton puts it there
    assert elasticrec("verify", fleet.folder) == 0
    for command in ("ps", "down"):
        assert elasticrec(command, fleet.folder) == 2
        assert "expected a running fleet, found none; start it: elasticrec up" in capsys.readouterr().err


def test_no_process_outlives_the_supervisor(tmp_path: Path) -> None:
    """And what a killed one leaves is no hindrance to the next."""
    fleet = built(tmp_path)
    for how in (signal.SIGKILL, signal.SIGTERM):
        with ready(fleet) as running:
            assert fleet.status()["phase"] == "up"
            started = running.children()
            running.process.send_signal(how)
            running.process.wait(60)
            _, alive = psutil.wait_procs(started, 30)
            assert not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE], how


@pytest.mark.long
def test_a_supervisor_killed_while_replicas_load_leaves_nothing_not_even_what_is_frozen(tmp_path: Path) -> None:
    """A server that is told to end while it loads leaves its Python stubs behind, and a frozen one cannot be told."""
    fleet = built(tmp_path)
    with up(fleet, "--replicas", "tier0=4", "--replicas", "tier1=3") as running:
        eventually(lambda: len(running.named("tritonserver")) > 2, 60)
        started = running.children()
        for name in ("tritonserver", "prometheus"):
            for each in running.named(name)[:1]:
                each.suspend()
        running.process.kill()
        running.process.wait(60)
        _, alive = psutil.wait_procs(started, 60)
        assert not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]
        left = f"elasticrec_{running.process.pid}_*"
        eventually(lambda: not list(Path("/dev/shm").glob(left)), 10)  # noqa: S108 - Triton puts it there


def test_more_replicas_than_the_machine_holds_are_refused_before_anything_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fleet = built(tmp_path)
    assert elasticrec("up", fleet.folder, "--replicas", "tier0=5000") == 2
    told = capsys.readouterr().err
    assert "frontend=1 tier0=5000 tier1=1: too many for this machine: 5,002 servers, and" in told
    assert "GiB, and this machine has" in told and "ask for fewer, or add --force" in told
    assert not list(fleet.run.logs.glob("tier*"))


def test_a_changed_weight_is_found_before_anything_starts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fleet = built(tmp_path)
    weights = next(fleet.folder.glob("tier0/*/*/*weights.bin"))
    content = bytearray(weights.read_bytes())
    content[5] ^= 1
    weights.write_bytes(content)
    assert elasticrec("up", fleet.folder) == 2
    assert f"{weights}: expected SHA-256" in capsys.readouterr().err
    assert not list(fleet.run.logs.glob("tier*"))


def test_a_service_that_cannot_start_stops_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Weights cut short, by a build that says so itself; the server's own words are told."""
    fleet = built(tmp_path)
    weights = next(fleet.folder.glob("tier1/*/*/*weights.bin"))
    weights.write_bytes(weights.read_bytes()[:-100])
    path = weights.relative_to(fleet.folder).as_posix()
    manifest = load_manifest(fleet.folder)
    files = tuple(entry_of(fleet.folder, path) if entry.path == path else entry for entry in manifest.files)
    (fleet.folder / MANIFEST).write_text(replace(manifest, files=files).to_json())
    with up(fleet) as running:
        assert running.process.wait(60) == 1
    told = " ".join(running.lines)
    assert "tier1-1: tritonserver" in told and "weights.bin" in told and "the fleet was not up yet" in told
    assert "stopping" in fleet.events()
