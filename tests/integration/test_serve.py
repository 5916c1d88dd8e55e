"""`elasticrec serve` as a user runs it: ready, queried, stopped; and what happens when things break."""

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import tritonclient.grpc

from elasticrec.cli import main
from repo_builder.access.load import load_hotness
from repo_builder.errors import RepositoryError, ServerError
from repo_builder.export.dlrm.source import open_source
from repo_builder.repository.build import build
from repo_builder.repository.configs import ShardBackend
from repo_builder.repository.manifest import verify
from repo_builder.serving.client import times_by_model
from repo_builder.serving.faults import version_of, warning
from repo_builder.serving.install import check_gpus, installation
from repo_builder.serving.processes import memory_by_model
from repo_builder.serving.server import Ports, free_ports, running, wait
from tests.integration.conftest import Served
from tests.integration.models import make_repository, pytorch_scores, random_query, score
from tests.servers import kill_stub, serving

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("serve")
    make_repository(folder, "tiered")
    return folder / "repository"


def start(repository: Path, ports: Ports, log: Path, *options: str) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "elasticrec.cli", "serve", repository, "--log-file", log]
    words += [f"--http-port={ports.http}", f"--grpc-port={ports.grpc}", f"--metrics-port={ports.metrics}", *options]
    return subprocess.Popen([str(word) for word in words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_ready(process: subprocess.Popen[str]) -> list[str]:
    lines = []
    for line in process.stdout:
        lines.append(line.rstrip())
        if lines[-1] == "ready":
            return lines
    raise AssertionError(f"never ready: {lines}, {process.stderr.read()}")


def regions() -> set[str]:
    return {path.name for path in Path("/dev/shm").glob("elasticrec_*")}  # noqa: S108 - where Triton puts it


@pytest.fixture
def cli_server(repository: Path, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], Ports, list[str]]]:
    ports = free_ports()
    process = start(repository, ports, tmp_path / "log")
    try:
        yield process, ports, wait_for_ready(process)
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_serve_query_stop(
    how: signal.Signals,
    cli_server: tuple[subprocess.Popen[str], Ports, list[str]],
    repository: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    process, ports, lines = cli_server
    assert f"http     127.0.0.1:{ports.http}" in lines
    assert f"grpc     127.0.0.1:{ports.grpc}" in lines
    with urllib.request.urlopen(f"http://127.0.0.1:{ports.metrics}/metrics") as answer:
        assert b"nv_inference_request_success" in answer.read()
    for protocol, port in (("grpc", ports.grpc), ("http", ports.http)):
        words = ["query", repository, "--protocol", protocol, "--url", f"127.0.0.1:{port}", "--rows", "3"]
        assert main([str(word) for word in words]) == 0
        assert capsys.readouterr().out.count("score 0.") == 3
    started = psutil.Process(process.pid).children(recursive=True)
    assert len(started) >= 4  # the server and its stubs
    process.send_signal(how)
    assert process.wait(30) == 0
    assert process.stdout.read() == "stopping\n"
    told = process.stderr.read()
    assert "elasticrec: warning: tritonserver 2.51.0 can be ended by gRPC calls" in told and told.count("\n") == 1
    assert not any(each.is_running() for each in started)
    assert not {name for name in regions() if name.startswith(f"elasticrec_{process.pid}_")}


def test_servers_that_have_the_same_ports_one_after_the_other_share_no_memory(repository: Path, tmp_path: Path) -> None:
    """Ports are free once a server's process has ended; what it leaves in shared memory is removed after that."""
    ports, begins = free_ports(), set()
    with installation() as installed:
        for log in (tmp_path / "first", tmp_path / "second"):
            with running(installed, repository, ports, log) as server:
                assert [name for name in regions() if name.startswith(server.regions)]
                begins.add(server.regions)
            assert not [name for name in regions() if name.startswith(server.regions)]
    assert len(begins) == 2


@pytest.mark.parametrize("shard_backend", ["python", "native"])
def test_a_server_that_ends_by_a_signal_is_told_of_by_its_name_and_frames(
    shard_backend: ShardBackend, tmp_path: Path
) -> None:
    """And not by what the log says of its start, nor by a process that serves a model: nobody ended one."""
    make_repository(tmp_path, "tiered", shard_backend=shard_backend)
    with serving(tmp_path / "repository", tmp_path / "log") as server:
        os.kill(server.process.pid, signal.SIGSEGV)
        with pytest.raises(ServerError) as ended:
            wait(server)
    first, *frames = str(ended.value).splitlines()
    assert first == f"tritonserver was ended by SIGSEGV (Segmentation fault); its log {server.log} says:"
    assert frames and all(re.search(r"^\S.* in \S+$", line) for line in frames), frames


def test_a_shape_that_no_memory_holds_ends_the_server_and_is_told(tmp_path: Path) -> None:
    """An HTTP request of a hundred bytes: the fault is Triton's own, to 2.58. A newer one refuses it and goes on."""
    make_repository(tmp_path, "tiered", shard_backend="native")
    asked = {"name": "indices", "datatype": "INT64", "shape": [2147483648, 42], "data": [1]}
    with serving(tmp_path / "repository", tmp_path / "log") as server:
        url = f"http://{server.http}/v2/models/small/infer"
        with contextlib.suppress(OSError, http.client.HTTPException):
            urllib.request.urlopen(url, json.dumps({"inputs": [asked]}).encode(), timeout=30)
        if (version := version_of(server.http)) is not None:
            assert warning(version) is None
        else:
            with pytest.raises(ServerError, match=r"(?s)ended by SIGABRT \(Aborted\);.*std::bad_alloc.* in "):
                wait(server)


def test_two_serves_of_one_repository_write_two_logs(
    repository: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    logs = []

    def no_server(_: object, __: object, ports: Ports, log: Path, **___: object) -> None:
        logs.append(log)
        raise ServerError("none")

    monkeypatch.setattr("repo_builder.serving.server.running", no_server)
    for port in (9000, 9010):
        words = [f"--{name}-port={port + i}" for i, name in enumerate(("http", "grpc", "metrics"))]
        assert main(["serve", str(repository), *words]) == 1
    assert logs == [repository.with_name(f"repository-{port}.log") for port in (9000, 9010)]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_in_the_background_of_a_script_it_stops_by_any_signal(
    how: signal.Signals, repository: Path, tmp_path: Path
) -> None:
    """A shell that runs a script starts `serve &` with SIGINT ignored; nohup ignores SIGHUP, which stays."""
    ports, log = free_ports(), tmp_path / "log"
    words = [sys.executable, "-m", "elasticrec.cli", "serve", repository, "--log-file", log]
    words += [f"--http-port={ports.http}", f"--grpc-port={ports.grpc}", f"--metrics-port={ports.metrics}"]
    script = ["sh", "-c", 'trap "" HUP; "$@" & echo $!; wait $!; echo "ended with $?"', "sh", *map(str, words)]
    shell = subprocess.Popen(script, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    server = psutil.Process(int(shell.stdout.readline()))
    try:
        wait_for_ready(shell)
        server.send_signal(signal.SIGHUP)
        server.send_signal(how)
        assert shell.communicate(timeout=60)[0] == "stopping\nended with 0\n"
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            server.terminate()
        shell.kill()
        shell.communicate()


def test_a_killed_launcher_takes_the_server_with_it(
    cli_server: tuple[subprocess.Popen[str], Ports, list[str]],
) -> None:
    process, _, _ = cli_server
    started = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    _, alive = psutil.wait_procs(started, 30)
    assert not [each for each in alive if each.status() != psutil.STATUS_ZOMBIE]


def test_a_taken_port_is_named(repository: Path, tmp_path: Path) -> None:
    """Also so that another server's readiness is never taken for ours."""
    with socket.create_server(("127.0.0.1", 0)) as taken, installation() as installed:
        ports = replace(free_ports(), grpc=taken.getsockname()[1])
        with (
            pytest.raises(ServerError, match=rf"127.0.0.1:{ports.grpc}: Address already in use; .* --grpc-port"),
            running(installed, repository, ports, tmp_path / "log"),
        ):
            pass
    assert not (tmp_path / "log").exists()


@pytest.mark.parametrize("shard_backend", ["python", "native"])
def test_a_broken_model_is_named(tmp_path: Path, shard_backend: ShardBackend) -> None:
    spec, plan = make_repository(tmp_path, "tiered", shard_backend=shard_backend)
    name = f"{spec.name}_{plan.embedding_services[0].name}"
    weights = tmp_path / "repository" / name / "1" / "weights.bin"
    weights.write_bytes(weights.read_bytes()[:-8])
    with (
        pytest.raises(ServerError, match=rf"(?s)failed to load '{name}'.*weights.bin: expected \d+ bytes"),
        installation() as installed,
        running(installed, tmp_path / "repository", free_ports(), tmp_path / "log"),
    ):
        pass


def test_any_path_is_served_and_left_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton's Python backend hands paths to a shell; spaces, quotes and commands in them must not matter."""
    folder = tmp_path / "a b $(touch pwned) 'q' ünï;touch pwned"
    folder.mkdir()
    monkeypatch.chdir(tmp_path)
    spec, _ = make_repository(folder, "tiered")
    repository = folder / "repository"
    with installation() as installed, running(installed, repository, free_ports(), tmp_path / "log") as server:
        dense, indices = random_query(spec, 3, seed=0)
        scores = score("grpc", server.grpc, "small", dense, indices)
    np.testing.assert_allclose(scores, pytorch_scores(spec, dense, indices), atol=1e-5)
    assert not list(tmp_path.rglob("pwned"))
    verify(repository)


def test_a_hand_made_plan_with_awkward_names(tmp_path: Path) -> None:
    """Services called like tensors and nodes of the graph, their shards in any order."""
    spec, plan = make_repository(tmp_path, "tiered")
    names = iter(["score", "relu", "indices", "linear", "cat"])
    services = tuple(
        service if service.kind == "dense" else replace(service, name=next(names), shards=service.shards[::-1])
        for service in plan.services
    )
    build(spec, replace(plan, services=services), load_hotness(spec), open_source(spec), tmp_path / "named")
    with serving(tmp_path / "named", tmp_path / "log", host="localhost") as server:
        dense, indices = random_query(spec, 40, seed=4)
        scores = score("http", server.http, "small", dense, indices)
    np.testing.assert_allclose(scores, pytorch_scores(spec, dense, indices), atol=1e-5)


def test_a_process_that_dies_while_loading_is_told_soon(tmp_path: Path) -> None:
    make_repository(tmp_path, "tiered")
    model = tmp_path / "repository/small_tier0/1/model.py"
    model.write_text("import os\nos.kill(os.getpid(), 9)\n")
    started = time.monotonic()
    with (
        pytest.raises(ServerError, match="log"),
        installation() as installed,
        running(installed, tmp_path / "repository", free_ports(), tmp_path / "log"),
    ):
        pass
    assert time.monotonic() - started < 60


@pytest.mark.parametrize(
    ("host", "told"), [("nosuch.invalid", "nosuch.invalid: expected an IPv4"), ("::1", "::1: exp")]
)
def test_a_host_that_is_none_is_bad_input(
    host: str, told: str, repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", str(repository), "--host", host]) == 2
    assert told in capsys.readouterr().err


def test_a_gpu_repository_is_refused_with_the_remedy(tmp_path: Path) -> None:
    spec, plan = make_repository(tmp_path, "tiered")
    services = tuple(replace(service, device="gpu", gpus=(0,)) for service in plan.services)
    target = tmp_path / "gpu"
    build(spec, replace(plan, services=services), load_hotness(spec), open_source(spec), target)
    (tmp_path / "dev").mkdir()
    with pytest.raises(RepositoryError, match=r"small_dense is placed on GPU 0, .* none; .* --cpu-only"):
        check_gpus(target, tmp_path / "dev")
    for name in ("nvidiactl", "nvidia-uvm"):
        (tmp_path / "dev" / name).touch()
    with pytest.raises(RepositoryError, match="but this machine has none"):
        check_gpus(target, tmp_path / "dev")
    (tmp_path / "dev" / "nvidia3").touch()  # what a container is lent, of a machine with more: GPU 0 there
    check_gpus(target, tmp_path / "dev")


@pytest.mark.parametrize("shard_backend", ["python", "native"])
def test_instances_share_one_copy_of_the_weights(tmp_path: Path, shard_backend: ShardBackend) -> None:
    """Three instances of each service: the PSS of all processes grows by their interpreters, not by the rows."""
    spec, plan = make_repository(tmp_path, "tiered")
    services = tuple(replace(service, replicas=3) for service in plan.services)
    three = replace(plan, services=services)
    hotness, weights = load_hotness(spec), open_source(spec)
    build(spec, three, hotness, weights, tmp_path / "three", shard_backend=shard_backend)
    with serving(tmp_path / "three", tmp_path / "log") as server:
        dense, indices = random_query(spec, 9, seed=1)
        expected = pytorch_scores(spec, dense, indices)
        for _ in range(12):
            np.testing.assert_allclose(score("grpc", server.grpc, "small", dense, indices), expected, atol=1e-5)
        root = psutil.Process(server.process.pid)
        maps = [
            each
            for process in (root, *root.children(recursive=True))
            for each in process.memory_maps(grouped=True)
            if each.path.endswith("weights.bin")
        ]
        assert len(maps) == (1 if shard_backend == "native" else 3) * len(plan.embedding_services)
        size = sum(
            (tmp_path / "three" / f"small_{service.name}/1/weights.bin").stat().st_size + 4096
            for service in plan.embedding_services
        )
        assert sum(each.pss for each in maps) <= 1.1 * size
        memory = memory_by_model(server.process.pid)
        embedding = {f"small_{service.name}" for service in plan.embedding_services}
        assert set(memory) == {"tritonserver", "small_router", *embedding}
        if shard_backend == "native":
            assert sum(memory[name] for name in embedding) <= 1.1 * size
        times = times_by_model(server.http)
        assert all(times[name].requests >= 12 for name in ("small", "small_router", "small_dense", *embedding))


def test_a_killed_stub_never_gives_a_wrong_score(own_server: Served) -> None:
    """As README's "When a process dies" has it: Triton goes on, and fails the queries that need the dead process."""
    spec, server = own_server.spec, own_server.server
    dense, indices = random_query(spec, 8, seed=3)
    expected = pytorch_scores(spec, dense, indices)
    dead, *alive = [f"small_{service.name}" for service in own_server.plan.embedding_services]
    np.testing.assert_allclose(score("grpc", server.grpc, "small", dense, indices), expected, atol=1e-5)
    kill_stub(server.process.pid, dead)
    for _ in range(3):
        with pytest.raises(ServerError, match=f"Stub process '{dead}_0_0' is not healthy"):
            score("grpc", server.grpc, "small", dense, indices)
    assert server.process.poll() is None
    with tritonclient.grpc.InferenceServerClient(server.grpc) as client:
        tables = len(own_server.plan.embedding_services[1].shards)
        inputs = [tritonclient.grpc.InferInput(name, [1, tables], "INT32") for name in ("ids", "lengths")]
        inputs[0].set_data_from_numpy(np.zeros((1, tables), np.int32))
        inputs[1].set_data_from_numpy(np.ones((1, tables), np.int32))
        assert client.infer(alive[0], inputs).as_numpy("sums").shape == (1, tables * spec.dlrm.dim)


def test_serve_ends_when_a_stub_dies(
    cli_server: tuple[subprocess.Popen[str], Ports, list[str]], repository: Path
) -> None:
    """A supervisor then starts it again, instead of a server that is ready and answers nothing."""
    process, _, _ = cli_server
    server = psutil.Process(process.pid).children()[0]
    kill_stub(server.pid, "small_tier0")
    assert process.wait(60) == 1
    assert "the process that serves small_tier0 died" in process.stderr.read()
    assert not server.is_running()
