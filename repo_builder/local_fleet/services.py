"""The services of a running fleet: each has replicas, a tritonserver of its own each, as many as are wanted."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from repo_builder.errors import ElasticRecError, PortTakenError
from repo_builder.local_fleet.machine import FreePorts
from repo_builder.local_fleet.run_folder import Events
from repo_builder.repository.built_fleet import BuiltService
from repo_builder.serving.install import Installation
from repo_builder.serving.server import Ports, Server, running, wait

NOTICE_S = 1.0
"""From leaving the address file to the end of a shard: front ends look at the file four times per second."""

FRONTEND_NOTICE_S = 3.0
"""Of a front end, which clients must leave by themselves."""


class LocalService:
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


State = Literal["starting", "ready", "draining", "ended"]


@dataclass(frozen=True, slots=True)
class Launch:
    """How replicas of a service are started."""

    installation: Installation
    repository: Path
    logs: Path
    flags: Sequence[str]
    environment: Mapping[str, str]
    ports: FreePorts


class Replica:
    """Started at once; `changed` is set whenever its state does. `ports`: of one that it replaces.

    The thread lives as long as the server: the kernel ends a child whose parent asked for it (PR_SET_PDEATHSIG) with
    the thread that started it, not with the process.
    """

    def __init__(self, name: str, launch: Launch, changed: threading.Event, ports: Ports | None = None) -> None:
        self.name = name
        self.log = launch.logs / f"{name}.log"
        self.server: Server | None = None
        self.error: str | None = None
        self.ready_at_s: float | None = None
        self.drained_at_s: float | None = None  # set: it takes no more queries, and ends then
        self._launch = launch
        self._changed = changed
        self._stop = threading.Event()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(ports,), name=name)
        self._thread.start()

    @property
    def state(self) -> State:
        """Where it stands."""
        if self._ended.is_set():
            return "ended"
        if self.drained_at_s is not None:
            return "draining"
        return "ready" if self.server else "starting"

    def stop(self) -> None:
        """Have it finish what is in flight and end; returns at once."""
        self._stop.set()

    def join(self) -> None:
        """Wait for its end."""
        self._thread.join()

    def _run(self, ports: Ports | None) -> None:
        try:
            try:
                self._serve(ports)
            except PortTakenError:  # since it was found free: others are
                self._serve(None)
        except (ElasticRecError, OSError) as exc:
            self.error = str(exc)
        except Exception as exc:  # noqa: BLE001 - the one guard of this thread: the supervisor starts another
            self.error = f"{type(exc).__name__}: {exc}"
        finally:
            self._ended.set()
            self._changed.set()

    def _serve(self, wished: Ports | None) -> None:
        launch = self._launch
        ports = launch.ports.take(wished)
        try:
            with running(
                launch.installation,
                launch.repository,
                ports,
                self.log,
                flags=launch.flags,
                environment=launch.environment,
                stop=self._stop,
            ) as server:
                self.ready_at_s = time.monotonic()
                self.server = server
                self._changed.set()
                wait(server, self._stop)
        finally:
            launch.ports.release(ports)


FIRST_S, LONGEST_S = 1.0, 30.0
STEADY_S = 60.0
"""What ran so long before it failed had recovered."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """Failures in a row, and until when to wait."""

    failures: int = 0
    until_s: float = float("-inf")

    def failed(self, now_s: float, ran_s: float) -> Backoff:
        """After a failure of something that ran for `ran_s`: each wait is twice the last."""
        failures = 1 if ran_s >= STEADY_S else self.failures + 1
        return Backoff(failures, now_s + min(LONGEST_S, FIRST_S * 2.0 ** min(failures - 1, 10)))

    def may_start(self, now_s: float) -> bool:
        """Whether the wait is over."""
        return now_s >= self.until_s
