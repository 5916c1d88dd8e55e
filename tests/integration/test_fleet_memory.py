"""What a front end takes while as many queries are under way as may be, beside what its pod is limited to."""

import re
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as grpcclient

from repo_builder.access.load import load_hotness
from repo_builder.partition.cost import DEFAULT_PROFILE
from repo_builder.partition.planner import make_plan
from repo_builder.repository.built_fleet import load_fleet
from repo_builder.spec import parse_spec
from tests.integration.fleets import Running, at_once, infer, infer_inputs, make_fleet, metric
from tests.integration.models import document

pytestmark = [pytest.mark.server, pytest.mark.slow]

ROWS, LARGEST, IN_FLIGHT = 32, 4096, 256
POOLING = 128  # of ten tables: a row of a query is 10 KB


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Running]:
    tables = [{"name": "T", "rows": 20_000, "dim": 8, "pooling": POOLING, "count": 10}]
    serving = {"target_qps": 400, "batch": ROWS, "sla_ms": 3000}
    made = {**document(), "tables": tables, "weights": {"source": "random"}, "serving": serving}
    spec = parse_spec(made, tmp_path / "small.yaml")
    planned = make_plan(spec, load_hotness(spec), DEFAULT_PROFILE, "tiered", 2, least_saving=0)
    plan = replace(planned, services=tuple(replace(each, replicas=1, added=0) for each in planned.services))
    make_fleet(tmp_path / "fleet", plan, spec, "native", max_in_flight=IN_FLIGHT)
    with ExitStack() as stack:
        running = Running(spec, plan, tmp_path / "fleet", tmp_path / "addresses.json", stack)
        for service in plan.embedding_services:
            running.start_shard(service.name)
        running.write_addresses()
        running.start_frontend()
        yield running


def test_a_front_end_full_of_queries_stays_below_its_limit(fleet: Running) -> None:
    """Shards that answer nothing keep all that is let in under way; then come queries as large as may be."""
    built, front = load_fleet(fleet.folder).frontend, fleet.frontend
    with watching(front.process.pid) as peak:
        fill(fleet)
        full_bytes = peak()
        with grpcclient.InferenceServerClient(front.grpc) as sdk:
            for seed in range(12):
                infer(sdk, fleet.spec, query(fleet, LARGEST, seed))
    assert metric(front, "elasticrec_overloaded_queries_total") == 0
    assert full_bytes > built.planned.memory_bytes + built.files_bytes  # so the plan's own figure is no limit
    assert peak() < built.most_memory_bytes - built.shm_bytes


def query(fleet: Running, rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    dense = rng.standard_normal((rows, fleet.spec.dlrm.dense_features), np.float32)
    return dense, rng.integers(0, 20_000, (rows, 10 * POOLING))


def fill(fleet: Running) -> None:
    """As many queries as may be under way, all of them there before the first is answered."""
    asked, done = infer_inputs(fleet.spec, query(fleet, ROWS, 0)), threading.Semaphore(0)
    shards = [server.process for servers in fleet.shards.values() for server in servers]
    with grpcclient.InferenceServerClient(fleet.frontend.grpc) as sdk:
        for process in shards:
            process.send_signal(signal.SIGSTOP)
        for _ in range(IN_FLIGHT):
            sdk.async_infer(fleet.spec.name, asked, lambda result, error: done.release())
        for _ in range(IN_FLIGHT):
            assert done.acquire(timeout=30)  # at their deadline
        for process in shards:
            process.send_signal(signal.SIGCONT)


@contextmanager
def watching(pid: int) -> Iterator[partial[int]]:
    """What a process has had at most for itself since, in bytes, looked at every few milliseconds."""
    most, stop = [0], threading.Event()

    def look(_: int) -> None:
        while not stop.wait(0.003):
            found = re.search(r"^RssAnon:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
            assert found is not None
            most[0] = max(most[0], 1024 * int(found[1]))

    with at_once(look, 1, stop):
        yield partial(most.__getitem__, 0)
