"""Keeps what native libraries print away from a command's own standard output."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def stdout_to_stderr() -> Iterator[None]:
    """Send what is written to the file descriptor of standard output to that of standard error.

    HiGHS prints a debugging line there at times, whatever its options say; `--json` must stay JSON.
    """
    sys.stdout.flush()
    kept = os.dup(1)
    try:
        os.dup2(2, 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
