"""Where the replicas of each embedding service are: a JSON file that may change while the router runs.

{"tier0": "dns:///rm1-tier0:8001",                   every address of that name, asked for again and again
 "tier1": ["10.0.0.7:8001", "10.0.0.8:8001"]}        these
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DNS = "dns:///"


@dataclass(frozen=True, slots=True, order=True)
class Endpoint:
    """A gRPC server; `resolve`: the host is a name that stands for as many servers as it has addresses."""

    host: str
    port: int
    resolve: bool = False

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


Endpoints = Mapping[str, tuple[Endpoint, ...]]


def parse_addresses(text: str, services: Sequence[str]) -> Endpoints:
    """The endpoints of each of `services`; entries of other services are passed over.

    Raises ValueError, all problems in it: field, what was expected, what came.
    """
    try:
        document: Any = json.loads(text)
    except ValueError as exc:
        raise ValueError(f"expected JSON: {exc}") from exc
    if not isinstance(document, dict):
        raise ValueError(f"expected an object with an entry a service, got {json.dumps(document)[:60]}")
    found: dict[str, tuple[Endpoint, ...]] = {}
    problems = []
    for service in services:
        try:
            found[service] = _endpoints(document.get(service))
        except ValueError as exc:
            problems.append(f"{service}: {exc}")
    if problems:
        raise ValueError("; ".join(problems))
    return found


def _endpoints(entry: object) -> tuple[Endpoint, ...]:
    if isinstance(entry, str) and entry.startswith(DNS):
        return (_endpoint(entry.removeprefix(DNS), resolve=True),)
    if isinstance(entry, list) and all(isinstance(item, str) for item in entry):
        return tuple(sorted({_endpoint(item, resolve=False) for item in entry}))
    raise ValueError(f'expected "dns:///HOST:PORT" or ["HOST:PORT", ...], got {json.dumps(entry)[:60]}')


def _endpoint(text: str, *, resolve: bool) -> Endpoint:
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    host = host[1:-1] if bracketed else host
    plain = not set(host) & set("/ []") and (bracketed or ":" not in host)
    if not (colon and host and plain and port.isascii() and port.isdigit() and 1 <= int(port) <= 65535):
        raise ValueError(f"expected HOST:PORT with a port from 1 to 65535, got {text!r}")
    return Endpoint(host, int(port), resolve)


class AddressFile:
    """The file at `path`, read again when it changed: ConfigMaps are swapped by a link, other files renamed."""

    def __init__(self, path: Path, services: Sequence[str]) -> None:
        self.path = path
        self._services = services
        self._seen: tuple[int, int, int] | None = None

    def changed(self) -> Endpoints | None:
        """The endpoints where the file differs from the last call's, else None.

        Raises ValueError naming the file where it cannot be read or understood; that change is then not told again.
        """
        try:
            status = os.stat(self.path)  # noqa: PTH116 - follows the ConfigMap's links, and is called often
            seen = (status.st_mtime_ns, status.st_ino, status.st_size)
            if seen == self._seen:
                return None
            self._seen = seen
            return parse_addresses(self.path.read_text(encoding="utf-8"), self._services)
        except OSError as exc:
            if self._seen is None:
                raise ValueError(f"{self.path}: cannot be read: {exc.strerror}") from exc
            return None  # between two versions of the file; the replicas are still there
        except ValueError as exc:
            raise ValueError(f"{self.path}: {exc}") from exc
