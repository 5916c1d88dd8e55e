"""That the soak's watch sees each kind of leak, in a process that leaks it, and none where there is none."""

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.soak.watch import Held, grown, held, pss_slope, watching

LEAKS = {
    "": "pass",
    "pss_bytes": "kept.append(bytes(range(256)) * 4096)",  # 1 MiB
    "files": "kept.append(open('/dev/null'))",
    "threads": "threading.Thread(target=time.sleep, args=(60,), daemon=True).start()",
}


@pytest.mark.parametrize("leak", LEAKS)
def test_a_leaking_process_is_told_by_what_it_leaks(leak: str) -> None:
    code = f"import threading, time\nkept = []\nwhile True:\n    {LEAKS[leak]}\n    time.sleep(0.02)"
    child = subprocess.Popen([sys.executable, "-c", code])
    try:
        time.sleep(0.5)
        process = psutil.Process(child.pid)
        with watching(lambda time_s: held([process], "no_such_region", time_s), 0.05) as seen:
            time.sleep(2)
    finally:
        child.kill()
        child.wait()
    assert {problem.split(":")[0] for problem in grown(seen)} == ({leak} if leak else set())


def test_a_region_of_shared_memory_that_stays_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.soak.watch.SHARED_MEMORY", tmp_path)
    seen = []
    for i in range(30):
        (tmp_path / f"ours_{i // 10}").write_bytes(b"x")
        (tmp_path / f"theirs_{i}").write_bytes(b"x")
        seen.append(held([], "ours_", float(i)))
    assert [problem.split(":")[0] for problem in grown(seen)] == ["regions", "region_bytes"]


def test_the_slope_is_that_of_the_line() -> None:
    seen = [Held(time_s, 1000 + 5 * time_s, 0, 0, 0, 0) for time_s in range(100)]
    assert pss_slope(seen) == pytest.approx(5 * 3600)
