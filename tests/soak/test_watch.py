"""That the soak's watch sees each kind of leak where something really leaks, and none where nothing does."""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import tritonclient.http

from repo_builder.serving.install import installation
from repo_builder.serving.server import free_ports, running, stubs
from tests.soak.watch import Held, grown, held, pss_slope

LEAKS = {
    "": "pass",
    "pss_bytes": "kept.append(bytes(range(256)) * 4096)",  # 1 MiB
    "files": "kept.append(open('/dev/null'))",
    "threads": "threading.Thread(target=time.sleep, args=(60,), daemon=True).start()",
}
CONFIG = """
backend: "python"
input {{ name: "kept" data_type: TYPE_INT32 dims: [1] }}
output {{ name: "sum" data_type: TYPE_INT32 dims: [1] }}
parameters {{ key: "every" value {{ string_value: "{every}" }} }}
"""
MODEL = """
import json
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def initialize(self, args):
        self.every = int(json.loads(args["model_config"])["parameters"]["every"]["string_value"])
        self.seen, self.kept = 0, []

    def execute(self, requests):
        answers = []
        for request in requests:
            self.seen += 1
            tensor = pb_utils.get_input_tensor_by_name(request, "kept")
            if self.every and self.seen % self.every == 0:
                self.kept.append(tensor)  # and with it its 4 bytes of shared memory
            answers.append(pb_utils.InferenceResponse([pb_utils.Tensor("sum", tensor.as_numpy() + 1)]))
        return answers
"""


@pytest.mark.parametrize("leak", LEAKS)
def test_a_leaking_process_is_told_by_what_it_leaks(leak: str) -> None:
    code = f"import threading, time\nkept = []\nwhile True:\n    {LEAKS[leak]}\n    time.sleep(0.02)"
    child = subprocess.Popen([sys.executable, "-c", code])
    try:
        time.sleep(0.5)
        process = psutil.Process(child.pid)
        before = held([process], "no_such_region", 0)
        time.sleep(1)
        after = held([process], "no_such_region", 1)
    finally:
        child.kill()
        child.wait()
    assert {problem.split(":")[0] for problem in grown(before, after)} == ({leak} if leak else set())


def at_rest(processes: list[psutil.Process], prefix: str, number: int) -> Held:
    """The least that is seen in a second: an answer comes before what its query had is given back."""
    looks = []
    for _ in range(20):
        time.sleep(0.05)
        looks.append(held(processes, prefix, number))
    return min(looks, key=lambda look: look.used_bytes)


@pytest.mark.server
@pytest.mark.parametrize("every", [0, 100])
def test_four_bytes_of_shared_memory_that_a_real_server_loses_in_a_hundred_queries_are_told(
    every: int, tmp_path: Path
) -> None:
    """Two of 200 queries lose theirs: the region has room for thousands more, and does not grow."""
    (tmp_path / "models/leak/1").mkdir(parents=True)
    (tmp_path / "models/leak/config.pbtxt").write_text(CONFIG.format(every=every))
    (tmp_path / "models/leak/1/model.py").write_text(MODEL)
    log = tmp_path / "log"
    with installation() as installed, running(installed, tmp_path / "models", free_ports(), log) as server:
        processes = [psutil.Process(server.process.pid), *stubs(server)]
        tensor = tritonclient.http.InferInput("kept", [1], "INT32").set_data_from_numpy(np.array([7], np.int32))
        seen = []
        with tritonclient.http.InferenceServerClient(server.http) as client:
            for number in range(250):
                assert client.infer("leak", [tensor]).as_numpy("sum") == [8]
                if number in (49, 249):
                    seen.append(at_rest(processes, server.regions, number))
    assert seen[0].regions == 1 and seen[0].used_bytes > 0
    assert [problem.split(":")[0] for problem in grown(*seen)] == (["used_bytes"] if every else [])


def test_the_slope_is_that_of_the_line() -> None:
    seen = [Held(time_s, 1000 + 5 * time_s, 0, 0, 0, 0, 0) for time_s in range(100)]
    assert pss_slope(seen) == pytest.approx(5 * 3600)
