"""The figures of a load of calls on a server of known times; tests/triton_backends/ has what is sent."""

import ctypes
import subprocess
from pathlib import Path

import numpy as np
import pytest

from repo_builder.profiling import call_load
from repo_builder.profiling.call_load import CallLoad
from repo_builder.profiling.perf_analyzer import LoadTestError
from repo_builder.serving.server import Ports, Server
from tests.triton_backends.fake_shard import FakeShard, serving

DELAY_S, IN_FLIGHT = 0.1, 4
CALLS = [{"ids": np.arange(3, dtype=np.int32), "lengths": np.array([3, 0], np.int32)}]


def test_figures_are_those_of_the_servers_times() -> None:
    shard = FakeShard(tables=2, delay_s=DELAY_S)
    with serving(shard):
        host, port = shard.address.split(":")
        process = subprocess.Popen(["true"])
        process.wait()
        server = Server(process, host, Ports(grpc=int(port)), Path("no log"), "no_regions_")
        measured = CallLoad(CALLS, IN_FLIGHT).run(server, "m", 5 * DELAY_S)
    assert measured.concurrency == IN_FLIGHT
    assert 0 < measured.throughput_qps <= IN_FLIGHT / DELAY_S
    assert 1000 * DELAY_S <= measured.p50_ms <= measured.p95_ms <= measured.p99_ms
    assert measured.throughput_qps * measured.p50_ms / 1000 == pytest.approx(IN_FLIGHT, rel=0.5)  # Little's law


def test_what_a_load_needs_is_there() -> None:
    call_load.check()


def test_what_is_missing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    class Without:
        @staticmethod
        def elasticrec_call_load_ready(problem: ctypes.Array[ctypes.c_char]) -> bool:
            problem.value = b"libnghttp2.so.14: install it"
            return False

    monkeypatch.setattr(call_load, "_library", Without)
    with pytest.raises(LoadTestError, match=r"^libnghttp2\.so\.14: install it$"):
        call_load.check()
