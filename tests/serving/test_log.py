"""A server's log: what stands there stays, and only this run's lines are blamed."""

from pathlib import Path

import pytest

from repo_builder.errors import ServerError
from repo_builder.serving.install import Installation
from repo_builder.serving.server import free_ports, running


def test_a_log_is_appended_to(tmp_path: Path) -> None:
    """It once was emptied, whosoever it was; and the crash of the last run with it."""
    binary, log = tmp_path / "tritonserver", tmp_path / "r.log"
    binary.write_text("#!/bin/sh\necho 'E1128 00:00:00.0 1 x.cc:1] of this run'\nexit 1\n")
    binary.chmod(0o755)
    (tmp_path / "r").mkdir()
    former = "mine\nE1127 00:00:00.0 1 x.cc:1] of a former run\n"
    log.write_text(former)
    for _ in range(2):
        with pytest.raises(ServerError) as raised, running(Installation(binary), tmp_path / "r", free_ports(), log):
            pass
        assert "of this run" in str(raised.value) and "former" not in str(raised.value)
        assert str(raised.value).count("of this run") == 1
    assert log.read_text().startswith(former) and log.read_text().count("of this run") == 2
