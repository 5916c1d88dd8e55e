"""How `ps`, `scale` and `down` reach a running fleet: a JSON object per line over a Unix socket of its owner's.

{"do": "status"} · {"do": "scale", "replicas": {"tier0": 3}, "force": false} · {"do": "down"}, answered with
{"answer": ...} or {"error": "..."}. After `down` the connection closes when the fleet has ended.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

from repo_builder.errors import InputError, ServerError
from repo_builder.local_fleet.run_folder import RunFolder

ANSWER_TIMEOUT_S = 10.0
STOPPING = "stopping"
"""An answer after which the connection stays open until the fleet has ended."""

_LONGEST_BYTES = 1_000_000

Request = Mapping[str, Any]
Handle = Callable[[Request], object]


class _ControlServer(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True

    def __init__(self, address: str, handle: Handle) -> None:
        super().__init__(address, _ControlHandler)
        self.handle = handle
        self.ended = threading.Event()


class _ControlHandler(socketserver.StreamRequestHandler):
    timeout = ANSWER_TIMEOUT_S  # for the request: who sends none shall not keep a thread

    def handle(self) -> None:
        server = cast(_ControlServer, self.server)
        with contextlib.suppress(OSError):  # who asked may have gone
            request = self.rfile.readline(_LONGEST_BYTES)
            answer = _answer(server.handle, request)
            self.wfile.write(json.dumps(answer).encode() + b"\n")
            if answer == {"answer": STOPPING}:
                server.ended.wait()


def _answer(handle: Handle, line: bytes) -> Mapping[str, object]:
    try:
        request = json.loads(line)
        if not isinstance(request, dict):
            raise InputError("expected a JSON object")
        return {"answer": handle(request)}
    except InputError as exc:
        return {"error": str(exc)}
    except ValueError as exc:
        return {"error": f"expected JSON: {exc}"}
    except RecursionError:
        return {"error": "expected JSON that is nested less deeply"}
    except Exception as exc:  # noqa: BLE001 - the one guard of a request
        return {"error": f"the fleet failed to answer: {type(exc).__name__}: {exc}"}


@contextmanager
def listening(run: RunFolder, handle: Handle) -> Iterator[None]:
    """Answer with what `handle` returns, in threads, while the block lasts; an InputError's text is the answer's error.

    An answer of STOPPING holds the connection until the block's end.
    """
    with _short_path(run) as path:
        server = _ControlServer(path, handle)
        run.socket.chmod(0o600)
        thread = threading.Thread(target=server.serve_forever, args=(0.1,), name="control")
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()
            server.ended.set()
            server.server_close()


def ask(run: RunFolder, request: Request) -> Any:
    """The running fleet's answer; that to `down` comes when the fleet has ended.

    Raises InputError where no fleet runs there, or with its own words where it refuses; ServerError where it does not
    answer.
    """
    try:
        with _short_path(run) as path, socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(ANSWER_TIMEOUT_S)
            connection.connect(path)
            connection.sendall(json.dumps(request).encode() + b"\n")
            with connection.makefile("rb") as answers:
                answer = json.loads(answers.readline())
                if answer.get("answer") == STOPPING:
                    connection.settimeout(None)
                    answers.read()
    except (FileNotFoundError, ConnectionRefusedError) as exc:
        raise InputError(
            f"{run.repository}: expected a running fleet, found none; start it: elasticrec up {run.repository}"
        ) from exc
    except (OSError, ValueError) as exc:
        raise ServerError(f"{run.socket}: the fleet does not answer: {exc}; look at {run.events}") from exc
    if "error" in answer:
        raise InputError(*str(answer["error"]).splitlines())
    return answer["answer"]


@contextmanager
def _short_path(run: RunFolder) -> Iterator[str]:
    """The socket's path by way of an open folder: a socket's own may have no more than 107 bytes."""
    folder = os.open(run.path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{run.socket.name}"
    finally:
        os.close(folder)
