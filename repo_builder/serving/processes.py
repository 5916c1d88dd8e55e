"""The processes of a running server, and the memory that they take.

The Python backend's are children of the server, one an instance: stubs. A native model has none of its own.
"""

from __future__ import annotations

import contextlib
import itertools
import socket
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil

SERVER = "tritonserver"
_STUB = "triton_python_backend_stub"
_MAPPED = {"weights.bin", "idmap.bin"}  # what native models map into the server's process


def memory_by_model(pid: int) -> Mapping[str, int]:
    """PSS in bytes by model of the server with this process id, and under `tritonserver` its own.

    A model's is the sum over its Python stubs, and over the files that it maps into the server's process where it is
    native. PSS counts a page shared by n processes as 1/n of it in each: the sum over all is what the machine spends.
    Raises psutil.Error where the server has gone, or is another user's.
    """
    process = psutil.Process(pid)
    memory = Counter({SERVER: process.memory_full_info().pss})
    for mapped in process.memory_maps(grouped=True):
        path = Path(mapped.path)
        if path.name in _MAPPED:
            memory[path.parent.parent.name] += mapped.pss
            memory[SERVER] -= mapped.pss
    for child in process.children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # of a moment, such as a shell
            memory[stub_model(child) or SERVER] += child.memory_full_info().pss
    return dict(memory)


def memory_alone(pid: int) -> int:
    """Bytes that the server and its stubs would take if no other process ran: pages that they share count once.

    Beside other servers of the same installation PSS would say less, since they share its libraries.
    """
    private_bytes = 0
    shared_bytes: dict[str, int] = {}  # by file
    for mapping in itertools.chain.from_iterable(_of_all(pid, psutil.Process.memory_maps)):
        private_bytes += mapping.private_clean + mapping.private_dirty
        shared = mapping.shared_clean + mapping.shared_dirty
        shared_bytes[mapping.path] = max(shared_bytes.get(mapping.path, 0), shared)
    return private_bytes + sum(shared_bytes.values())


def cpu_seconds(pid: int) -> float:
    """CPU seconds that the server and its stubs have taken so far."""
    return float(sum(each.user + each.system for each in _of_all(pid, psutil.Process.cpu_times)))


def _of_all(pid: int, look: Callable[[psutil.Process], Any]) -> Iterator[Any]:
    """What is seen of the server, and of all that it started but for those of a moment, such as a shell."""
    yield look(psutil.Process(pid))
    for child in children(pid):
        with contextlib.suppress(psutil.NoSuchProcess):
            yield look(child)


def find_server(address: str) -> int | None:
    """The process id of the tritonserver on this machine that listens on `address`, HOST:PORT; None where none does."""
    host, _, port = address.rpartition(":")
    if not port.isdigit():
        return None
    try:
        wanted = socket.gethostbyname(host)
    except OSError:
        return None
    listens_at = {wanted, "0.0.0.0", "::"} if wanted.startswith("127.") else {wanted}  # noqa: S104 - compared, not bound
    for process in psutil.process_iter(["name"]):
        if process.info["name"] == SERVER:
            with contextlib.suppress(psutil.Error):
                for connection in process.net_connections("inet"):
                    ip, own_port = connection.laddr.ip.removeprefix("::ffff:"), connection.laddr.port
                    if connection.status == psutil.CONN_LISTEN and own_port == int(port) and ip in listens_at:
                        return process.pid
    return None


def stub_model(process: psutil.Process) -> str | None:
    """The model that a process serves; None where it is no stub, or not yet, or no more.

    A stub's first argument is the model's file, `.../NAME/VERSION/model.py`.
    """
    try:
        command = process.cmdline()
    except psutil.Error:
        return None
    if len(command) < 2 or Path(command[0]).name != _STUB:
        return None
    return Path(command[1]).parent.parent.name


def children(pid: int) -> list[psutil.Process]:
    """All that a server started; none where it has gone."""
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def stub_models(pid: int) -> Mapping[int, str]:
    """The models of a server's stubs by process id."""
    found = {child.pid: stub_model(child) for child in children(pid)}
    return {child: model for child, model in found.items() if model is not None}


def dead_children(pid: int) -> list[int]:
    """The process ids of those that have died: Triton does not reap its stubs, so they stay as zombies."""
    return [child.pid for child in children(pid) if _is_zombie(child)]


def _is_zombie(process: psutil.Process) -> bool:
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
