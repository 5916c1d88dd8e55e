"""What is left of a server whose starter was killed: here processes that stand in for one, as stubborn as they come."""

import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import psutil
import pytest

from repo_builder.serving.guardian import SHARED_MEMORY, dismiss, end_group, start_guardian

STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(600)"
STARTER = """
import sys, subprocess, time
from pathlib import Path
from repo_builder.serving.guardian import start_guardian
stubborn, prefix, folder = sys.argv[1:]
leader = subprocess.Popen(["sh", "-c", 'python3 -c "$0" & sleep 600', stubborn], start_new_session=True,
                          stdout=subprocess.PIPE)
leader.stdout.readline()
guardian = start_guardian(leader.pid, 1.0, prefix, [Path(folder)])
print(leader.pid, guardian.pid, flush=True)
time.sleep(600)
"""


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [each for each in processes if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]


def group_of(pid: int) -> list[psutil.Process]:
    return [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]


@pytest.mark.parametrize("frozen", [False, True])
def test_a_killed_starter_leaves_neither_processes_nor_memory_nor_folders(frozen: bool, tmp_path: Path) -> None:
    prefix = f"elasticrec_test_{uuid.uuid4().hex}_"
    region, folder = SHARED_MEMORY / f"{prefix}region", tmp_path / "models"
    region.touch()
    folder.mkdir()
    (folder / "models").symlink_to(tmp_path)
    words = [sys.executable, "-c", STARTER, STUBBORN, prefix, folder]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, start_new_session=True) as starter:
        leader, guardian = map(int, starter.stdout.readline().split())
        started = [*group_of(leader), psutil.Process(guardian)]
        assert len(alive(started)) >= 4  # sh, sleep and the stubborn one
        if frozen:
            os.kill(leader, signal.SIGSTOP)
        os.killpg(starter.pid, signal.SIGKILL)
    _, left = psutil.wait_procs(alive(started), 30)
    assert not alive(left)
    assert not region.exists() and not folder.exists() and tmp_path.exists()


def test_a_starter_that_ends_its_server_itself_dismisses_the_guardian(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "600"], start_new_session=True) as server:
        guardian = start_guardian(server.pid, 1.0, "elasticrec_test_none_", [tmp_path])
        dismiss(guardian)
        time.sleep(0.3)
        assert server.poll() is None and tmp_path.exists() and guardian.returncode is not None
        server.kill()


def test_a_group_that_obeys_is_not_waited_for_in_full() -> None:
    with subprocess.Popen(["sleep", "600"], start_new_session=True) as server:
        os.kill(server.pid, signal.SIGCONT)
        reaper = psutil.Process(server.pid)
        end_group(server.pid, 0.5)
        reaper.wait(30)
