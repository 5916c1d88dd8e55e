"""Fleets of real servers on this machine: a process for each replica of each service, and a front end."""

from __future__ import annotations

import json
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import tritonclient.grpc as grpcclient
from tritonclient.grpc import InferenceServerClient as Sdk
from tritonclient.utils import InferenceServerException

from repo_builder.access.load import load_hotness
from repo_builder.export.dlrm.source import open_source
from repo_builder.partition.plan import Plan
from repo_builder.partition.planner import make_plan
from repo_builder.repository.build import build
from repo_builder.repository.configs import ShardBackend
from repo_builder.serving.install import Installation
from repo_builder.serving.server import Ports, Server, free_ports
from repo_builder.spec import FleetSettings, Spec
from tests.integration.models import CHEAP, make_spec, pytorch_scores, random_query
from tests.servers import serving

T = TypeVar("T")
ANSWER_S = 150.0  # a query that nobody answers is an error then, and no test that hangs


@dataclass
class Running:
    """A fleet's servers; `addresses` is the file that its front ends follow."""

    spec: Spec
    plan: Plan
    folder: Path
    addresses: Path
    stack: ExitStack
    shards: dict[str, list[Server]] = field(default_factory=dict)
    frontends: list[Server] = field(default_factory=list)

    @property
    def frontend(self) -> Server:
        return self.frontends[0]

    def start_shard(
        self,
        service: str,
        ports: Ports | None = None,
        flags: Sequence[str] = (),
        host: str = "127.0.0.1",
        changed: Callable[[Installation], Installation] = lambda installed: installed,
    ) -> Server:
        ports = ports or free_ports()
        log = self.addresses.with_name(f"{service}-{ports.grpc}.log")
        opened = serving(self.folder / service, log, ports=ports, host=host, flags=flags, changed=changed)
        server = self.stack.enter_context(opened)
        self.shards.setdefault(service, []).append(server)
        return server

    def start_frontend(self, folder: Path | None = None, environment: Mapping[str, str] | None = None) -> Server:
        ports = free_ports()
        log = self.addresses.with_name(f"frontend-{ports.grpc}.log")
        variables = {"ELASTICREC_ADDRESSES": str(self.addresses), **(environment or {})}
        frontend = (folder or self.folder) / "frontend"
        server = self.stack.enter_context(serving(frontend, log, ports=ports, environment=variables))
        self.frontends.append(server)
        return server

    def write_addresses(self, **entries: str | list[str]) -> None:
        """Every shard server that was started, but for these entries; the file is swapped as a ConfigMap is."""
        found = {name: [server.calls for server in servers] for name, servers in self.shards.items()}
        part = self.addresses.with_suffix(".part")
        part.write_text(json.dumps({**found, **entries}))
        part.rename(self.addresses)


def plan_for(spec: Spec, grouping: str, s_max: int) -> Plan:
    planned = make_plan(spec, load_hotness(spec), CHEAP, grouping, s_max)
    return replace(planned, services=tuple(replace(service, replicas=1, added=0) for service in planned.services))


def make_fleet(folder: Path, plan: Plan, spec: Spec, shard_backend: ShardBackend = "python", **options: object) -> Path:
    """Build a fleet of the spec with these `fleet:` options."""
    spec = replace(spec, fleet=FleetSettings(**options))
    build(spec, plan, load_hotness(spec), open_source(spec), folder, shard_backend=shard_backend, layout="fleet")
    return folder


@contextmanager
def running_fleet(
    folder: Path,
    grouping: str,
    s_max: int,
    *,
    index_dtype: str = "int64",
    replicas: Mapping[str, int] | None = None,
    shard_backend: ShardBackend = "python",
    **options: object,
) -> Iterator[Running]:
    """Build and run a fleet; one replica of each service but for those in `replicas`."""
    spec = make_spec(folder, index_dtype)
    plan = plan_for(spec, grouping, s_max)
    make_fleet(folder / "fleet", plan, spec, shard_backend, **options)
    with ExitStack() as stack:
        fleet = Running(spec, plan, folder / "fleet", folder / "addresses.json", stack)
        for service in plan.embedding_services:
            for _ in range((replicas or {}).get(service.name, 1)):
                fleet.start_shard(service.name)
        fleet.write_addresses()
        fleet.start_frontend()
        yield fleet


@dataclass
class Load:
    """What clients in a loop saw: answers with their latencies, errors with their time and latency, wrong scores."""

    answers: int = 0
    latencies_s: list[float] = field(default_factory=list)
    errors: list[tuple[float, float, str]] = field(default_factory=list)
    wrong: list[float] = field(default_factory=list)


@contextmanager
def at_once(client: Callable[[int], None], clients: int, stop: threading.Event) -> Iterator[None]:
    """Clients in threads of their own while the block runs; `stop` tells them of its end."""
    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


@contextmanager
def load(
    spec: Spec, server: Server | None, clients: int, rows: int = 5, connect: Callable[[], Sdk] | None = None
) -> Iterator[Load]:
    """Clients that send queries of their own, one after another, while the block runs; times count from its start.

    rows: by which each client's queries are longer than the last's; the first has one. connect: how they reach it.
    """
    seen, stop, start = Load(), threading.Event(), time.monotonic()

    def client(number: int) -> None:
        query = random_query(spec, 1 + rows * number, seed=number)
        expected = pytorch_scores(spec, *query)
        sdk = connect() if connect else Sdk(server.grpc)
        while not stop.is_set():
            asked = time.monotonic()
            try:
                scores = infer(sdk, spec, query, client_timeout=ANSWER_S).as_numpy("score")
            except InferenceServerException as exc:
                seen.errors.append((asked - start, time.monotonic() - asked, str(exc)))
                continue
            difference = float(np.abs(scores - expected).max())
            if not difference <= 1e-5:
                seen.wrong.append(difference)
            seen.answers += 1
            seen.latencies_s.append(time.monotonic() - asked)
        sdk.close()

    with at_once(client, clients, stop):
        yield seen


def infer_inputs(spec: Spec, query: tuple[np.ndarray, np.ndarray]) -> list[grpcclient.InferInput]:
    inputs = []
    for name, array, kind in zip(("dense", "indices"), query, ("FP32", spec.dlrm.index_dtype.upper()), strict=True):
        inputs.append(grpcclient.InferInput(name, array.shape, kind))
        inputs[-1].set_data_from_numpy(array)
    return inputs


def infer(
    sdk: Sdk, spec: Spec, query: tuple[np.ndarray, np.ndarray], client_timeout: float | None = None
) -> grpcclient.InferResult:
    return sdk.infer(spec.name, infer_inputs(spec, query), client_timeout=client_timeout)


def metric(server: Server, name: str, **labels: str) -> float:
    """The sum over the series of a metric that have these labels."""
    with urllib.request.urlopen(server.metrics) as answer:  # noqa: S310 - our own server
        lines = answer.read().decode().splitlines()
    wanted = [f'{key}="{value}"' for key, value in labels.items()]
    series = [line for line in lines if line.startswith((f"{name}{{", f"{name} ")) and all(w in line for w in wanted)]
    return sum(float(line.rsplit(" ", 1)[1]) for line in series)


def settled(count: Callable[[], T]) -> T:
    """What is counted once it moves no more: a server counts a call after its answer has left."""
    seen = count()
    while True:
        time.sleep(0.5)
        before, seen = seen, count()
        if seen == before:
            return seen


def eventually(check: object, timeout_s: float = 10) -> None:
    """Wait until check() holds."""
    until = time.monotonic() + timeout_s
    while not check():
        assert time.monotonic() < until, "it did not come true in time"
        time.sleep(0.05)
