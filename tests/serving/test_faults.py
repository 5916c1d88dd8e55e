"""What ends servers, and what is said of it."""

import http.server
import threading
from pathlib import Path

import pytest

from repo_builder.serving.faults import version_of, warning, why_ended, why_not_ready


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


START = """\
I1128 04:39:07.690000 12080 cuda_memory_manager.cc:107] "CUDA memory pool disabled"
E1128 04:39:07.691995 12080 server.cc:241] "CudaDriverHelper has not been initialized."
+------+---------+--------+
| Model | Version | Status |
E1128 04:39:08.021214 12080 ensemble_scheduler.cc:1468] "unable to create stream for small: CUDA driver version is \
insufficient for CUDA runtime version"
E1128 04:39:08.021500 12080 model.cc:1] "of the start, and not the reason"
I1128 04:39:08.065038 12080 http_server.cc:362] "Started Metrics Service at 127.0.0.1:21829"
"""
SEGFAULT = """\
Signal (11) received.
 0# 0x00005618D9D3A52D in /a/b/tritonserver/bin/tritonserver
 1# 0x00007FA5F3E5A050 in /lib/x86_64-linux-gnu/libc.so.6
 2# 0x00007FA5F483986E in /a/bin/../../../nvidia_pytriton.libs/libtritonserver-717102f0.so
 7# TRITONBACKEND_ResponseSend in /a/nvidia_pytriton.libs/libtritonserver-717102f0.so
"""
ABORT = """\
terminate called after throwing an instance of 'std::bad_alloc'
  what():  std::bad_alloc
Signal (6) received.
 0# 0x0000560B0B2B052D in /a/tritonserver
 1# 0x00007F054965A050 in /lib/x86_64-linux-gnu/libc.so.6
 2# abort in /lib/x86_64-linux-gnu/libc.so.6
"""


def log_of(folder: Path, text: str) -> Path:
    path = folder / "server.log"
    path.write_text(text)
    return path


def test_a_signal_is_named_with_the_frames_and_nothing_of_the_start(tmp_path: Path) -> None:
    log = log_of(tmp_path, START + SEGFAULT)
    assert why_ended(-11, log).splitlines() == [
        f"tritonserver was ended by SIGSEGV (Segmentation fault); its log {log} says:",
        "0x00007FA5F483986E in libtritonserver-717102f0.so",
        "TRITONBACKEND_ResponseSend in libtritonserver-717102f0.so",
    ]


def test_what_the_c_library_said_before_it_aborted_is_told(tmp_path: Path) -> None:
    assert why_ended(-6, log_of(tmp_path, START + ABORT)).splitlines()[1:] == [
        "terminate called after throwing an instance of 'std::bad_alloc'",
        "  what():  std::bad_alloc",
        "abort in libc.so.6",
    ]


@pytest.mark.parametrize(("status", "told"), [(-9, "SIGKILL (Killed)"), (-64, "SIGRTMAX"), (-200, "signal 200")])
def test_a_signal_that_leaves_no_words(status: int, told: str, tmp_path: Path) -> None:
    text = why_ended(status, log_of(tmp_path, START))
    assert text.startswith(f"tritonserver was ended by {told}") and "see its log" in text and "CUDA" not in text


def test_an_exit_while_it_served_is_told_by_later_errors_alone(tmp_path: Path) -> None:
    later = 'E1128 04:41:00.000000 12080 x.cc:1] "the reason"\n'
    log = log_of(tmp_path, START + later)
    assert why_ended(1, log) == f'tritonserver ended with status 1; its log {log} says:\n"the reason"'


def test_a_start_that_failed_is_told_by_errors_but_that_there_is_no_gpu(tmp_path: Path) -> None:
    log = log_of(tmp_path, START.replace("Started Metrics", "x"))
    assert why_not_ready(None, log) == f'its log {log} says:\n"of the start, and not the reason"'
    assert why_not_ready(1, log).startswith("tritonserver ended with status 1; its log")


def test_a_start_that_failed_and_then_crashed_is_told_by_both(tmp_path: Path) -> None:
    """Triton stops what it has loaded once a model fails, and may crash in that: the model is the reason."""
    begun = START.replace("Started Metrics", "x")
    crashed = log_of(tmp_path, f"{begun}Error: Failed to initialize NVML\n{SEGFAULT}")
    assert why_not_ready(-11, crashed).splitlines() == [
        f"tritonserver was ended by SIGSEGV (Segmentation fault); its log {crashed} says:",
        '"of the start, and not the reason"',
        "0x00007FA5F483986E in libtritonserver-717102f0.so",
        "TRITONBACKEND_ResponseSend in libtritonserver-717102f0.so",
    ]
