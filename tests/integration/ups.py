"""`elasticrec up` as a user runs it, in a process of its own, on a small fleet."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import tritonclient.grpc as grpcclient
from tritonclient.utils import InferenceServerException

from repo_builder.local_fleet.control import ask
from repo_builder.local_fleet.run_folder import RunFolder
from repo_builder.repository.configs import ShardBackend
from repo_builder.spec import Spec
from tests.integration.fleets import Load, at_once, infer, make_fleet, plan_for
from tests.integration.models import make_spec, pytorch_scores, random_query


@dataclass(frozen=True)
class Built:
    """A fleet on disk."""

    spec: Spec
    folder: Path

    @property
    def run(self) -> RunFolder:
        return RunFolder.of(self.folder)

    def status(self) -> dict[str, Any]:
        return ask(self.run, {"do": "status"})

    def service(self, name: str) -> dict[str, Any]:
        return next(service for service in self.status()["services"] if service["name"] == name)

    def replicas(self, name: str, state: str = "ready") -> list[dict[str, Any]]:
        return [replica for replica in self.service(name)["replicas"] if replica["state"] == state]

    def events(self) -> str:
        return self.run.events.read_text()


def built(
    folder: Path,
    target_qps: float = 400.0,
    dense_qps: float = 2000.0,
    sla_ms: float = 400.0,
    shard_backend: ShardBackend = "python",
) -> Built:
    """Two embedding services and a front end, one replica each in the plan; the hot one does 63 queries/s a replica."""
    spec = make_spec(folder)
    spec = replace(spec, serving=replace(spec.serving, sla_ms=sla_ms))
    planned = plan_for(spec, "tiered", 2)
    dense, *embedding = planned.services
    plan = replace(planned, services=(replace(dense, qps=dense_qps), *embedding), target_qps=target_qps)
    make_fleet(folder / "fleet", plan, spec, shard_backend)
    return Built(spec, folder / "fleet")


@dataclass
class Up:
    """A running `elasticrec up`; `lines` is what it printed so far."""

    process: subprocess.Popen[str]
    lines: list[str] = field(default_factory=list)
    _fresh: queue.Queue[str | None] = field(default_factory=queue.Queue)

    def read(self) -> None:
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))
            self._fresh.put(self.lines[-1])
        self._fresh.put(None)

    def wait_for(self, text: str, timeout_s: float = 60) -> str:
        """The next line that holds a text."""
        until = time.monotonic() + timeout_s
        while (line := self._fresh.get(timeout=max(0.1, until - time.monotonic()))) is not None:
            if text in line:
                return line
        raise AssertionError(f"it ended without saying {text!r}: {self.lines}")

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def named(self, name: str) -> list[psutil.Process]:
        """Its processes of a name; some others are there for a moment only."""
        found = []
        for child in self.children():
            with contextlib.suppress(psutil.NoSuchProcess):
                found += [child] if child.name() == name else []
        return found


@contextmanager
def up(fleet: Built, *words: object) -> Iterator[Up]:
    """Run it until the block ends, then stop it as Ctrl-C does; all that it started must be gone then."""
    command = [sys.executable, "-m", "elasticrec.cli", "up", fleet.folder, *words]
    process = subprocess.Popen(
        [str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    running = Up(process)
    reader = threading.Thread(target=running.read)
    reader.start()
    try:
        yield running
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 0, running.lines
    finally:
        if process.poll() is None:
            os.kill(process.pid, signal.SIGTERM)
            process.wait(60)
        reader.join()
        process.stdout.close()


@contextmanager
def ready(fleet: Built, *words: object) -> Iterator[Up]:
    """The same, from when it says `ready`."""
    with up(fleet, *words) as running:
        try:
            running.wait_for("ready")
        except queue.Empty as exc:
            raise AssertionError(running.lines) from exc
        while running.lines[-1] != "ready":
            running.wait_for("ready")
        yield running


@contextmanager
def following_load(fleet: Built, clients: int, pause_s: float = 0.0, tries: int = 1) -> Iterator[Load]:
    """Clients that ask the front ends of the addresses file, each time as it is then, and compare every score.

    tries: how often a query is sent where a front end is gone, each time to the next one.
    """
    seen, stop, start = Load(), threading.Event(), time.monotonic()

    def client(number: int) -> None:
        query = random_query(fleet.spec, 1 + 3 * number, seed=number)
        expected = pytorch_scores(fleet.spec, *query)
        sdks: dict[str, grpcclient.InferenceServerClient] = {}
        gone: list[str] = []  # who did not answer this query
        while not stop.wait(pause_s):
            addresses: Sequence[str] = json.loads(fleet.run.addresses.read_text())["frontend"]
            choice = [address for address in addresses if address not in gone] or addresses
            address = choice[seen.answers % len(choice)]
            if address not in sdks:
                sdks[address] = grpcclient.InferenceServerClient(address)
            asked = time.monotonic()
            try:
                scores = infer(sdks[address], fleet.spec, query).as_numpy("score")
            except InferenceServerException as exc:
                gone.append(address)
                if len(gone) == tries or exc.status() != "StatusCode.UNAVAILABLE":
                    seen.errors.append((asked - start, time.monotonic() - asked, str(exc)))
                    gone.clear()
                continue
            gone.clear()
            if not np.abs(scores - expected).max() <= 1e-5:
                seen.wrong.append(float(np.abs(scores - expected).max()))
            seen.answers += 1
        for sdk in sdks.values():
            sdk.close()

    with at_once(client, clients, stop):
        yield seen
