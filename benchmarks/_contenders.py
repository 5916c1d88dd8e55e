"""The layouts that benchmarks compare: built of one model, served, and measured alike."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import fleet
import numpy as np
from _wire import counting
from numpy.typing import NDArray

from repo_builder.access.hotness import Hotness
from repo_builder.access.queries import draw_queries
from repo_builder.profiling import perf_analyzer
from repo_builder.profiling.perf_analyzer import Measurement
from repo_builder.serving.client import infer, times_by_model
from repo_builder.serving.install import Installation
from repo_builder.serving.processes import memory_alone, memory_by_model
from repo_builder.serving.server import Server, free_ports, running
from repo_builder.spec import Spec

Query = tuple[NDArray[np.float32], NDArray[np.int64]]


@dataclass(frozen=True, slots=True)
class Contender:
    """A served layout: its repository, whom clients ask, and all its servers by service."""

    name: str
    repository: Path
    asked: Server
    servers: Mapping[str, Server]

    def memory_bytes(self) -> int:
        """Each server as if it were alone on a machine of its own: its mapped weights and libraries in full."""
        return sum(memory_alone(server.process.pid) for server in self.servers.values())

    def pss_bytes(self) -> int:
        """PSS of all processes: what they share with other servers of this machine is divided among these."""
        return sum(sum(memory_by_model(server.process.pid).values()) for server in self.servers.values())


@dataclass(frozen=True, slots=True)
class Load:
    """What perf_analyzer saw at a concurrency, and the CPU seconds a query of all processes of each server."""

    seen: Measurement
    cpu_s: Mapping[str, float]


@contextmanager
def served(installed: Installation, name: str, repository: Path) -> Iterator[Contender]:
    """A layout of one server."""
    with running(installed, repository, free_ports(), repository.with_suffix(".log")) as server:
        yield Contender(name, repository, server, {"server": server})


@contextmanager
def served_fleet(installed: Installation, name: str, repository: Path, services: Sequence[str]) -> Iterator[Contender]:
    """A server of each embedding service, and the front end."""
    with ExitStack() as stack:
        servers: dict[str, Server] = {}
        for service in services:
            log = repository.with_name(f"{repository.name}-{service}.log")
            servers[service] = stack.enter_context(running(installed, repository / service, free_ports(), log))
        addresses = {service: [server.calls] for service, server in servers.items()}
        front = stack.enter_context(front_end(installed, repository, addresses))
        yield Contender(name, repository, front, {"frontend": front, **servers})


@contextmanager
def front_end(installed: Installation, repository: Path, addresses: Mapping[str, Sequence[str]]) -> Iterator[Server]:
    """A fleet's front end, calling these addresses of each service."""
    ports = free_ports()
    file = repository.with_name(f"{repository.name}-{ports.http}.json")
    file.write_text(json.dumps(addresses))
    environment = {"ELASTICREC_ADDRESSES": str(file)}
    log = file.with_suffix(".log")
    with running(installed, repository / "frontend", ports, log, environment=environment) as server:
        yield server


def load(contender: Contender, model: str, input_data: Path, concurrency: int, seconds: float) -> Load:
    """Measure with so many queries in flight; CPU counts over all queries that the servers answered meanwhile."""
    before, answered = _cpu_s(contender), times_by_model(contender.asked.http)[model].requests
    seen = perf_analyzer.run(model, contender.asked.grpc, input_data, concurrency, seconds)
    queries = times_by_model(contender.asked.http)[model].requests - answered
    return Load(seen, {name: (spent_s - before[name]) / queries for name, spent_s in _cpu_s(contender).items()})


def _cpu_s(contender: Contender) -> Mapping[str, float]:
    found = {name: fleet.cpu_s({name: server}) for name, server in contender.servers.items()}
    return {name: sum(parts.values()) - parts[fleet.CALLS] for name, parts in found.items()}  # a part of the server


def wire_bytes(installed: Installation, contender: Contender, spec: Spec, queries: Sequence[Query]) -> tuple[int, int]:
    """Mean bytes of a query on the wire, both ways: between client and server, and between the servers of a fleet.

    A fleet is asked through a front end of its own, whose calls go through counting proxies.
    """
    with ExitStack() as stack:
        inner = {
            service: stack.enter_context(counting(server.calls))
            for service, server in contender.servers.items()
            if server is not contender.asked
        }
        asked = contender.asked
        if inner:
            addresses = {service: [wire.address] for service, wire in inner.items()}
            asked = stack.enter_context(front_end(installed, contender.repository, addresses))
        outer = stack.enter_context(counting(asked.grpc))
        before = outer.crossed_bytes, sum(wire.crossed_bytes for wire in inner.values())
        for dense, indices in queries:
            infer("grpc", outer.address, spec.name, {"dense": dense, "indices": indices})
        after = outer.crossed_bytes, sum(wire.crossed_bytes for wire in inner.values())
    return (after[0] - before[0]) // len(queries), (after[1] - before[1]) // len(queries)


def drawn(spec: Spec, hotness: Hotness, count: int) -> list[Query]:
    """Queries of `serving.batch` rows, drawn from the model's accesses: dense (B, F), indices (B, columns)."""
    inputs = draw_queries(spec.model, hotness, count, spec.serving.batch, seed=0).inputs
    return list(zip(np.split(inputs["dense"], count), np.split(inputs["indices"], count), strict=True))


def write_input_data(path: Path, queries: Sequence[Query]) -> Path:
    """The queries as perf_analyzer reads them."""
    perf_analyzer.write_queries(path, ({"dense": dense, "indices": indices} for dense, indices in queries))
    return path
