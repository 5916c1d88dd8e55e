"""What surrounds the servers fails, under load beside a second replica: the network, /dev/shm, a front end."""

import queue
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as grpcclient
from tritonclient.utils import InferenceServerException

from repo_builder.errors import ServerError
from repo_builder.serving.server import Server
from tests.integration.faults import Shm, cable, delay, with_own_shm
from tests.integration.fleets import Load, Running, eventually, load, make_fleet, metric, running_fleet
from tests.integration.models import random_query, score

pytestmark = pytest.mark.server

ROOT = Path(__file__).parents[2]
DEADLINE_S = 0.4  # the spec's SLA
LARGE_CALLS = 12
SLOW_S = 0.2


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Two services and a front end; each test gives the second service, tier1, its own second replica."""
    with running_fleet(tmp_path_factory.mktemp("surroundings"), "tiered", 2) as started:
        yield started


@contextmanager
def beside(fleet: Running, address: str) -> Iterator[None]:
    """tier1 has a second replica at this address, which takes queries when the block begins."""
    fleet.write_addresses(tier1=[fleet.shards["tier1"][0].calls, address])
    try:
        eventually(lambda: f"replica {address} serves" in fleet.frontend.log.read_text())
        yield
    finally:
        fleet.write_addresses(tier1=[fleet.shards["tier1"][0].calls])


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
    with delay(second.calls) as proxy, beside(fleet, proxy.address):
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
    with delay(second.calls) as proxy, beside(fleet, proxy.address):
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
        with beside(fleet, second.calls):
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
    assert f"{second.calls} did not answer within" in fleet.frontend.log.read_text()


def check_only_up_to_the_deadline(seen: Load, fault_s: float) -> None:
    """Errors for those who waited for the replica at the time of the fault, none later."""
    assert not seen.wrong
    assert all(at < fault_s + 2 * DEADLINE_S and latency < 2 * DEADLINE_S for at, latency, _ in seen.errors), seen
    assert seen.answers > 100


def test_a_full_shm_refuses_large_calls_aloud_and_fails_none_that_fit(fleet: Running) -> None:
    """What Triton's Python backend holds already goes on serving; a call that needs more is told why, and none after
    there is room again.
    """
    folder = fleet.folder.parent
    second = fleet.start_shard("tier1", changed=lambda installed: with_own_shm(installed, folder, 16 * 1024))
    shm, large = Shm(second), 4096
    with beside(fleet, second.calls):
        takes_queries(fleet, second)
        shm.fill()
        before = answered(second)
        with load(fleet.spec, fleet.frontend, clients=3, rows=500) as seen:
            time.sleep(0.5)
            told: list[str] = []
            eventually(lambda: refused(told, refusal(fleet, second, large)), 60)
            time.sleep(1)
        assert seen.answers > 50 and not seen.errors and not seen.wrong
        assert answered(second) > before + 10
        shm.free()
        assert refusal(fleet, second, large) == ""
    assert "No space left on device" in told[-1] + second.log.read_text()  # by the server, or by its Python process
    fleet.shards["tier1"].remove(second)


def refused(told: list[str], answer: str) -> bool:
    """Whether calls met in the server: where they do not, there is room for each."""
    told.append(answer)
    return "Failed to increase the shared memory pool size" in answer


def test_without_room_in_shm_a_shard_does_not_start_and_says_why(fleet: Running) -> None:
    folder = fleet.folder.parent
    with pytest.raises(ServerError, match=r"(?s)Unable to initialize shared memory.*No space left on device"):
        fleet.start_shard("tier1", changed=lambda installed: with_own_shm(installed, folder, 512))


def refusal(fleet: Running, server: Server, rows: int) -> str:
    """What tier1 says to one of several calls at once, of so many rows with empty bags; nothing where it answers all.

    One alone may be no larger than the model's largest batch, which fits into what Triton holds from the start.
    """
    tables = len(fleet.plan.embedding_services[1].shards)
    inputs = []
    for name, values in (("ids", np.zeros((1, 1), np.int32)), ("lengths", np.eye(1, rows * tables, dtype=np.int32))):
        inputs.append(grpcclient.InferInput(name, values.shape, "INT32").set_data_from_numpy(values))
    with grpcclient.InferenceServerClient(server.grpc) as sdk:
        answers: queue.SimpleQueue[tuple[grpcclient.InferResult | None, InferenceServerException | None]] = (
            queue.SimpleQueue()
        )
        for _ in range(LARGE_CALLS):
            sdk.async_infer("small_tier1", inputs, lambda result, error: answers.put((result, error)))
        told = ""
        for result, error in [answers.get(timeout=60) for _ in range(LARGE_CALLS)]:
            told = told or str(error or "")
            assert error or (result.as_numpy("sums").shape[0] == rows and not result.as_numpy("sums")[1:].any())
    return told


def test_clients_of_two_front_ends_notice_nothing_when_one_is_killed(fleet: Running) -> None:
    """gRPC itself spreads the queries and asks the other, by the README's words: clients need no code for it."""
    victim = fleet.start_frontend()
    (retrying,) = re.findall(r"```json\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)

    def connect() -> grpcclient.InferenceServerClient:
        options = [("grpc.service_config", retrying), ("grpc.use_local_subchannel_pool", 1)]
        return grpcclient.InferenceServerClient(f"ipv4:{fleet.frontend.grpc},{victim.grpc}", channel_args=options)

    def taken() -> list[float]:
        return [metric(server, "nv_inference_request_success", model="small") for server in (fleet.frontend, victim)]

    before = taken()
    with load(fleet.spec, victim, clients=3, connect=connect) as seen:
        time.sleep(1)
        shares = np.subtract(taken(), before)
        victim.process.kill()
        victim.process.wait()
        time.sleep(1)
    assert min(shares) > 20, shares
    assert seen.answers > sum(shares) + 20 and not seen.errors and not seen.wrong, seen.errors
