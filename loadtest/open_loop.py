"""Queries at Poisson times for so long, from a process of their own (`sender.py`), and every answer in hand."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

from loadtest.clients import SenderSettings
from repo_builder.profiling.perf_analyzer import LoadTestError


@dataclass(frozen=True, slots=True)
class Answer:
    """A query: when it was due, s since the start; its latency from then on; what was wrong with it, or nothing."""

    due_s: float
    latency_ms: float
    problem: str


def send(load: SenderSettings, qps: float, seconds: float) -> Sequence[Answer]:
    """Send for so long; returns when the last answer has come, ordered as they were due.

    Raises LoadTestError where the process does not start, or fails; what it says of it goes to standard error.
    """
    with start_sender(load) as sender:
        if not sender.stdin or not sender.stdout:
            raise LoadTestError("expected pipes to the process that sends the queries")
        start_s = time.time()
        sender.stdin.write(f"{qps}\n")
        sender.stdin.flush()
        lines = []
        while line := sender.stdout.readline():  # read as they come, or its pipe fills
            lines.append(line.rstrip("\n").split(" ", 2))
            if time.time() >= start_s + seconds and not sender.stdin.closed:
                sender.stdin.close()
    if sender.returncode:
        raise LoadTestError(f"the process that sends the queries ended with status {sender.returncode}")
    answers = [Answer(float(due) - start_s, float(latency_ms), problem) for due, latency_ms, problem in lines]
    return sorted(answers, key=lambda answer: answer.due_s)


def start_sender(load: SenderSettings) -> subprocess.Popen[str]:
    """The process, ready to send; Ctrl-C does not reach it, and the end of its input ends it.

    Raises LoadTestError where it ends instead; what it says of it goes to standard error.
    """
    process = subprocess.Popen(  # noqa: S603 - no shell, and no word of a user's but JSON as one argument of our own module
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
