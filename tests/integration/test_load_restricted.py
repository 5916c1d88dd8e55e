"""`elasticrec loadtest perf` on a real server with restricted APIs, as `elasticrec k8s` renders them."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from k8s.pods import ADMIN_KEY, RESTRICTED
from loadtest.run import read_run
from repo_builder.serving.server import Server
from tests.integration.models import make_repository
from tests.servers import serving

pytestmark = pytest.mark.server
KEY, _ = ADMIN_KEY.split("=")
UID = "5f2e-a-pod"


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("restricted")
    make_repository(folder, "tiered", shard_backend="native")
    return folder / "repository"


@pytest.fixture(scope="module")
def server(repository: Path) -> Iterator[Server]:
    apis = f"{RESTRICTED}:{KEY}={UID}"
    flags = (f"--http-restricted-api={apis}", f"--grpc-restricted-protocol={apis}")
    with serving(repository, repository.with_name("server.log"), flags=flags) as started:
        yield started


@pytest.fixture(scope="module")
def closed(repository: Path) -> Iterator[Server]:
    """Even its health is told to nobody who does not have the header."""
    apis = f"health,metadata,inference,{RESTRICTED}:{KEY}={UID}"
    with serving(
        repository, repository.with_name("closed.log"), flags=(f"--grpc-restricted-protocol={apis}",)
    ) as started:
        yield started


def perf(repository: Path, output: Path, *more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "elasticrec.cli", "loadtest", "perf", str(repository), "-o", str(output)]
    return subprocess.run(
        [*command, "--seconds", "0.5", "--concurrency", "1", *more],
        capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(("protocol", "prefix"), [("grpc", "triton-grpc-protocol-"), ("http", "")])
def test_a_header_opens_what_is_restricted(
    repository: Path, server: Server, tmp_path: Path, protocol: str, prefix: str
) -> None:
    address = ("--protocol", protocol, "--url", getattr(server, protocol))
    header = ("--header", "x-other: 1", "--header", f"{prefix}{KEY.title()}: {UID}")  # names are the same in any case
    done = perf(repository, tmp_path / "run.json", *address, *header)
    assert done.returncode == 0, done.stderr
    (point,) = read_run(tmp_path / "run.json").points
    assert point.queries > 0 and {"small_router", "small_dense"} <= set(point.services)
    assert UID not in (tmp_path / "run.json").read_text() + done.stdout  # whoever reads a report is no administrator


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_without_it_the_header_that_is_wanted_is_named(
    repository: Path, server: Server, tmp_path: Path, protocol: str
) -> None:
    done = perf(repository, tmp_path / "run.json", "--protocol", protocol, "--url", getattr(server, protocol))
    assert done.returncode == 1 and "Traceback" not in done.stderr
    said = " ".join(done.stderr.split())
    assert "is restricted" in said and f"{KEY}'; give it with --header" in said


def test_our_own_calls_have_it_too(repository: Path, closed: Server, tmp_path: Path) -> None:
    refused = perf(repository, tmp_path / "run.json", "--url", closed.grpc)
    assert refused.returncode == 1 and "give it with --header" in refused.stderr
    assert "none answers there" not in refused.stderr and not (tmp_path / "run.json").exists()
    header = ("--header", f"triton-grpc-protocol-{KEY}: {UID}")
    done = perf(repository, tmp_path / "run.json", "--url", closed.grpc, *header)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("header", ["no colon", ": no name", "name:", "two words: value", "name: two\nlines"])
def test_what_is_no_header(repository: Path, tmp_path: Path, header: str) -> None:
    done = perf(repository, tmp_path / "run.json", "--header", header)
    assert done.returncode == 2 and "--header: expected 'NAME: VALUE'" in done.stderr
