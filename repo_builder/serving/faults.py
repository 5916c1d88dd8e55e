"""What ends a tritonserver: its own faults, by the release that mended them; and why one ended, in its log's words."""

from __future__ import annotations

import http.client
import json
import re
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ADVISED = "26.04"
"""The container to use: 2.68, the first that checks sizes in JSON requests for overflow too (pull request 8676)."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What ends a server older than `mended`, which is in NVIDIA's container of that name."""

    mended: tuple[int, int]
    container: str
    what: str


# from upstream's sources: server pull requests 7840 (2.53) and 8078 (2.57) for calls that are given up, 8174 (2.59) for
# shapes; seen here on 2.51 alone
FAULTS = (
    Fault((2, 57), "25.04", "gRPC calls that clients give up, by deadline or cancellation"),
    Fault((2, 59), "25.06", "an HTTP request whose JSON announces a huge shape"),
)


def warning(version: str) -> str | None:
    """One line on what may end a server of this version, with the remedy; None where nothing known does."""
    found = re.match(r"(\d+)\.(\d+)", version)
    if found is None:
        return None
    own = (int(found[1]), int(found[2]))
    known = [
        f"{fault.what} (mended in {fault.mended[0]}.{fault.mended[1]}, container {fault.container})"
        for fault in FAULTS
        if own < fault.mended
    ]
    if not known:
        return None
    return (
        f"warning: tritonserver {version} can be ended by {', and by '.join(known)}; serve production traffic with "
        f"NVIDIA's container {ADVISED} or later, and until then see README, When a process dies"
    )


def version_of(address: str) -> str | None:
    """What the server at HOST:PORT of HTTP says of itself; None where it does not."""
    connection = http.client.HTTPConnection(address, timeout=2)
    try:
        connection.request("GET", "/v2")
        found = json.loads(connection.getresponse().read())
        return str(found["version"])
    except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError):
        return None
    finally:
        connection.close()


LOG_BEGIN = "---- tritonserver is started again"
"""The line before a run in a log that holds former ones."""

_LINES = 3
_FRAMES = 12
_STARTED = "Started Metrics Service"  # the last thing that Triton says before it serves
_NO_GPU = ("CudaDriverHelper", "CUDA driver version is insufficient", "initialize NVML")  # no errors to us
_ERROR = re.compile(r"^E\d{4} [^\]]*\] (.*)$")  # glog's
_LOGGED = re.compile(r"^[IWEF]\d{4} |^\||^\+[-+]*\+$")  # glog's lines, and Triton's tables
_CAUGHT = re.compile(r"^Signal \(\d+\) received")
_FRAME = re.compile(r"^ *(\d+)# (.*?)( in (?:.*/)?([^/]*))?$")
_OWN_FRAMES = 2  # the handler that prints them, and what called it


def why_not_ready(status: int | None, log: Path) -> str:
    """Of a server that does not become ready; status: None while it still runs, and another says what it waits for.

    A signal need not be the reason: one that ends since a model failed may stop an instance that has just begun, which
    ends Triton 2.51 by SIGSEGV (it takes the last of no instances, in `StopBackendThread`).
    """
    lines = _read(log)
    if status is not None and status < 0:
        return _by_signal(-status, lines, log, _errors(lines))
    return _ended(status) + _quote(_errors(lines), log)


def why_ended(status: int, log: Path) -> str:
    """Of a server that served: errors of its start are not the reason, and left out."""
    lines = _read(log)
    starts = [i for i, line in enumerate(lines) if _STARTED in line]
    lines = lines[starts[-1] + 1 :] if starts else lines
    if status < 0:
        return _by_signal(-status, lines, log)
    return _ended(status) + _quote(_errors(lines), log)


def _ended(status: int | None) -> str:
    return "" if status is None else f"tritonserver ended with status {status}; "


def _by_signal(number: int, lines: Sequence[str], log: Path, errors: Sequence[str] = ()) -> str:
    """The signal by name, what was said before it, and where in the program it was caught."""
    try:
        name = f"{signal.Signals(number).name} ({signal.strsignal(number)})"
    except ValueError:
        name = f"signal {number}"
    return f"tritonserver was ended by {name}; " + _quote([*errors, *_last_words(lines), *_frames(lines)], log)


def _last_words(lines: Sequence[str]) -> Sequence[str]:
    """What C++ and the C library print before they abort: the lines before the signal that no logger wrote."""
    caught = next((i for i, line in enumerate(lines) if _CAUGHT.match(line)), len(lines))
    said = [line for line in lines[:caught] if line.strip() and not _LOGGED.match(line)]
    return [line for line in said if not _is_of_gpus(line)][-_LINES:]


def _frames(lines: Sequence[str]) -> Sequence[str]:
    """The stack that Triton prints on signals, libraries by name alone."""
    found = [match for line in lines if (match := _FRAME.match(line)) and int(match[1]) >= _OWN_FRAMES]
    return [f"{match[2]} in {match[4]}" if match[4] else match[2] for match in found[:_FRAMES]]


def _errors(lines: Sequence[str]) -> Sequence[str]:
    told = [match[1] for line in lines if (match := _ERROR.match(line))]
    return [line for line in told if not _is_of_gpus(line)][:_LINES]


def _is_of_gpus(line: str) -> bool:
    return any(word in line for word in _NO_GPU)


def _quote(told: Sequence[str], log: Path) -> str:
    return "\n".join([f"its log {log} says:", *told]) if told else f"see its log {log}"


def _read(log: Path) -> Sequence[str]:
    """The lines of the last run."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    begins = [i for i, line in enumerate(lines) if line == LOG_BEGIN]
    return lines[begins[-1] + 1 :] if begins else lines
