"""One service of a running fleet: replicas come and go until there are as many as are wanted."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

from k8s.fleet import FleetService
from repo_builder.fleet.backoff import Backoff
from repo_builder.fleet.events import Events
from repo_builder.fleet.replica import Launch, Replica

NOTICE_S = 1.0
"""From leaving the address file to the end of a shard: front ends look at the file four times a second."""

FRONTEND_NOTICE_S = 3.0
"""Of a front end, which clients must leave by themselves."""


class Service:
    """Lives in the supervisor's thread; `wanted` may be set by others."""

    def __init__(
        self, about: FleetService, wanted: int, launch: Launch, events: Events, changed: threading.Event
    ) -> None:
        self.about = about
        self.wanted = wanted
        self.replicas: Sequence[Replica] = ()
        self._launch = launch
        self._events = events
        self._changed = changed
        self._started = 0
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

    def step(self, now_s: float, may_start: bool) -> Iterator[str]:
        """Bring the replicas nearer to what is wanted; yields why replicas ended that should not have."""
        yield from self._bury(now_s)
        alive = self.alive
        if len(alive) < self.wanted and may_start and self._backoff.may_start(now_s):
            self.replicas = [*self.replicas, *(self._start() for _ in range(self.wanted - len(alive)))]
        for replica in superfluous(alive, self.wanted):
            self._drain(replica, now_s)
        for replica in self.replicas:
            if replica.drained_at_s is not None and now_s >= replica.drained_at_s:
                replica.stop()

    def _start(self) -> Replica:
        self._started += 1
        replica = Replica(f"{self.name}-{self._started}", self._launch, self._changed)
        self._events.tell(f"{replica.name}: starting")
        return replica

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
            ran_s = now_s - replica.ready_at_s if replica.ready_at_s is not None else 0.0
            self._backoff = self._backoff.failed(now_s, ran_s)
            wait_s = self._backoff.until_s - now_s
            self._events.tell(f"{replica.name}: {replica.error}\nanother starts in {wait_s:.0f} s; log: {replica.log}")
            yield f"{replica.name}: {replica.error}"


def superfluous(alive: Sequence[Replica], wanted: int) -> Sequence[Replica]:
    """Which replicas to give up: those that still load before those that serve, and the newest first."""
    by_worth = sorted(alive, key=lambda replica: replica.state != "ready")  # stable: the oldest stay in front
    return by_worth[wanted:]
