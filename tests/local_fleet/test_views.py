"""The status in the terminal, and the page over real HTTP."""

import json
import os
import re
import socket
import struct
import threading
import time
import urllib.error
import urllib.request

import pytest
from rich.console import Console

from repo_builder.errors import ServerError
from repo_builder.local_fleet.views import live_view, replica_table, status_page

STATUS = {"model": "</script><b>x", "services": [], "events": ["<img>"]}


def test_it_serves_one_page_that_needs_nothing_else() -> None:
    with status_page(0, lambda: STATUS) as url:
        assert url.startswith("http://127.0.0.1:")
        with urllib.request.urlopen(url) as answer:  # noqa: S310 - our own page on loopback
            page, headers = answer.read().decode(), answer.headers
        with urllib.request.urlopen(f"{url}status.json") as answer:  # noqa: S310 - our own page on loopback
            assert json.load(answer) == STATUS
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert not re.findall(r"(?:src|href)=|https?://|@import|url\(", page)
    assert "width=device-width" in page and "prefers-color-scheme: dark" in page
    assert "innerHTML" not in page and "document.write" not in page  # what comes from the fleet stays text


@pytest.mark.parametrize(("path", "host", "code"), [("nothing", None, 404), ("", "evil.example", 403)])
def test_what_is_refused(path: str, host: str | None, code: int) -> None:
    with status_page(0, lambda: STATUS) as url:
        request = urllib.request.Request(url + path, headers={"Host": host} if host else {})  # noqa: S310 - our own page on loopback
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(request)  # noqa: S310 - our own page on loopback
        refused.value.close()
        assert refused.value.code == code


def test_a_taken_port_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        match = rf"127\.0\.0\.1:{port}: Address already in use; choose another with --status-port"
        with pytest.raises(ServerError, match=match), status_page(port, lambda: STATUS):
            pass


def test_who_leaves_before_the_answer_ends_nothing_and_leaves_no_traceback(capfd: pytest.CaptureFixture[str]) -> None:
    asked, left = threading.Event(), threading.Event()

    def status() -> dict[str, object]:
        asked.set()
        assert left.wait(30)
        return {**STATUS, "events": ["x" * 10_000_000]}

    with status_page(0, status) as url:
        address = (url.split("/")[2].split(":")[0], int(url.split("/")[2].split(":")[1]))
        with socket.create_connection(address) as leaving:
            leaving.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # its end is a reset
            leaving.sendall(f"GET /status.json HTTP/1.1\r\nHost: {address[0]}:{address[1]}\r\n\r\n".encode())
            assert asked.wait(30)
        left.set()
        with urllib.request.urlopen(f"{url}status.json") as answer:  # noqa: S310 - our own page on loopback
            assert json.load(answer)["model"] == STATUS["model"]
        while any("process_request_thread" in thread.name for thread in threading.enumerate()):
            time.sleep(0.01)
    assert capfd.readouterr().err == ""


def test_the_views_show_names_as_they_are() -> None:
    """Square brackets are rich's markup; here they are text."""
    replica = {
        "name": "tier0-1",
        "state": "ready",
        "pid": 12,
        "calls": "127.0.0.1:6",
        "grpc": "127.0.0.1:5",
        "http": None,
    }
    service = {"name": "[red]x", "ready": 1, "wanted": 2, "qps": 12.34, "p95_ms": None, "memory_bytes": 3 * 1024**2}
    status = {
        "model": "[bold]m",
        "phase": "starting",
        "events": ["[dim]e"],
        "services": [{**service, "replicas": [replica]}],
    }
    for view in (live_view(status), replica_table(status)):
        text = console_text(view)
        assert "[red]x" in text and "12.3" in text and "3.0 MiB" in text and "127.0.0.1:5" in text
    assert "127.0.0.1:6" in console_text(replica_table(status))
    assert "[bold]m: starting" in console_text(live_view(status)) and "[dim]e" in console_text(live_view(status))


def console_text(view: object) -> str:
    with open(os.devnull, "w") as sink:  # noqa: PTH123 - os.devnull is a name, no Path
        console = Console(width=120, file=sink, record=True)
        console.print(view)
        return console.export_text()
