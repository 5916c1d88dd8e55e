"""Locust users of an open loop: each is a source of `queries_per_user` queries per second, at Poisson times.

The queries of all users of a protocol are sent by one process of its own (`sender.py` says why); its lines become
locust's requests.
"""

from __future__ import annotations

import subprocess
from typing import Any, ClassVar

import gevent
from gevent.event import AsyncResult, Event
from locust import User, task
from locust.env import Environment

from loadtest.clients import Protocol, SenderSettings
from loadtest.open_loop import start_sender
from loadtest.queries import answer_bytes


class SenderProcess:
    """The process that sends the queries of one protocol, and the traffic that its users ask for.

    Made once it is ready to send; raises LoadTestError where it ends instead.
    """

    def __init__(self, environment: Environment, load: SenderSettings) -> None:
        self._environment = environment
        self._load = load
        self._answer_bytes = answer_bytes(load.outputs, load.batch)
        self._qps = 0.0
        self._idle = Event()
        self._process = start_sender(load)
        gevent.spawn(self._read)
        environment.events.quitting.add_listener(self._close)

    def change(self, by_qps: float) -> None:
        """Raise or lower the traffic; where that ends it, wait for the answers that are still to come."""
        self._qps = max(0.0, self._qps + by_qps)
        if self._qps < 1e-9:
            self._qps = 0.0
            self._idle.clear()
        if self._process.stdin and not self._process.stdin.closed:
            self._process.stdin.write(f"{self._qps}\n")
            self._process.stdin.flush()
            if not self._qps:
                self._idle.wait(self._load.timeout_s + 1)

    def pause(self) -> None:
        """End the traffic, and wait for the answers that are still to come."""
        self.change(-self._qps)

    def _close(self, **_: Any) -> None:
        if self._process.stdin:
            self._process.stdin.close()
        try:
            self._process.wait(self._load.timeout_s + 1)
        except subprocess.TimeoutExpired:
            self._process.kill()

    def _read(self) -> None:
        for line in self._process.stdout or ():
            if line == "idle\n":
                self._idle.set()
                continue
            due_s, latency_ms, problem = line.rstrip("\n").split(" ", 2)
            self._environment.events.request.fire(
                request_type=self._load.protocol,
                name=self._load.model,
                start_time=float(due_s),
                response_time=float(latency_ms),
                response_length=self._answer_bytes,
                exception=RuntimeError(problem) if problem else None,
                context={},
            )
        self._idle.set()


class OpenLoopUser(User):
    """Adds `--queries-per-user` queries per second to its protocol's source while it runs, once there is one."""

    abstract = True
    protocol: ClassVar[Protocol]
    source: ClassVar[AsyncResult[SenderProcess]]
    _added_qps = 0.0

    def on_start(self) -> None:
        """Add this user's traffic."""
        options: Any = self.environment.parsed_options  # a worker's are its master's
        source: Any = self.source.get()
        self._added_qps = options.queries_per_user
        source.change(self._added_qps)

    @task
    def be_there(self) -> None:
        """The traffic flows by itself."""
        gevent.sleep(1)

    def on_stop(self) -> None:
        """Take this user's traffic away."""
        if self._added_qps:
            source: Any = self.source.get()
            source.change(-self._added_qps)


class GrpcUser(OpenLoopUser):
    """Queries over gRPC."""

    protocol = "grpc"
    source = AsyncResult()


class HttpUser(OpenLoopUser):
    """Queries over HTTP."""

    protocol = "http"
    source = AsyncResult()
