"""The servers that a load test loads: their memory, replicas and statistics, where they run on this machine."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import psutil
from geventhttpclient.response import HTTPParseError
from tritonclient.utils import InferenceServerException

from loadtest.clients import Protocol as Endpoint
from loadtest.run import Seen, ServiceTimes
from repo_builder.errors import InputError, ServerError
from repo_builder.local_fleet.control import ask
from repo_builder.local_fleet.run_folder import RunFolder
from repo_builder.repository.manifest import Manifest
from repo_builder.serving.client import ModelTimes, times_by_model
from repo_builder.serving.processes import find_server, memory_by_model

PORTS: Mapping[Endpoint, int] = {"grpc": 8001, "http": 8000}
Times = Mapping[tuple[str, str], ModelTimes]  # so far, by server and Triton model


class Servers(Protocol):
    """What can be looked at while a load test runs."""

    def look(self) -> Seen:
        """Now; empty where nothing can be seen."""

    def times(self) -> Times:
        """Of the models whose statistics the one who is asked does not have."""


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """Servers on other machines, or nobody's that we know."""

    def look(self) -> Seen:
        """Nothing."""
        return Seen()

    def times(self) -> Times:
        """None."""
        return {}


ELSEWHERE = Elsewhere()


@dataclass(frozen=True, slots=True)
class OneServer:
    """A server of this machine, whoever started it."""

    pid: int

    def look(self) -> Seen:
        """Its memory by model."""
        return Seen(_memory(self.pid))

    def times(self) -> Times:
        """None: whoever asks it has its statistics."""
        return {}


@dataclass(frozen=True, slots=True)
class UpFleet:
    """A fleet that `elasticrec up` runs."""

    repository: Path

    def look(self) -> Seen:
        """Memory and ready replicas by service."""
        ready = {service["name"]: list(_ready(service)) for service in self._services()}
        held = {name: sum(_memory_bytes(replica["pid"]) for replica in replicas) for name, replicas in ready.items()}
        return Seen(held, {name: len(replicas) for name, replicas in ready.items()})

    def times(self) -> Times:
        """Of every replica of the embedding services."""
        found: dict[tuple[str, str], ModelTimes] = {}
        for service in self._services()[1:]:
            for replica in _ready(service):
                try:
                    found |= {
                        (replica["http"], model): times for model, times in times_by_model(replica["http"]).items()
                    }
                except (InferenceServerException, HTTPParseError, OSError):
                    continue  # it has just gone
        return found

    def addresses(self, protocol: Endpoint) -> Sequence[str]:
        """HOST:PORT of the front ends that are ready. Raises InputError where the fleet is not up."""
        status = ask(RunFolder.of(self.repository), {"do": "status"})
        return [replica[protocol] for replica in _ready(status["services"][0])]

    def _services(self) -> Sequence[Mapping[str, Any]]:
        """The front end first; none once the fleet has gone."""
        try:
            services: Sequence[Mapping[str, Any]] = ask(RunFolder.of(self.repository), {"do": "status"})["services"]
        except (InputError, ServerError):
            return ()
        return services


def _memory(pid: int) -> Mapping[str, int]:
    """PSS in bytes by model; nothing of a server that has gone."""
    try:
        return memory_by_model(pid)
    except psutil.Error:
        return {}


def _memory_bytes(pid: int) -> int:
    return sum(_memory(pid).values())


def _ready(service: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    return (replica for replica in service["replicas"] if replica["state"] == "ready")


def behind(repository: Path, manifest: Manifest, protocol: Endpoint, given: str | None) -> tuple[str, Servers]:
    """Whom to ask, addresses HOST:PORT with commas between, and the servers behind.

    given: addresses from the user; without, all front ends of the fleet that is up, or the usual port of this machine.
    Raises InputError where there is neither an address nor a running fleet.
    """
    if manifest.layout == "fleet":
        fleet = UpFleet(repository)
        try:
            own = fleet.addresses(protocol)
        except InputError:
            if given:
                return given, ELSEWHERE
            raise
        if not own and not given:
            raise InputError(
                f"{repository}: expected a front end that is ready, got none; see elasticrec ps {repository}"
            )
        asked = given or ",".join(own)
        return asked, fleet if set(asked.split(",")) <= set(own) else ELSEWHERE
    asked = given or f"127.0.0.1:{PORTS[protocol]}"
    pid = find_server(asked)
    return asked, ELSEWHERE if pid is None else OneServer(pid)


def between(before: Times, after: Times) -> Mapping[str, ServiceTimes]:
    """What each model did between two readings, over all servers that are in both. Pure."""
    parts: dict[str, list[tuple[int, int, float, float]]] = defaultdict(list)
    for (server, model), last in after.items():
        first = before.get((server, model))
        if first is not None and last.requests > first.requests:
            queue_ms, compute_ms = (
                getattr(last, name) * last.requests - getattr(first, name) * first.requests
                for name in ("queue_ms", "compute_ms")
            )
            executions = last.executions - first.executions
            parts[model].append((last.requests - first.requests, executions, queue_ms, compute_ms))
    sums = {model: [sum(column) for column in zip(*rows, strict=True)] for model, rows in parts.items()}
    return {
        model: ServiceTimes(int(requests), int(executions), queue_ms / requests, compute_ms / requests)
        for model, (requests, executions, queue_ms, compute_ms) in sums.items()
    }
