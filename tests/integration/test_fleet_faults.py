"""Replicas that die, freeze, leave and come back, under load: no wrong score ever, and no error while another lives."""

import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as grpcclient
from tritonclient.utils import InferenceServerException

from repo_builder.errors import ServerError
from repo_builder.serving.server import Server, stubs
from tests.integration.fleets import (
    Load,
    Running,
    eventually,
    infer,
    load,
    make_fleet,
    metric,
    running_fleet,
    settled,
)
from tests.integration.models import pytorch_scores, random_query, score

pytestmark = pytest.mark.server

DEADLINE_S = 0.4  # the spec's SLA


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Two services, the second with two replicas that the tests may break; each test leaves two that serve."""
    with running_fleet(tmp_path_factory.mktemp("pair"), "tiered", 2, replicas={"tier1": 2}) as fleet:
        yield fleet


@pytest.fixture(scope="module")
def degrading(pair: Running) -> Server:
    """A front end of the same build that scores without a missing shard, and takes no more than two queries."""
    folder = make_fleet(
        pair.folder.with_name("degrading"), pair.plan, pair.spec, missing_shard="degrade", max_in_flight=2
    )
    return pair.start_frontend(folder)


@pytest.fixture(scope="module")
def hedging(pair: Running) -> Server:
    """A front end of the same build that asks a second replica after a call's usual time."""
    return pair.start_frontend(make_fleet(pair.folder.with_name("hedging"), pair.plan, pair.spec, hedge_quantile=0.9))


def replace_replica(fleet: Running, old: Server) -> None:
    """Start a server where a dead one was, as a Deployment would."""
    fleet.shards["tier1"].remove(old)
    old.process.wait()
    fleet.start_shard("tier1", old.ports)


def answered(server: Server) -> float:
    """The calls that a replica of tier1 has answered."""
    return metric(server, "nv_inference_request_success", model="small_tier1")


def calls(replicas: Sequence[Server], ask: Callable[[], None]) -> list[float]:
    """The calls that each replica of tier1 answers while `ask` runs."""

    def counts() -> list[float]:
        return [answered(replica) for replica in replicas]

    before = settled(counts)
    ask()
    return list(np.subtract(settled(counts), before))


def serves_from(fleet: Running, server: Server) -> None:
    """Wait until the front end's queries reach this replica again."""
    before = answered(server)
    query = random_query(fleet.spec, 2, seed=3)

    def reached() -> bool:
        score("grpc", fleet.frontend.grpc, "small", *query)
        return answered(server) > before + 5

    eventually(reached)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "stopped"])
def test_no_query_fails_when_one_of_two_replicas_ends(pair: Running, how: signal.Signals) -> None:
    victim = pair.shards["tier1"][0]
    with load(pair.spec, pair.frontend, clients=3) as seen:
        time.sleep(0.5)
        os.kill(victim.process.pid, how)
        victim.process.wait()
        time.sleep(1)
        replace_replica(pair, victim)
        time.sleep(1)
    assert not seen.wrong and not seen.errors
    assert seen.answers > 100
    serves_from(pair, pair.shards["tier1"][-1])


def test_a_dead_python_process_costs_errors_only_up_to_the_deadline(pair: Running) -> None:
    """Triton notices after a second, does not replace it and calls itself ready; the router asks it no more."""
    victim = pair.shards["tier1"][0]
    try:
        with load(pair.spec, pair.frontend, clients=3) as seen:
            time.sleep(0.5)
            stubs(victim)[0].kill()
            time.sleep(3)
    finally:
        victim.process.kill()
        replace_replica(pair, victim)
    check_only_up_to_the_deadline(seen)
    serves_from(pair, pair.shards["tier1"][-1])


def check_only_up_to_the_deadline(seen: Load) -> None:
    """Of a fault half a second after the start: errors for those who waited for the replica then, none later."""
    assert not seen.wrong
    assert all(at < 0.5 + 2 * DEADLINE_S for at, _, _ in seen.errors), seen.errors
    assert all(re.search(r"did not answer within \d+ ms", text) for _, _, text in seen.errors), seen.errors
    assert all(latency < 2 * DEADLINE_S for _, latency, _ in seen.errors), seen.errors
    assert seen.answers > 100


def test_a_frozen_replica_costs_errors_only_up_to_the_deadline(pair: Running) -> None:
    victim = pair.shards["tier1"][0]
    with load(pair.spec, pair.frontend, clients=3) as seen:
        time.sleep(0.5)
        os.kill(victim.process.pid, signal.SIGSTOP)
        time.sleep(3)
        os.kill(victim.process.pid, signal.SIGCONT)
        time.sleep(0.5)
    check_only_up_to_the_deadline(seen)
    serves_from(pair, victim)


def test_hedging_spares_even_those(pair: Running, hedging: Server) -> None:
    query = random_query(pair.spec, 2, seed=4)
    for _ in range(100):  # latencies to learn from
        score("grpc", hedging.grpc, "small", *query)
    victim = pair.shards["tier1"][0]
    with load(pair.spec, hedging, clients=2) as seen:
        time.sleep(0.2)
        os.kill(victim.process.pid, signal.SIGSTOP)
        time.sleep(1.5)
        os.kill(victim.process.pid, signal.SIGCONT)
    assert not seen.wrong and not seen.errors
    eventually(lambda: metric(hedging, "elasticrec_hedges_total", service="tier1") > 0)


