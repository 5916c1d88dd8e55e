"""Something done again and again beside the fleet, that no error ends."""

from __future__ import annotations

import threading
from collections.abc import Callable

from repo_builder.local_fleet.events import Tell


class Periodic:
    """Calls `act` every `period_s` while a `with` block lasts, in a thread of its own.

    An error ends one call, not the thread: `tell` hears of it once, and again when another one comes.
    """

    def __init__(self, name: str, period_s: float, act: Callable[[], None], tell: Tell) -> None:
        self._name = name
        self._period_s = period_s
        self._act = act
        self._tell = tell
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        told = ""
        while not self._stop.wait(self._period_s):
            try:
                self._act()
            except Exception as exc:  # noqa: BLE001 - the one guard of a thread that nobody would miss in time
                failure = f"{type(exc).__name__}: {exc}"
                if failure != told:
                    self._tell(f"{self._name}: {failure}; it goes on")
                told = failure
