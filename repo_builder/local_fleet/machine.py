"""What this machine has for a fleet: room for servers, and free ports; a slip of the hand shall not take it down."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from repo_builder.errors import InputError, ServerError
from repo_builder.repository.built_fleet import BuiltFleet, BuiltService
from repo_builder.serving.server import Ports, free_ports

SERVERS_A_CORE = 8
LEAST_BYTES = 100 * 1024**2
"""Of a tritonserver by itself, measured."""

GIB = 1024**3
_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


@dataclass(frozen=True, slots=True)
class Need:
    """Of a service: bytes that all its replicas share, mapped from files, and bytes that each has for itself."""

    shared_bytes: int
    own_bytes: int


@dataclass(frozen=True, slots=True)
class Capacity:
    """What a machine has, and what each service needs, by name."""

    cores: int
    memory_bytes: int
    needs: Mapping[str, Need]

    @property
    def servers(self) -> int:
        """The most servers of all services together."""
        return SERVERS_A_CORE * self.cores

    def most(self, service: str, wanted: Mapping[str, int]) -> int:
        """The most replicas of a service beside those that are wanted of the others; one at least."""
        beside = {**wanted, service: 0}
        left_bytes = self.memory_bytes - self._bytes(beside)
        left = self.servers - sum(beside.values())
        return max(1, min(left, left_bytes // self.needs[service].own_bytes))

    def check(self, wanted: Mapping[str, int]) -> None:
        """Raise InputError, with the numbers, where the machine does not hold that many replicas of each service."""
        servers, needed_bytes = sum(wanted.values()), self._bytes(wanted)
        over = []
        if servers > self.servers:
            cores = "1 core runs" if self.cores == 1 else f"{self.cores} cores run"
            over.append(f"{servers:,} servers, and {cores} {self.servers} at most")
        if needed_bytes > self.memory_bytes:
            over.append(f"{needed_bytes / GIB:,.1f} GiB, and this machine has {self.memory_bytes / GIB:,.1f}")
        if over:
            names = " ".join(f"{name}={number}" for name, number in wanted.items())
            raise InputError(f"{names}: too many for this machine: {'; '.join(over)}; ask for fewer, or add --force")

    def _bytes(self, wanted: Mapping[str, int]) -> int:
        return sum(need.shared_bytes + wanted[name] * need.own_bytes for name, need in self.needs.items())


def capacity_here(fleet: BuiltFleet) -> Capacity:
    """This machine's for a fleet, within the limits of the container that we may be in."""
    limits = [psutil.virtual_memory().total]
    for path in _LIMITS:
        with contextlib.suppress(OSError, ValueError):  # "max": none
            limits.append(int(Path(path).read_text(encoding="ascii")))
    needs = {service.folder: _need(service) for service in fleet.services}
    return Capacity(len(os.sched_getaffinity(0)), min(limits), needs)


def _need(service: BuiltService) -> Need:
    return Need(service.files_bytes, max(LEAST_BYTES, service.memory_bytes - service.files_bytes))


class FreePorts:
    """Gives each port once: two servers that start at the same time would find the same one free."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._given: set[int] = set()

    def take(self, again: Ports | None = None) -> Ports:
        """Some that nobody listens on, and that were not given before; `again`, where nobody has those meanwhile."""
        with self._lock:
            if again and not self._given.intersection(again.numbers):
                self._given.update(again.numbers)
                return again
            while True:
                ports = free_ports()
                if not self._given.intersection(ports.numbers):
                    self._given.update(ports.numbers)
                    return ports

    def release(self, ports: Ports) -> None:
        """Those may be given again."""
        with self._lock:
            self._given.difference_update(ports.numbers)


def check_port(port: int, option: str) -> None:
    """Raise ServerError where somebody listens on that port of the loopback address already; 0 is any free one."""
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError as exc:
        raise ServerError(f"127.0.0.1:{port}: {os.strerror(exc.errno or 0)}; choose another with {option}") from exc
