"""What a running fleet does when it is asked over its control interface."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from repo_builder.errors import InputError
from repo_builder.local_fleet.control import STOPPING, Request
from repo_builder.local_fleet.events import Events
from repo_builder.local_fleet.status import Status
from repo_builder.local_fleet.supervisor import Supervisor
from repo_builder.words import count


class Control:
    """`handle` answers a request; raises InputError where it is none."""

    def __init__(self, supervisor: Supervisor, events: Events, status: Callable[[], Status]) -> None:
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
