"""Finding `tritonserver`, starting it on a repository, waiting until it is ready, and stopping it without a trace."""

from __future__ import annotations

import contextlib
import http.client
import os
import random
import re
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO

import psutil

from repo_builder.errors import InputError, PortTakenError, ServerError
from repo_builder.machine import allocator
from repo_builder.repository.native import LISTEN, LISTEN_CA, LISTEN_CERT, LISTEN_KEY, listens
from repo_builder.serving.faults import LOG_BEGIN, why_ended, why_not_ready
from repo_builder.serving.guardian import dismiss, ending_with_us, remove_regions, start_guardian
from repo_builder.serving.install import Installation
from repo_builder.serving.processes import children, dead_children, stub_models

EXIT_TIMEOUT_S = 10  # how long the server may finish what is in flight
PATIENCE_S = EXIT_TIMEOUT_S + 5
POLL_S = 0.05
WATCH_S = 1.0
REAP_S = 5.0
FREE_PORTS = (15_000, 32_000)  # below those that the kernel gives to clients, which could take one before the server


@dataclass(frozen=True, slots=True)
class Ports:
    """TCP ports of the three endpoints, and of the listener that takes front ends' calls: None is to have none."""

    http: int = 8000
    grpc: int = 8001
    metrics: int = 8002
    calls: int | None = None

    @property
    def numbers(self) -> Sequence[int]:
        """All that there are."""
        return [self.http, self.grpc, self.metrics, *([] if self.calls is None else [self.calls])]


def free_ports() -> Ports:
    """Ports of the loopback address that nobody listens on now."""
    sockets: list[socket.socket] = []
    while len(sockets) < 4:
        with contextlib.suppress(OSError):
            sockets.append(socket.create_server(("127.0.0.1", random.randrange(*FREE_PORTS))))  # noqa: S311 - a port, no secret
    numbers = [int(each.getsockname()[1]) for each in sockets]
    for each in sockets:
        each.close()
    return Ports(*numbers)


@dataclass(frozen=True, slots=True)
class Server:
    """A running server; its process leads a process group that holds its Python stubs too.

    regions: how the names of its shared memory begin. models: what the stubs that it had when it became ready serve, by
    process id.
    """

    process: subprocess.Popen[bytes]
    host: str
    ports: Ports
    log: Path
    regions: str
    models: Mapping[int, str] = field(default_factory=dict)

    @property
    def http(self) -> str:
        """`host:port` for HTTP/REST."""
        return f"{self.host}:{self.ports.http}"

    @property
    def grpc(self) -> str:
        """`host:port` for gRPC."""
        return f"{self.host}:{self.ports.grpc}"

    @property
    def calls(self) -> str:
        """`host:port` that a front end calls: of the listener where the server has one, else of gRPC."""
        return f"{self.host}:{self.ports.calls or self.ports.grpc}"

    @property
    def metrics(self) -> str:
        """The address of the Prometheus metrics."""
        return f"http://{self.host}:{self.ports.metrics}/metrics"


