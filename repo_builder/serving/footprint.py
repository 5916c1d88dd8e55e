"""What a running server takes: memory by model, and the time that Triton says each model spent."""

from __future__ import annotations

import contextlib
import socket
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import tritonclient.http

from repo_builder.serving.server import Server, stubs
from repo_builder.serving.stubs import stub_model

SERVER = "tritonserver"
_MAPPED = {"weights.bin", "idmap.bin"}  # what native models, which have no process of their own, map into the server's


@dataclass(frozen=True, slots=True)
class ModelTimes:
    """A model's successful requests and executions so far, and a request's mean times in ms."""

    requests: int
    executions: int
    queue_ms: float
    compute_ms: float


def memory_by_model(server: Server) -> Mapping[str, int]:
    """PSS in bytes by model, and under `tritonserver` the server's own.

    A model's is the sum over its Python stubs, and over the files that it maps into the server's process where it is
    native. PSS counts a page shared by n processes as 1/n of it in each: the sum over all is what the machine spends.
    """
    return memory_of_process(server.process.pid)


def memory_of_process(pid: int) -> Mapping[str, int]:
    """The same of a server that somebody else started; raises psutil.Error where it has gone, or is another user's."""
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


def memory_alone(server: Server) -> int:
    """Bytes that the server and its stubs would take if no other process ran: pages that they share count once.

    Beside other servers of the same installation PSS would say less, since they share its libraries.
    """
    private_bytes = 0
    shared_bytes: dict[str, int] = {}  # by file
    for process in (psutil.Process(server.process.pid), *stubs(server)):
        for mapping in process.memory_maps(grouped=True):
            private_bytes += mapping.private_clean + mapping.private_dirty
            shared = mapping.shared_clean + mapping.shared_dirty
            shared_bytes[mapping.path] = max(shared_bytes.get(mapping.path, 0), shared)
    return private_bytes + sum(shared_bytes.values())


def times_by_model(server: Server) -> Mapping[str, ModelTimes]:
    """Triton's own statistics of every model."""
    return times_at(server.http)


def times_at(http_address: str) -> Mapping[str, ModelTimes]:
    """The same of a server at HOST:PORT; raises OSError where none answers."""
    client = tritonclient.http.InferenceServerClient(http_address)
    try:
        statistics = client.get_inference_statistics()["model_stats"]
    finally:
        client.close()
    return {model["name"]: _times(model) for model in statistics}


def _times(model: Mapping[str, Any]) -> ModelTimes:
    stats = model["inference_stats"]
    requests = stats["success"]["count"]
    compute_ns = sum(stats[part]["ns"] for part in ("compute_input", "compute_infer", "compute_output"))
    per_request_ms = 1e-6 / max(requests, 1)
    return ModelTimes(
        requests, model["execution_count"], stats["queue"]["ns"] * per_request_ms, compute_ns * per_request_ms
    )
