"""The signals that ask a command for its end."""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType


def on_ending(handler: Callable[[int, FrameType | None], object]) -> None:
    """Have the signals that ask for an end handled so.

    SIGINT too where it is ignored, as a shell starts what a script puts into the background; an ignored SIGHUP stays
    ignored: that is nohup.
    """
    for ending in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if ending != signal.SIGHUP or signal.getsignal(ending) is not signal.SIG_IGN:
            signal.signal(ending, handler)
