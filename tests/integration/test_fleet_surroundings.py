"""What surrounds the servers fails, under load beside a second replica: the network, /dev/shm, a front end."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import tritonclient.grpc as grpcclient
from tritonclient.utils import InferenceServerException

from repo_builder.serving.client import score
from repo_builder.serving.server import Server
from tests.integration.faults import Shm, cable, delay, with_own_shm
from tests.integration.fleets import Load, Running, at_once, eventually, infer, load, make_fleet, metric, running_fleet
from tests.integration.models import pytorch_scores, random_query

pytestmark = pytest.mark.server

DEADLINE_S = 0.4  # the spec's SLA
SLOW_S = 0.2


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Two services and a front end; each test gives the second service, tier1, its own second replica."""
    with running_fleet(tmp_path_factory.mktemp("surroundings"), "tiered", 2) as started:
        yield started


@contextmanager
def beside(fleet: Running, address: str) -> Iterator[None]:
    """tier1 has a second replica at this address, which takes queries when the block begins."""
    fleet.write_addresses(tier1=[fleet.shards["tier1"][0].grpc, address])
    try:
        eventually(lambda: f"replica {address} serves" in fleet.frontend.log.read_text())
        yield
    finally:
        fleet.write_addresses(tier1=[fleet.shards["tier1"][0].grpc])


def answered(server: Server) -> float:
    return metric(server, "nv_inference_request_success", model="small_tier1")


def takes_queries(fleet: Running, server: Server) -> None:
    """Wait until queries reach this replica."""
    before, query = answered(server), random_query(fleet.spec, 2, seed=3)

    def reached() -> bool:
        score("grpc", fleet.frontend.grpc, "small", *query)
        return answered(server) > before + 5

    eventually(reached)


def test_a_slow_replica_fails_no_query_and_is_asked_less(fleet: Running) -> None:
    """Its answers take 200 ms more: what it still gets is what nobody else was free for."""
    second = fleet.start_shard("tier1")
    with delay(second.grpc) as proxy, beside(fleet, proxy.address):
        proxy.delay_s = SLOW_S
        slow = answered(second)
        with load(fleet.spec, fleet.frontend, clients=3) as seen:
            time.sleep(3)
        slow = answered(second) - slow
        assert not seen.wrong and not seen.errors
        assert seen.answers > 100 and slow < seen.answers / 5, (slow, seen.answers)
        proxy.delay_s = 0.0
        takes_queries(fleet, second)
    fleet.shards["tier1"].remove(second)


def test_with_hedging_nobody_waits_for_a_slow_replica(fleet: Running) -> None:
    folder = make_fleet(fleet.folder.with_name("hedging"), fleet.plan, fleet.spec, hedge_quantile=0.9)
    second = fleet.start_shard("tier1")
    frontend = fleet.start_frontend(folder)
    query = random_query(fleet.spec, 2, seed=4)
    for _ in range(100):  # latencies to learn from
        score("grpc", frontend.grpc, "small", *query)
    with delay(second.grpc) as proxy, beside(fleet, proxy.address):
        eventually(lambda: f"replica {proxy.address} serves" in frontend.log.read_text())
        proxy.delay_s = SLOW_S
        with load(fleet.spec, frontend, clients=2) as seen:
            time.sleep(2)
    assert not seen.wrong and not seen.errors
    assert float(np.quantile(seen.latencies_s, 0.99)) < SLOW_S, sorted(seen.latencies_s)[-20:]
    assert metric(frontend, "elasticrec_hedges_total", service="tier1") > 0
    fleet.shards["tier1"].remove(second)


def test_a_cut_network_costs_errors_only_up_to_the_deadline(fleet: Running) -> None:
    """Packets vanish, which no connection is told of; when they pass again the replica is used again."""
    with cable() as far:
        with far.inside():
            second = fleet.start_shard("tier1", host=far.host)
        with beside(fleet, second.grpc):
            takes_queries(fleet, second)
            with load(fleet.spec, fleet.frontend, clients=3) as seen:
                time.sleep(0.5)
                far.cut()
                time.sleep(2.5)
                far.mend()
                time.sleep(0.5)
            check_only_up_to_the_deadline(seen, 0.5)
            takes_queries(fleet, second)
        fleet.shards["tier1"].remove(second)
        second.process.kill()
        second.process.wait()
    assert f"{second.grpc} did not answer within" in fleet.frontend.log.read_text()


def check_only_up_to_the_deadline(seen: Load, fault_s: float) -> None:
    """Errors for those who waited for the replica at the time of the fault, none later."""
    assert not seen.wrong
    assert all(at < fault_s + 2 * DEADLINE_S and latency < 2 * DEADLINE_S for at, latency, _ in seen.errors), seen
    assert seen.answers > 100


def test_a_full_shm(fleet: Running) -> None:
    """Queries that fit into what Triton's Python backend holds already are scored; larger ones are refused aloud."""
    folder = fleet.folder.parent
    second = fleet.start_shard("tier1", changed=lambda installed: with_own_shm(installed, folder, 16 * 1024))
    shm = Shm(second)
    with beside(fleet, second.grpc):
        takes_queries(fleet, second)
        shm.fill()
        with load(fleet.spec, fleet.frontend, clients=3) as seen:
            time.sleep(1)
        print('SMALL', seen.answers, seen.errors[:2])
        with load(fleet.spec, fleet.frontend, clients=3, rows=2000) as seen:
            time.sleep(4)
        print('LARGE', seen.answers, len(seen.errors), seen.errors[:2])
        shm.free()
        with load(fleet.spec, fleet.frontend, clients=3, rows=2000) as seen:
            time.sleep(2)
        print('AFTER', seen.answers, len(seen.errors), seen.errors[:2])
    print([l for l in second.log.read_text().splitlines() if l.startswith('E')][-3:])
    fleet.shards["tier1"].remove(second)