@contextlib.contextmanager
def running(
    installation: Installation,
    repository: Path,
    ports: Ports,
    log: Path,
    *,
    host: str = "127.0.0.1",
    load_timeout_s: float = 600,
    flags: Sequence[str] = (),
    environment: Mapping[str, str] = MappingProxyType({}),
    stop: threading.Event | None = None,
) -> Iterator[Server]:
    """Serve a repository while the block runs; leaves neither process nor shared memory behind.

    flags: more of tritonserver's own, such as --grpc-max-connection-age=30000; environment: more variables;
    stop: gives up waiting for a server that loads, once it is set. The server's own `ports` have `calls` only where it
    listens there: a native embedding service that is alone. It speaks TLS there where the flags have gRPC speak it.

    Raises PortTakenError, InputError where these flags leave out a file that TLS needs, or ServerError where the server
    does not become ready, with what its log says of it.
    """
    address = _numeric(host)
    if not listens(repository):
        ports = replace(ports, calls=None)
    listener = _listener(address, ports.calls, flags)
    _check_ports(address, ports)
    prefix = f"elasticrec_{os.getpid()}_{secrets.token_hex(4)}_"  # no later server's, whatever ports it takes over
    with _safe_path(repository) as models, _open_log(log) as output:
        command = [*_command(installation, models, ports, address, prefix), *flags]
        process = subprocess.Popen(  # noqa: S603 - a list of words, no shell
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**_surroundings(installation), **listener, **environment},
            start_new_session=True,  # a group of its own: Ctrl-C reaches us alone, and the stubs end with it
            preexec_fn=ending_with_us(signal.SIGTERM),
        )
        guardian: subprocess.Popen[bytes] | None = None
        try:
            folders = [models.parent, *filter(None, [installation.backends])]
            guardian = start_guardian(process.pid, PATIENCE_S, prefix, folders)
            server = Server(process, address, ports, log, prefix)
            _wait_until_ready(server, load_timeout_s, stop)
            yield replace(server, models=stub_models(process.pid))
        finally:
            with _undisturbed():
                _stop(process, prefix)
                remove_caches(repository)
                if guardian:  # to the last: who loses patience with us sends SIGKILL now
                    dismiss(guardian)


def _surroundings(installation: Installation) -> Mapping[str, str]:
    """The server's environment, but for what its listener reads."""
    return {**allocator(len(os.sched_getaffinity(0))), **os.environ, **installation.environment}


def _listener(host: str, port: int | None, flags: Sequence[str]) -> Mapping[str, str]:
    """What the listener reads; what the user has of it in the environment is for a server of theirs.

    It speaks TLS where Triton's gRPC is told to, by the same files: no other door may stand open beside that one.
    """
    told = {LISTEN: "" if port is None else f"{host}:{port}", LISTEN_CERT: "", LISTEN_KEY: "", LISTEN_CA: ""}
    given = dict(flag.partition("=")[::2] for flag in flags)
    wanted = {name for name, value in given.items() if value.lower() not in ("false", "0")}
    mutual = "--grpc-use-ssl-mutual" in wanted
    if port is None or not (mutual or "--grpc-use-ssl" in wanted):
        return told
    files = {LISTEN_CERT: "--grpc-server-cert", LISTEN_KEY: "--grpc-server-key"}
    if mutual:
        files[LISTEN_CA] = "--grpc-root-cert"
    if lacking := [option for option in files.values() if not given.get(option)]:
        raise InputError(f"{', '.join(lacking)}: expected {lacking[0]}=FILE beside --grpc-use-ssl, got none")
    return told | {name: given[option] for name, option in files.items()}


@contextlib.contextmanager
def _safe_path(repository: Path) -> Iterator[Path]:
    """A path of plain characters that leads to the repository.

    Triton's Python backend hands model paths to a shell without quotes: a space would break it, and worse would run.
    """
    with tempfile.TemporaryDirectory(prefix="elasticrec-models-") as folder:
        if not re.fullmatch(r"[\w./+-]+", folder, re.ASCII):
            raise ServerError(f"{folder}: expected a temporary folder of letters, digits and ._+- only; set TMPDIR")
        link = Path(folder) / "models"
        link.symlink_to(repository.resolve(), target_is_directory=True)
        yield link


def _open_log(log: Path) -> BinaryIO:
    """What stands there stays: it may be somebody's, or tell of the death that this start is to mend."""
    try:
        output = log.open("ab")
        if output.tell():
            output.write(f"{LOG_BEGIN}\n".encode())
            output.flush()
        return output
    except OSError as exc:
        raise InputError(f"{log}: cannot be written: {exc.strerror}; choose another with --log-file") from exc


def _numeric(host: str) -> str:
    """The IPv4 address of a host name: Triton's HTTP server takes no other form."""
    try:
        return str(socket.getaddrinfo(host, None, socket.AF_INET)[0][4][0])
    except OSError as exc:
        raise InputError(f"{host}: expected an IPv4 address of this machine, or a name for one; see --host") from exc


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Let no second Ctrl-C interrupt the clean-up."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    former = {each: signal.signal(each, signal.SIG_IGN) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for each, handler in former.items():
            signal.signal(each, handler)


