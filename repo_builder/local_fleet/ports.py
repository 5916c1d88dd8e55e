"""Ports of the loopback address: free ones, each given once, and those that the user chose."""

from __future__ import annotations

import os
import socket
import threading

from repo_builder.errors import ServerError
from repo_builder.serving.server import Ports, free_ports


class FreePorts:
    """Gives each port once: two servers that start at the same time would find the same one free."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._given: set[int] = set()

    def take(self, again: Ports | None = None) -> Ports:
        """Three that nobody listens on, and that were not given before; `again`, where nobody has those meanwhile."""
        with self._lock:
            if again and not (numbers := {again.http, again.grpc, again.metrics}) & self._given:
                self._given |= numbers
                return again
            while True:
                ports = free_ports()
                numbers = {ports.http, ports.grpc, ports.metrics}
                if not numbers & self._given:
                    self._given |= numbers
                    return ports

    def release(self, ports: Ports) -> None:
        """Those may be given again."""
        with self._lock:
            self._given -= {ports.http, ports.grpc, ports.metrics}


def check_port(port: int, option: str) -> None:
    """Raise ServerError where somebody listens on that port of the loopback address already; 0 is any free one."""
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError as exc:
        raise ServerError(f"127.0.0.1:{port}: {os.strerror(exc.errno or 0)}; choose another with {option}") from exc