def test_the_address_file_is_followed(pair: Running) -> None:
    """Only the replica that the file names is asked, by address or by a name; a broken file changes nothing."""
    first, second = pair.shards["tier1"]
    query = random_query(pair.spec, 3, seed=6)
    expected = pytorch_scores(pair.spec, *query)

    def ask_ten() -> None:
        for _ in range(10):
            np.testing.assert_allclose(score("grpc", pair.frontend.grpc, "small", *query), expected, atol=1e-5)

    for kept, gone, entry in (
        (first, second, [first.calls]),
        (second, first, f"dns:///{second.calls.replace('127.0.0.1', 'localhost')}"),
    ):
        pair.write_addresses(tier1=entry)
        eventually(
            lambda replicas=(kept, gone): calls(replicas, ask_ten) == [10, 0], 30
        )  # until the file is read again
        assert calls([gone], ask_ten) == [0]
    pair.addresses.write_text("{")
    time.sleep(0.6)
    np.testing.assert_allclose(score("grpc", pair.frontend.grpc, "small", *query), expected, atol=1e-5)
    assert "the former addresses stay in use" in pair.frontend.log.read_text()
    pair.write_addresses()
    serves_from(pair, first)


def test_a_service_that_is_gone_fails_the_query_or_is_left_out_and_flagged(pair: Running, degrading: Server) -> None:
    """What a degraded score is: that of the query without the ids held there; the next whole score is not flagged."""
    dense, indices = random_query(pair.spec, 5, seed=7)
    client = grpcclient.InferenceServerClient(degrading.grpc)
    whole = infer(client, pair.spec, (dense, indices))
    assert not whole.as_numpy("degraded").any()
    np.testing.assert_allclose(whole.as_numpy("score"), pytorch_scores(pair.spec, dense, indices), atol=1e-5)
    pair.write_addresses(tier1=[])
    rest = without_tier1(pair, indices)
    eventually(lambda: infer(client, pair.spec, (dense, indices)).as_numpy("degraded").all())
    scores = infer(client, pair.spec, (dense, indices)).as_numpy("score")
    np.testing.assert_allclose(scores, pytorch_scores(pair.spec, dense, rest), atol=1e-5)
    eventually(lambda: "service tier1: its address list is empty" in refusal(pair.frontend, dense, indices))
    eventually(lambda: metric(degrading, "elasticrec_degraded_queries_total", service="tier1") >= 2)
    pair.write_addresses()
    eventually(lambda: not infer(client, pair.spec, (dense, indices)).as_numpy("degraded").any())
    client.close()


def refusal(frontend: Server, dense: np.ndarray, indices: np.ndarray) -> str:
    """What a front end says instead of a score; nothing where it scores."""
    try:
        score("grpc", frontend.grpc, "small", dense, indices)
    except ServerError as exc:
        return str(exc)
    return ""


def without_tier1(fleet: Running, indices: np.ndarray) -> np.ndarray:
    """The ids with those of tier1 taken out, by the plan's cuts and the hotness order."""
    from repo_builder.access.load import load_hotness

    hotness, rest, begin = load_hotness(fleet.spec), indices.copy(), 0
    cold = {shard.table: shard for shard in fleet.plan.embedding_services[1].shards}
    for table in fleet.spec.dlrm.tables:
        if table.name in cold:
            shard = cold[table.name]
            held = hotness.order(table)[shard.begin : shard.end]
            columns = rest[:, begin : begin + table.pooling]
            columns[np.isin(columns, held)] = -1
        begin += table.pooling
    return rest


def test_one_query_too_many_is_refused_at_once(pair: Running, degrading: Server) -> None:
    """While the service is frozen two queries wait, and a third is told so long before the deadline."""
    query = random_query(pair.spec, 2, seed=8)
    frozen = pair.shards["tier0"][0]
    answers: list[tuple[float, str]] = []

    def ask() -> None:
        client = grpcclient.InferenceServerClient(degrading.grpc)
        asked = time.monotonic()
        try:
            infer(client, pair.spec, query)
            answers.append((time.monotonic() - asked, "scored"))
        except InferenceServerException as exc:
            answers.append((time.monotonic() - asked, str(exc)))
        client.close()

    os.kill(frozen.process.pid, signal.SIGSTOP)
    try:
        threads = [threading.Thread(target=ask) for _ in range(3)]
        for thread in threads:
            thread.start()
            time.sleep(0.05)
        for thread in threads:
            thread.join()
    finally:
        os.kill(frozen.process.pid, signal.SIGCONT)
    refused = [(latency, text) for latency, text in answers if "overloaded: 2 queries are under way" in text]
    assert len(refused) == 1 and refused[0][0] < DEADLINE_S / 2, answers
    assert [text for _, text in answers].count("scored") == 2, answers
    eventually(lambda: metric(degrading, "elasticrec_overloaded_queries_total") == 1)


def test_counts_of_remote_calls_are_metrics(pair: Running) -> None:
    before = settled(lambda: metric(pair.frontend, "elasticrec_remote_calls_total", service="tier0"))
    query = random_query(pair.spec, 2, seed=8)
    for _ in range(10):
        score("grpc", pair.frontend.grpc, "small", *query)
    eventually(lambda: metric(pair.frontend, "elasticrec_remote_calls_total", service="tier0") == before + 10)
    assert metric(pair.frontend, "elasticrec_remote_call_duration_us_total", service="tier0") > 0


def test_the_front_ends_log_tells_of_replicas(pair: Running) -> None:
    text = Path(pair.frontend.log).read_text()
    assert "service tier0: replica" in text and "serves" in text
