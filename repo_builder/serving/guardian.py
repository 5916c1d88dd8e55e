"""What ends with us, however we end: a child by the kernel's word, and a server whole by a guardian beside it.

The kernel's signal at a parent's death reaches the child alone: a server that loads just then leaves its Python stubs
behind, one that is frozen stays, and shared memory is nobody's. So a server has a guardian too, a small process that
holds the reading end of a pipe: its end comes when the starter has gone. It ends what is left then.

    python -I -S guardian.py PID SECONDS PREFIX [FOLDER...]

It runs without this package, by Python's own library alone.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

POLL_S = 0.1
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - Triton's Python backend puts its regions there


def start_guardian(pid: int, patience_s: float, prefix: str, folders: Sequence[Path]) -> subprocess.Popen[bytes]:
    """Watch over the server with this process id, the leader of a group, until `dismiss`.

    Should this process end before, the group gets SIGTERM, what is left of it after `patience_s` SIGKILL; then its
    shared memory (by `prefix`) and the temporary `folders` are removed.
    """
    words = [sys.executable, "-I", "-S", __file__, str(pid), str(patience_s), prefix, *map(str, folders)]
    return subprocess.Popen(  # noqa: S603 - a list of words, no shell
        words,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # neither Ctrl-C nor a signal to our group reaches it
    )


def dismiss(guardian: subprocess.Popen[bytes]) -> None:
    """End it without a deed."""
    guardian.kill()
    guardian.wait()
    if guardian.stdin:
        guardian.stdin.close()


def remove_regions(prefix: str) -> None:
    """Remove the shared memory of a server that has ended."""
    for region in SHARED_MEMORY.glob(f"{prefix}*"):
        region.unlink(missing_ok=True)


def end_group(pid: int, patience_s: float) -> None:
    """End a process group: asked first, after `patience_s` made to."""
    deadline = time.monotonic() + patience_s
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGTERM)
        while time.monotonic() < deadline:
            os.killpg(pid, 0)
            time.sleep(POLL_S)
        os.killpg(pid, signal.SIGKILL)


def _main(pid: str, patience_s: str, prefix: str, *folders: str) -> None:
    sys.stdin.buffer.read()  # until the starter has gone
    end_group(int(pid), float(patience_s))
    remove_regions(prefix)
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


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


if __name__ == "__main__":
    _main(*sys.argv[1:])
