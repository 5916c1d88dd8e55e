"""Children that end with us."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Callable
from typing import Final

_PR_SET_PDEATHSIG: Final = 1  # Linux, <linux/prctl.h>
_prctl = ctypes.CDLL(None).prctl  # looked up here: between fork and exec, beside other threads, nothing may be loaded


def ending_with_us(how: signal.Signals) -> Callable[[], None]:
    """For Popen's `preexec_fn`: the kernel sends the child this signal when the thread that starts it ends.

    That thread must live as long as the child. Of the child's own children the kernel tells nobody.
    """
    us = os.getpid()

    def ask() -> None:
        _prctl(_PR_SET_PDEATHSIG, how)
        if os.getppid() != us:  # we ended between the fork and this line, too early for the kernel's signal
            os.kill(os.getpid(), signal.SIGKILL)

    return ask
