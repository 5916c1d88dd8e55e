"""A running fleet's status for people: tables for the terminal, and a page over HTTP on the loopback address."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from typing import cast

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from repo_builder.local_fleet.machine import check_port
from repo_builder.local_fleet.status import Status

MIB = 1024**2


def service_table(status: Status) -> Table:
    """A line per service."""
    table = _table("service", "ready", "wanted", "queries/s", "p95 ms", "memory (PSS)")
    for service in status["services"]:
        p95 = service["p95_ms"]
        table.add_row(
            Text(service["name"]),
            str(service["ready"]),
            str(service["wanted"]),
            f"{service['qps']:,.1f}",
            f"{p95:,.2f}" if p95 is not None else "not yet" if service["qps"] else "no queries",
            f"{service['memory_bytes'] / MIB:,.1f} MiB",
        )
    return table


def replica_table(status: Status) -> RenderableType:
    """The services, and below them a line per replica."""
    keys = ("name", "state", "pid", "calls", "grpc", "http")
    table = _table("replica", *keys[1:], left=len(keys))
    for service in status["services"]:
        for replica in service["replicas"]:
            words = (replica[key] for key in keys)
            table.add_row(*(Text("-" if word is None else str(word)) for word in words))
    return Group(service_table(status), Text(), table)


def live_view(status: Status) -> RenderableType:
    """The services, the front ends' addresses and what happened last, to be drawn again and again."""
    lines = [f"{status['model']}: {status['phase']}"]
    frontends = [replica["grpc"] for replica in status["services"][0]["replicas"] if replica["state"] == "ready"]
    lines.append(f"front ends (gRPC): {', '.join(frontends) or 'none yet'}")
    events = Text("\n".join(status["events"]), style="dim")
    return Group(Text("\n".join(lines)), Text(), service_table(status), Text(), events)


def _table(*columns: str, left: int = 1) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i < left else "right")
    return table


HOST = "127.0.0.1"
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'"


class _PageServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, port: int, status: Callable[[], Status]) -> None:
        super().__init__((HOST, port), _PageHandler)
        self.status = status
        self.page = resources.files("repo_builder.local_fleet").joinpath("page.html").read_bytes()
        self.hosts = {f"{name}:{self.server_port}" for name in (HOST, "localhost")}


class _PageHandler(BaseHTTPRequestHandler):
    def handle(self) -> None:
        with contextlib.suppress(OSError):  # who asked has gone
            super().handle()

    def do_GET(self) -> None:
        server = cast(_PageServer, self.server)
        if self.headers.get("Host") not in server.hosts:  # a page of elsewhere whose name was bound to 127.0.0.1
            self.send_error(403)
        elif self.path == "/":
            self._send("text/html; charset=utf-8", server.page)
        elif self.path == "/status.json":
            self._send("application/json", json.dumps(server.status()).encode())
        else:
            self.send_error(404)

    def _send(self, kind: str, content: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Content-Security-Policy", _POLICY)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Every browser asks every two seconds: nothing to log."""


@contextmanager
def status_page(port: int, status: Callable[[], Status]) -> Iterator[str]:
    """The page's URL, served while the block lasts; port 0 is a free one. Raises ServerError where it is taken."""
    check_port(port, "--status-port")
    with _PageServer(port, status) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.1,), name="status page")
        thread.start()
        try:
            yield f"http://{HOST}:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()
