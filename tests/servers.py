"""Servers for tests. Triton takes two to four seconds to end: that goes on beside the next tests."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil

from repo_builder.serving.install import Installation, installation
from repo_builder.serving.processes import stub_models
from repo_builder.serving.server import Ports, Server, free_ports, running

_ends: list[threading.Thread] = []


@contextmanager
def serving(
    repository: Path,
    log: Path,
    *,
    ports: Ports | None = None,
    host: str = "127.0.0.1",
    flags: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    changed: Callable[[Installation], Installation] = lambda installed: installed,
) -> Iterator[Server]:
    """`running` on free ports; the block's end is the server's, but does not wait for it."""
    with ExitStack() as stack:
        installed = changed(stack.enter_context(installation()))
        server = stack.enter_context(
            running(
                installed, repository, ports or free_ports(), log, host=host, flags=flags, environment=environment or {}
            )
        )
        try:
            yield server
        finally:
            _ends.append(threading.Thread(target=stack.pop_all().close))
            _ends[-1].start()


def kill_stub(server_pid: int, model: str) -> None:
    """End the process of the Python backend that serves a model's first instance."""
    psutil.Process(next(pid for pid, served in stub_models(server_pid).items() if served == model)).kill()


def join_all() -> None:
    """Wait until all servers whose block is over have ended."""
    while _ends:
        _ends.pop().join()
