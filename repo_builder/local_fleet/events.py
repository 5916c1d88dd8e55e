"""What happened to a fleet: lines in its log, and those not yet shown."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

REMEMBERED = 200

Tell = Callable[[str], None]
"""`Events.tell`, for those who need no more."""


class Events:
    """Told from several threads; shown by one."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._lock = threading.Lock()
        self._lines: deque[str] = deque(maxlen=REMEMBERED)
        self._count = 0
        self._shown = 0

    def tell(self, text: str) -> None:
        """Add an event; of several lines the later ones are indented."""
        line = f"{time.strftime('%H:%M:%S')} {text}".replace("\n", "\n    ")
        with self._lock:
            self._lines.append(line)
            self._count += 1
            with contextlib.suppress(OSError), self._log.open("a", encoding="utf-8") as file:  # a disk may be full
                file.write(f"{line}\n")

    def new(self) -> Sequence[str]:
        """Those since the last call."""
        with self._lock:
            fresh = min(self._count - self._shown, len(self._lines))
            self._shown = self._count
            return list(self._lines)[len(self._lines) - fresh :]

    def last(self, count: int) -> Sequence[str]:
        """The latest ones, oldest first."""
        with self._lock:
            return list(self._lines)[-count:]
