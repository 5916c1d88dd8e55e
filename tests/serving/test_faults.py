"""The warning about servers that what clients do can end."""

import http.server
import threading

import pytest

from repo_builder.serving.faults import version_of, warning


@pytest.mark.parametrize(
    ("version", "told"),
    [
        ("2.51.0", ["2.51.0", "deadline", "2.57, container 25.04", "shape", "2.59, container 25.06", "26.04 or later"]),
        ("2.56.0", ["deadline", "shape"]),
        ("2.58.0", ["2.58.0", "shape", "26.04 or later"]),
    ],
)
def test_an_old_server_is_named_with_what_ends_it_and_the_remedy(version: str, told: list[str]) -> None:
    line = warning(version)
    assert line is not None and "\n" not in line
    assert all(word in line for word in told)
    assert ("deadline" in line) == ("deadline" in told)


@pytest.mark.parametrize("version", ["2.59.0", "2.68.0", "2.100.1", "3.0", "", "unknown"])
def test_a_mended_one_and_one_that_is_not_known_are_not_warned_of(version: str) -> None:
    assert warning(version) is None


class Triton(http.server.BaseHTTPRequestHandler):
    answer = b""

    def do_GET(self) -> None:
        assert self.path == "/v2"
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.answer)

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize(
    ("answer", "version"),
    [(b'{"name":"triton","version":"2.51.0"}', "2.51.0"), (b"{}", None), (b"[]", None), (b"<html>", None)],
)
def test_a_server_says_its_version(answer: bytes, version: str | None) -> None:
    with http.server.HTTPServer(("127.0.0.1", 0), type("Answering", (Triton,), {"answer": answer})) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        assert version_of(f"127.0.0.1:{server.server_port}") == version
        thread.join()


def test_nobody_there_is_no_version() -> None:
    assert version_of("127.0.0.1:9") is None
