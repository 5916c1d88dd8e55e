"""The logs of a fleet's replicas, one after another or as they grow."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from repo_builder.errors import InputError
from repo_builder.local_fleet.runtime import RunFolder

POLL_S = 0.25


def log_lines(run: RunFolder, service: str | None, follow: bool) -> Iterator[tuple[str, str]]:
    """The lines of all logs, or of one service's or replica's, each with the log's name; `follow` never ends.

    Raises InputError where there is none.
    """
    places: dict[Path, int] = {}
    while True:
        found = _logs(run, service)
        if not found and not places:
            raise InputError(_none(run, service))
        for path in found:
            text, places[path] = _rest(path, places.get(path, 0))
            for line in text.splitlines():
                yield path.stem, line
        if not follow:
            return
        time.sleep(POLL_S)


def _rest(path: Path, begin: int) -> tuple[str, int]:
    """What stands from `begin` on, in whole lines, and where it ends; from the start where the file is a new one."""
    if path.stat().st_size < begin:
        begin = 0
    with path.open("rb") as file:
        file.seek(begin)
        data = file.read()
    data = data[: data.rfind(b"\n") + 1]
    return data.decode(errors="replace"), begin + len(data)


def _logs(run: RunFolder, service: str | None) -> list[Path]:
    paths = sorted(run.logs.glob("*.log"), key=lambda path: path.stat().st_mtime)
    return [path for path in paths if service in (None, path.stem, path.stem.rpartition("-")[0])]


def _none(run: RunFolder, service: str | None) -> str:
    known = sorted({path.stem for path in _logs(run, None)})
    if known:
        return f"{service}: expected a service or one of {', '.join(known)}"
    return f"{run.logs}: expected logs of a fleet, found none; start it: elasticrec up {run.repository}"
