"""Runs all replicas of a fleet here, tells front ends and Prometheus where they are, and does what it is asked."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Literal

from repo_builder.errors import InputError, ServerError
from repo_builder.local_fleet.control import STOPPING, Request
from repo_builder.local_fleet.machine import Capacity
from repo_builder.local_fleet.run_folder import Events, RunFolder
from repo_builder.local_fleet.services import Launch, LocalService, Replica
from repo_builder.repository.built_fleet import BuiltFleet
from repo_builder.scaling.hpa import Pods
from repo_builder.words import count
from repo_builder.writing import replace_file

TICK_S = 0.2
AT_ONCE = max(2, (os.cpu_count() or 1) // 2)
"""How many replicas load at the same time."""

Phase = Literal["starting", "up", "stopping"]


class Supervisor:
    """`run` keeps the fleet going in the thread that calls it; the other methods may be called from any.

    launches: how each service's replicas start, by its name; namespace: the label that the scaling rules select by;
    capacity: what bounds the replicas, None for nothing.
    """

    def __init__(
        self,
        fleet: BuiltFleet,
        run: RunFolder,
        wanted: Mapping[str, int],
        launches: Mapping[str, Launch],
        events: Events,
        namespace: str,
        capacity: Capacity | None,
    ) -> None:
        self._changed = threading.Event()
        self.model = fleet.model
        self.services = {
            each.folder: LocalService(each, wanted[each.folder], launches[each.folder], events, self._changed)
            for each in fleet.services
        }
        self.phase: Phase = "starting"
        self._run = run
        self._events = events
        self._namespace = namespace
        self._capacity = capacity
        self._stopping = False
        self._published: Mapping[str, str] = {}
        self._unwritten = ""

    def run(self, tick: Callable[[], None]) -> None:
        """Start the replicas and look after them until `stop`, calling `tick` some times per second; then end them all.

        Raises ServerError where a replica fails before every service was ready once.
        """
        try:
            while not self._stopping:
                self._step()
                tick()
                self._changed.wait(TICK_S)
                self._changed.clear()
        finally:
            self._end()

    def stop(self) -> None:
        """Have `run` end; nothing but a flag, so that a signal's handler may call it."""
        self._stopping = True

    def scale(self, service: str, replicas: int) -> None:
        """Want so many replicas of a service, whatever the machine has; at least one."""
        self.services[service].wanted = replicas
        self._changed.set()

    def check(self, replicas: Mapping[str, int], force: bool = False) -> None:
        """Raise InputError where there is no service of a name, or one is to have no replica, or, without `force`,
        more than it has and than the machine holds.
        """
        for service, number in replicas.items():
            if service not in self.services:
                raise InputError(f"{service}: expected a service, one of {', '.join(self.services)}")
            if number < 1:
                raise InputError(f"{service}: expected at least 1 replica, got {number}: without it every query fails")
        before = self._wanted()
        if self._capacity and not force and any(number > before[name] for name, number in replicas.items()):
            self._capacity.check({**before, **replicas})

    def check_room(self) -> None:
        """Raise InputError where what is wanted is more than the machine holds."""
        if self._capacity:
            self._capacity.check(self._wanted())

    def most(self, service: str) -> int:
        """How many replicas the machine has room for beside the other services."""
        return self._capacity.most(service, self._wanted()) if self._capacity else sys.maxsize

    def _wanted(self) -> Mapping[str, int]:
        return {name: service.wanted for name, service in self.services.items()}

    def pods(self, service: str) -> Pods:
        """A service's replicas as Kubernetes' autoscaler counts pods."""
        found = self.services[service]
        return Pods(found.wanted, len(found.alive), len(found.ready))

    def _step(self) -> None:
        now_s = time.monotonic()
        for service in self.services.values():
            for failure in service.step(now_s):
                if self.phase == "starting":
                    raise ServerError(f"{failure}\nthe fleet was not up yet: all is stopped")
        self._start_some(now_s)
        self._publish()
        if self.phase == "starting" and all(len(service.ready) >= service.wanted for service in self.services.values()):
            self.phase = "up"
            self._events.tell("all replicas are ready")

    def _start_some(self, now_s: float) -> None:
        """Start replicas, few enough that those that load share the cores; services with the fewest come first.

        The first front end waits until all shards can be reached.
        """
        room = AT_ONCE - sum(service.loading for service in self.services.values())
        reachable = all(service.ready for service in self.services.values() if not service.about.is_frontend)
        for service in sorted(self.services.values(), key=lambda service: len(service.alive)):
            may_start = reachable or not service.about.is_frontend or bool(service.alive)
            if room > 0 and may_start and service.start_one(now_s):
                room -= 1

    def _publish(self) -> None:
        """The files that others follow, where something changed; what cannot be written is tried again."""
        addresses = {
            name: [replica.server.calls for replica in service.ready if replica.server]
            for name, service in self.services.items()
        }
        targets = [
            self._target(service, replica)
            for service in self.services.values()
            for replica in service.replicas
            if replica.server and replica.state != "ended"
        ]
        try:
            for path, document in ((self._run.addresses, addresses), (self._run.targets, targets)):
                text = json.dumps(document, indent=1) + "\n"
                if self._published.get(path.name) != text:
                    replace_file(path, text)
                    self._published = {**self._published, path.name: text}
            self._unwritten = ""
        except OSError as exc:
            if str(exc) != self._unwritten:
                self._events.tell(f"{exc}; clients and front ends go by what stood there before")
            self._unwritten = str(exc)

    def _target(self, service: LocalService, replica: Replica) -> Mapping[str, Any]:
        """What a PodMonitor makes of a pod."""
        assert replica.server is not None  # noqa: S101 - the caller has looked
        address = f"{replica.server.host}:{replica.server.ports.metrics}"
        labels = {"namespace": self._namespace, "pod": replica.name, "service": service.name}
        return {"targets": [address], "labels": labels}

    def _end(self) -> None:
        """Front ends first, so that no query is under way when the shards go."""
        self.phase = "stopping"
        self._events.tell("stopping")
        for service in self.services.values():
            for replica in service.replicas:
                replica.stop()
            if service.about.is_frontend:
                for replica in service.replicas:
                    replica.join()
        for service in self.services.values():
            for replica in service.replicas:
                replica.join()


class Control:
    """`handle` answers a request; raises InputError where it is none."""

    def __init__(self, supervisor: Supervisor, events: Events, status: Callable[[], object]) -> None:
        self._supervisor = supervisor
        self._events = events
        self._status = status
        self._actions: dict[str, Callable[[Request], object]] = {
            "status": lambda _: self._status(),
            "scale": self._scale,
            "down": self._down,
        }

    def handle(self, request: Request) -> object:
        """The answer, as JSON takes it."""
        action = self._actions.get(str(request.get("do")))
        if action is None:
            raise InputError(f"do: expected one of {', '.join(self._actions)}, got {request.get('do')!r}")
        return action(request)

    def _scale(self, request: Request) -> str:
        """All services or, where one is wrong, none."""
        replicas: Any = request.get("replicas")
        if not isinstance(replicas, dict) or not all(type(number) is int for number in replicas.values()):
            raise InputError("replicas: expected numbers by service")
        self._supervisor.check(replicas, force=request.get("force") is True)
        for service, number in replicas.items():
            self._events.tell(f"{service}: {count(number, 'replica')} wanted by hand")
            self._supervisor.scale(service, number)
        return "scaling"

    def _down(self, _: Request) -> str:
        self._supervisor.stop()
        return STOPPING
