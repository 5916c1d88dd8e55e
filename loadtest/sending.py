"""Starting the process that sends queries (`sender.py`)."""

from __future__ import annotations

import subprocess
import sys

from loadtest.clients import Load
from repo_builder.profiling.perf_analyzer import LoadTestError


def start_sender(load: Load) -> subprocess.Popen[str]:
    """The process, ready to send; Ctrl-C does not reach it, and the end of its input ends it.

    Raises LoadTestError where it ends instead; what it says of it goes to standard error.
    """
    process = subprocess.Popen(  # noqa: S603 - no shell: our own interpreter and module, and JSON as one word
        [sys.executable, "-m", "loadtest.sender", load.to_json()],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
        start_new_session=True,
    )
    if not process.stdout or process.stdout.readline() != "ready\n":
        process.communicate()
        raise LoadTestError("expected the process that sends the queries to start; its error stands above")
    return process
