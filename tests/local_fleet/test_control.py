"""The control interface over a real socket."""

import socket
import threading
import time
from pathlib import Path

import pytest

from repo_builder.errors import InputError, ServerError
from repo_builder.local_fleet import control
from repo_builder.local_fleet.control import STOPPING, Request, ask, listening
from repo_builder.local_fleet.run_folder import RunFolder


def folder(tmp_path: Path) -> RunFolder:
    run = RunFolder.of(tmp_path / ("deep" * 50) / "fleet")  # longer than a socket's path may be
    run.path.mkdir(parents=True)
    return run


def handle(request: Request) -> object:
    if request["do"] == "refuse":
        raise InputError("tier9: expected another", "tier8: too")
    return STOPPING if request["do"] == "down" else {"asked": request}


def test_an_answer_and_a_refusal(tmp_path: Path) -> None:
    run = folder(tmp_path)
    with listening(run, handle):
        assert ask(run, {"do": "status"}) == {"asked": {"do": "status"}}
        with pytest.raises(InputError) as refused:
            ask(run, {"do": "refuse"})
        assert refused.value.problems == ("tier9: expected another", "tier8: too")


@pytest.mark.parametrize(
    "words",
    [
        b"nonsense\n",
        b"[1]\n",
        b"\xff\n",
        b"\n",
        b"[" * 100_000 + b"\n",
        b'{"a":' * 100_000 + b"\n",
        b"1" * 9999 + b"\n",
    ],
)
def test_nonsense_is_answered_with_an_error(tmp_path: Path, words: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    run = RunFolder.of(tmp_path / "fleet")
    run.path.mkdir()
    with listening(run, handle):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(run.socket))
            connection.sendall(words)
            assert connection.recv(1000).startswith(b'{"error": "expected ')
        assert ask(run, {"do": "status"})
    assert capsys.readouterr().err == ""


def test_a_fault_of_ours_is_an_answer_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = folder(tmp_path)
    with listening(run, handle), pytest.raises(InputError, match=r"failed to answer: KeyError: 'do'"):
        ask(run, {"dont": 1})
    assert capsys.readouterr().err == ""


def test_who_asks_nothing_is_sent_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunFolder.of(tmp_path / "fleet")
    run.path.mkdir()
    monkeypatch.setattr(control._ControlHandler, "timeout", 0.2)
    with listening(run, handle), socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(30)
        connection.connect(str(run.socket))
        assert connection.recv(10) == b""


def test_down_is_answered_when_the_fleet_has_ended(tmp_path: Path) -> None:
    run, ended = folder(tmp_path), threading.Event()
    with listening(run, handle):
        thread = threading.Thread(target=lambda: (ask(run, {"do": "down"}), ended.set()))
        thread.start()
        time.sleep(0.3)
        assert not ended.is_set()
    thread.join(5)
    assert ended.is_set()


def test_no_fleet_and_one_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = folder(tmp_path)
    with pytest.raises(InputError, match="expected a running fleet, found none; start it: elasticrec up"):
        ask(run, {"do": "status"})
    with pytest.raises(InputError, match="found none"):
        ask(RunFolder.of(tmp_path / "nowhere"), {"do": "status"})
    monkeypatch.setattr(control, "ANSWER_TIMEOUT_S", 0.3)
    with pytest.raises(ServerError, match="does not answer: timed out"), listening(run, lambda _: time.sleep(1)):
        ask(run, {"do": "status"})
