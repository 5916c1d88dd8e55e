"""One service of a running fleet: replicas come and go until there are as many as are wanted."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

from repo_builder.local_fleet.backoff import Backoff
from repo_builder.local_fleet.events import Events
from repo_builder.local_fleet.replica import Launch, Replica
from repo_builder.repository.built_fleet import BuiltService
from repo_builder.serving.server import Ports

NOTICE_S = 1.0
"""From leaving the address file to the end of a shard: front ends look at the file four times a second."""

FRONTEND_NOTICE_S = 3.0
"""Of a front end, which clients must leave by themselves."""


class Service:
    """Lives in the supervisor's thread; `wanted` may be set by others."""

    def __init__(
        self, about: BuiltService, wanted: int, launch: Launch, events: Events, changed: threading.Event
    ) -> None:
        self.about = about
        self.wanted = wanted
        self.replicas: Sequence[Replica] = ()
        self._launch = launch
        self._events = events
        self._changed = changed
        self._started = 0
        self._vacant: list[Ports] = []  # of replicas that died: who replaces one is found where it was
        self._backoff = Backoff()

    @property
    def name(self) -> str:
        """As the plan and the command line call it."""
        return self.about.folder

    @property
    def alive(self) -> Sequence[Replica]:
        """Those that serve or will."""
        return [replica for replica in self.replicas if replica.state in ("starting", "ready")]

    @property
    def ready(self) -> Sequence[Replica]:
        """Those that serve."""
        return [replica for replica in self.replicas if replica.state == "ready"]

    @property
    def loading(self) -> int:
        """How many do not serve yet."""
        return sum(replica.state == "starting" for replica in self.replicas)

    def step(self, now_s: float) -> Iterator[str]:
        """Bury who ended and drain who is too many; yields why replicas ended that should not have."""
        yield from self._bury(now_s)
        for replica in superfluous(self.alive, self.wanted):
            self._drain(replica, now_s)
        if len(self.alive) >= self.wanted:
            self._vacant.clear()
        for replica in self.replicas:
            if replica.drained_at_s is not None and now_s >= replica.drained_at_s:
                replica.stop()

    def start_one(self, now_s: float) -> bool:
        """Start a replica where one lacks and the wait after a failure is over; whether it did."""
        if len(self.alive) >= self.wanted or not self._backoff.may_start(now_s):
            return False
        self._started += 1
        name = f"{self.name}-{self._started}"
        try:
            replica = Replica(name, self._launch, self._changed, self._vacant.pop() if self._vacant else None)
        except RuntimeError as exc:  # no thread can be had
            self._backoff = self._backoff.failed(now_s, 0.0)
            self._events.tell(f"{name}: {exc}")
            return False
        self.replicas = [*self.replicas, replica]
        self._events.tell(f"{name}: starting")
        return True

    def _drain(self, replica: Replica, now_s: float) -> None:
        """Take it out of the address file, and end it when everyone knows; one that loads ends at once."""
        notice_s = FRONTEND_NOTICE_S if self.about.is_frontend else NOTICE_S
        replica.drained_at_s = now_s + (notice_s if replica.server else 0.0)
        self._events.tell(f"{replica.name}: draining")

    def _bury(self, now_s: float) -> Iterator[str]:
        ended = [replica for replica in self.replicas if replica.state == "ended"]
        self.replicas = [replica for replica in self.replicas if replica not in ended]
        for replica in ended:
            replica.join()
            if replica.drained_at_s is not None:
                self._events.tell(f"{replica.name}: stopped")
                continue
            if replica.server:
                self._vacant.append(replica.server.ports)
            ran_s = now_s - replica.ready_at_s if replica.ready_at_s is not None else 0.0
            self._backoff = self._backoff.failed(now_s, ran_s)
            wait_s = self._backoff.until_s - now_s
            self._events.tell(f"{replica.name}: {replica.error}\nanother starts in {wait_s:.0f} s; log: {replica.log}")
            yield f"{replica.name}: {replica.error}"


def superfluous(alive: Sequence[Replica], wanted: int) -> Sequence[Replica]:
    """Which replicas to give up: those that still load before those that serve, and the newest first."""
    by_worth = sorted(alive, key=lambda replica: replica.state != "ready")  # stable: the oldest stay in front
    return by_worth[wanted:]
