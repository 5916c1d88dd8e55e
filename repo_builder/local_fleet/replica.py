"""One replica of a service: a tritonserver of its own, in the care of a thread of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from repo_builder.errors import ElasticRecError, PortTakenError
from repo_builder.local_fleet.ports import FreePorts
from repo_builder.serving.install import Installation
from repo_builder.serving.server import Ports, Server, running, wait

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
