"""What a server is started with: its ports, and where a native embedding service takes front ends' calls."""

import json
import socket
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest

from repo_builder.errors import InputError, PortTakenError, RepositoryError, ServerError
from repo_builder.repository.native import LISTEN
from repo_builder.serving.install import Installation
from repo_builder.serving.server import Ports, Server, free_ports, running

SHARD = "elasticrec_shard"
TOLD = """#!/usr/bin/python3
import json, os, sys
print(json.dumps([{n: v for n, v in os.environ.items() if "ELASTICREC_LISTEN" in n}, sys.argv[1:]]))
sys.exit(1)
"""


def model(repository: Path, backend: str, library: bytes = b"reads ELASTICREC_LISTEN_CERT") -> None:
    folder = repository / f"m{len(list(repository.glob('*')))}"
    folder.mkdir(parents=True)
    (folder / "config.pbtxt").write_text(f'backend: "{backend}"')
    (folder / f"libtriton_{backend}.so").write_bytes(library)


def surroundings(folder: Path, ports: Ports, *flags: str, **environment: str) -> dict[str, str]:
    """What a server of `folder / "r"` finds of its listener; one that says so, and ends."""
    binary, log = folder / "tritonserver", folder / "r.log"
    binary.write_text(TOLD)
    binary.chmod(0o755)
    with (
        pytest.raises(ServerError),
        running(Installation(binary), folder / "r", ports, log, flags=flags, environment=environment),
    ):
        pass
    found, words = json.loads(log.read_text().splitlines()[-1])
    assert f"--grpc-port={ports.grpc}" in words
    return found


def listener(folder: Path, ports: Ports, *flags: str, **environment: str) -> str:
    """Where it takes calls."""
    return surroundings(folder, ports, *flags, **environment)[LISTEN]


def test_four_free_ports_differ() -> None:
    ports = free_ports()
    assert ports.calls is not None and len({ports.http, ports.grpc, ports.metrics, ports.calls}) == 4
    assert Ports().calls is None and list(Ports(1, 2, 3).numbers) == [1, 2, 3]


def test_a_lone_native_service_listens(tmp_path: Path) -> None:
    model(tmp_path / "r", SHARD)
    ports = free_ports()
    assert listener(tmp_path, ports) == f"127.0.0.1:{ports.calls}"
    assert listener(tmp_path, ports, **{LISTEN: "127.0.0.1:1"}) == "127.0.0.1:1"  # whoever starts it may say otherwise


@pytest.mark.parametrize(
    "backends", [["python"], [SHARD, SHARD], [SHARD, "python"], ["elasticrec_router"], []], ids=" ".join
)
def test_other_repositories_do_not(backends: list[str], tmp_path: Path) -> None:
    (tmp_path / "r").mkdir()
    for backend in backends:
        model(tmp_path / "r", backend)
    with mock.patch.dict("os.environ", {LISTEN: "127.0.0.1:1"}):  # a user's own is for a server of theirs
        assert listener(tmp_path, free_ports()) == ""


def test_nor_where_no_port_is_given_nor_with_a_library_that_cannot(tmp_path: Path) -> None:
    model(tmp_path / "r", SHARD)
    assert listener(tmp_path, replace(free_ports(), calls=None)) == ""
    (tmp_path / "r/m0/libtriton_elasticrec_shard.so").write_bytes(b"of an earlier build, of plain ELASTICREC_LISTEN")
    assert listener(tmp_path, free_ports()) == ""


PAIR = ("--grpc-server-cert=c", "--grpc-server-key=k", "--grpc-root-cert=a")