def remove_caches(repository: Path) -> None:
    """The stubs' interpreters write bytecode beside `model.py`, whatever the environment says."""
    for cache in repository.glob("*/[0-9]*/**/__pycache__"):
        shutil.rmtree(cache, ignore_errors=True)


def _check_ports(host: str, ports: Ports) -> None:
    """Another server there would answer our question whether ours is ready."""
    options = ("--http-port or --host", "--grpc-port or --host", "--metrics-port or --host", "--calls-port or --host")
    for port, option in zip(ports.numbers, options, strict=False):
        try:
            socket.create_server((host, port)).close()
        except OSError as exc:
            raise PortTakenError(f"{host}:{port}: {os.strerror(exc.errno or 0)}; choose another with {option}") from exc


def wait(server: Server, stop: threading.Event | None = None) -> None:
    """Block until `stop` is set, or the server or one of its Python stubs ends: raises ServerError then.

    Triton (2.51) does not replace a dead stub: it stays ready and fails each query after a second. A server that has
    ended instead is restarted by whatever supervises it.
    """
    while server.process.poll() is None:
        if stop is not None and stop.is_set():
            return
        dead = server.models.keys() & dead_children(server.process.pid)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.process.wait(WATCH_S)
        if dead and server.process.poll() is None:  # else they went down with the server
            names = ", ".join(sorted({server.models[pid] for pid in dead}))
            raise ServerError(f"the process that serves {names} died; Triton would not replace it: start again")
    raise ServerError(why_ended(server.process.returncode, server.log))


def stubs(server: Server) -> list[psutil.Process]:
    """The Python backend's processes, one an instance."""
    return children(server.process.pid)


def _command(installation: Installation, models: Path, ports: Ports, host: str, prefix: str) -> list[str]:
    options = [
        f"--model-repository={models}",
        "--model-control-mode=none",
        "--disable-auto-complete-config",
        f"--exit-timeout-secs={EXIT_TIMEOUT_S}",
        f"--backend-config=python,shm-region-prefix-name={prefix}",
    ]
    for name, port in (("http", ports.http), ("grpc", ports.grpc), ("metrics", ports.metrics)):
        options += [f"--{name}-address={host}", f"--{name}-port={port}"]
    if installation.backends is not None:
        options.append(f"--backend-directory={installation.backends}")
    return [str(installation.binary), *options]


def _wait_until_ready(server: Server, timeout_s: float, stop: threading.Event | None) -> None:
    deadline = time.monotonic() + timeout_s
    seen: dict[int, float] = {}  # dead processes, and since when: some that start a stub end at once, and are reaped
    while (now := time.monotonic()) < deadline:
        if server.process.poll() is not None:
            raise ServerError(why_not_ready(server.process.returncode, server.log))
        seen = {pid: seen.get(pid, now) for pid in dead_children(server.process.pid)}
        if seen and now - min(seen.values()) > REAP_S:
            told = why_not_ready(None, server.log)
            raise ServerError(f"{len(seen)} of its model processes died while loading; {told}")
        if _is_ready(server):
            return
        if stop is not None and stop.is_set():
            raise ServerError("tritonserver was told to stop before it was ready")
        time.sleep(POLL_S)
    raise ServerError(f"tritonserver was not ready after {timeout_s:g} s; {why_not_ready(None, server.log)}")


def _is_ready(server: Server) -> bool:
    connection = http.client.HTTPConnection(server.host, server.ports.http, timeout=1)
    try:
        connection.request("GET", "/v2/health/ready")
        if connection.getresponse().status != 200:
            return False
        socket.create_connection((server.host, server.ports.metrics), timeout=1).close()  # opened last
        return True
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _stop(process: subprocess.Popen[bytes], prefix: str) -> None:
    """End the server by its process id, then whatever of its group is left, then its shared memory."""
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(PATIENCE_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    remove_regions(prefix)
