"""The status page: one HTML file and the status as JSON, over HTTP on the loopback address."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from typing import cast

from repo_builder.local_fleet.ports import check_port
from repo_builder.local_fleet.status import Status

HOST = "127.0.0.1"
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'"


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, port: int, status: Callable[[], Status]) -> None:
        super().__init__((HOST, port), _Handler)
        self.status = status
        self.page = resources.files("repo_builder.local_fleet").joinpath("page.html").read_bytes()
        self.hosts = {f"{name}:{self.server_port}" for name in (HOST, "localhost")}


class _Handler(BaseHTTPRequestHandler):
    def handle(self) -> None:
        with contextlib.suppress(OSError):  # who asked has gone
            super().handle()

    def do_GET(self) -> None:
        server = cast(_Server, self.server)
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
    with _Server(port, status) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.1,), name="status page")
        thread.start()
        try:
            yield f"http://{HOST}:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()