@pytest.mark.parametrize(
    ("flags", "files"),
    [
        ((), ("", "", "")),
        (PAIR, ("", "", "")),
        (("--grpc-use-ssl=False", "--grpc-use-ssl-mutual=0", *PAIR), ("", "", "")),
        (("--grpc-use-ssl=true", *PAIR), ("c", "k", "")),
        (("--grpc-use-ssl=1", "--grpc-use-ssl-mutual=true", *PAIR), ("c", "k", "a")),
        (("--grpc-use-ssl-mutual=true", *PAIR), ("c", "k", "a")),
    ],
    ids=" ".join,
)
def test_it_speaks_tls_where_tritons_grpc_does(
    flags: tuple[str, ...], files: tuple[str, str, str], tmp_path: Path
) -> None:
    """By the same files; those of the user's environment are for a server of theirs."""
    model(tmp_path / "r", SHARD)
    ports = free_ports()
    with mock.patch.dict("os.environ", {f"{LISTEN}_{part}": "theirs" for part in ("CERT", "KEY", "CA")}):
        found = surroundings(tmp_path, ports, *flags)
        without = surroundings(tmp_path, replace(ports, calls=None), *flags)
    assert tuple(found.pop(f"{LISTEN}_{part}") for part in ("CERT", "KEY", "CA")) == files
    assert found == {LISTEN: f"127.0.0.1:{ports.calls}"}
    assert not any(without.values())


@pytest.mark.parametrize(
    ("flags", "lacking"),
    [
        (("--grpc-use-ssl=true", "--grpc-server-cert=c"), "--grpc-server-key: "),
        (("--grpc-use-ssl", "true", *PAIR[1:]), "--grpc-server-cert: "),
        (("--grpc-use-ssl-mutual=true", *PAIR[:2]), "--grpc-root-cert: "),
        (("--grpc-use-ssl=yes",), "--grpc-server-cert, --grpc-server-key: "),
    ],
    ids=" ".join,
)
def test_it_speaks_no_plain_text_where_files_of_tls_are_not_said(
    flags: tuple[str, ...], lacking: str, tmp_path: Path
) -> None:
    model(tmp_path / "r", SHARD)
    with (
        pytest.raises(InputError, match=f"^{lacking}expected .*=FILE beside --grpc-use-ssl"),
        running(Installation(tmp_path / "none"), tmp_path / "r", free_ports(), tmp_path / "log", flags=flags),
    ):
        pass


def test_front_ends_call_the_listener_or_else_grpc(tmp_path: Path) -> None:
    server = Server(mock.Mock(), "127.0.0.1", Ports(1, 2, 3, 4), tmp_path, "no_regions_")
    assert (server.grpc, server.calls) == ("127.0.0.1:2", "127.0.0.1:4")
    assert replace(server, ports=Ports(1, 2, 3)).calls == "127.0.0.1:2"


@pytest.mark.parametrize(
    ("name", "remedy"), [("http", "--http-port"), ("grpc", "--grpc-port"), ("calls", "--calls-port")]
)
def test_a_port_that_is_taken_is_named_with_the_remedy(name: str, remedy: str, tmp_path: Path) -> None:
    model(tmp_path / "r", SHARD)
    with socket.create_server(("127.0.0.1", 0)) as other:
        number = other.getsockname()[1]
        ports = replace(free_ports(), **{name: number})
        with (
            pytest.raises(PortTakenError, match=rf"127.0.0.1:{number}: Address already in use; .* {remedy}"),
            running(Installation(tmp_path / "none"), tmp_path / "r", ports, tmp_path / "log"),
        ):
            pass


def test_a_port_that_is_not_used_may_be_taken(tmp_path: Path) -> None:
    model(tmp_path / "r", "python")
    with socket.create_server(("127.0.0.1", 0)) as other:
        assert listener(tmp_path, replace(free_ports(), calls=other.getsockname()[1])) == ""


def test_a_broken_config_is_named(tmp_path: Path) -> None:
    model(tmp_path / "r", SHARD)
    (tmp_path / "r/m0/config.pbtxt").write_text("nonsense")
    with (
        pytest.raises(RepositoryError, match=r"r/m0/config.pbtxt: expected a model's config, but"),
        running(Installation(tmp_path / "none"), tmp_path / "r", free_ports(), tmp_path / "log"),
    ):
        pass
