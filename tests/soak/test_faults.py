"""Ten minutes of faults under traffic whose calls are joined: no wrong score, and no error but what a fault explains.

make soak MINUTES=2           # or ELASTICREC_SOAK_MINUTES=2 pytest -m soak tests/soak/test_faults.py
"""

import os
import random
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as grpcclient
from tritonclient.utils import InferenceServerException

from repo_builder.access.load import load_hotness
from repo_builder.serving.server import Server
from tests.integration.fleets import Running, at_once, infer, make_fleet, metric, running_fleet
from tests.integration.models import beside_candidates, pytorch_scores, random_query

MINUTES = min(10.0, float(os.environ.get("ELASTICREC_SOAK_MINUTES", "10")))
CLIENTS = 8  # of each front end
EXPLAINED = re.compile(
    r"did not answer within|no replica was free within|UNAVAILABLE|NOT_FOUND|is not healthy|address list is empty"
)

pytestmark = [pytest.mark.soak, pytest.mark.slow, pytest.mark.timeout(120 * MINUTES + 900)]


@dataclass
class Seen:
    """What clients saw: whole and degraded scores, errors by what they say, and what was wrong."""

    whole: int = 0
    degraded: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


@pytest.fixture(params=["native", "python"])
def fleet(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Running]:
    """A service with one replica, at which calls wait, and one with two."""
    with running_fleet(tmp_path, "tiered", 2, replicas={"tier1": 2}, shard_backend=request.param) as running:
        options = {"missing_shard": "degrade", "hedge_quantile": 0.9}
        running.start_frontend(make_fleet(tmp_path / "second", running.plan, running.spec, request.param, **options))
        yield running


def test_no_score_is_wrong_whatever_ends_or_freezes(fleet: Running) -> None:
    seen, stop = [Seen() for _ in fleet.frontends], threading.Event()

    def client(number: int) -> None:
        place = number % len(fleet.frontends)
        ask(fleet, fleet.frontends[place], number, seen[place], stop)

    faults: Counter[str] = Counter()
    with at_once(client, CLIENTS * len(fleet.frontends), stop):
        rng, end = random.Random(0), time.monotonic() + 60 * MINUTES
        while time.monotonic() < end:
            faults[break_something(fleet, rng)] += 1
            time.sleep(rng.uniform(0.2, 2))
    told = [{"whole": each.whole, "degraded": each.degraded, "errors": dict(each.errors)} for each in seen]
    joined = [
        metric(server, "elasticrec_remote_queries_total", service="tier0")
        / metric(server, "elasticrec_remote_calls_total", service="tier0")
        for server in fleet.frontends
    ]
    print("", dict(faults), *told, f"queries a call of tier0: {joined}", sep="\n")  # noqa: T201 - for who runs it by hand
    assert [each.wrong for each in seen] == [[], []]
    assert all(each.whole > 100 for each in seen) and seen[1].degraded
    assert all(set(each.errors) == {"explained"} or not each.errors for each in seen)
    assert all(each > 1.01 for each in joined)
    assert all(
        metric(server, "elasticrec_remote_repeated_bags_total", service="tier0") > 0 for server in fleet.frontends
    )


def break_something(fleet: Running, rng: random.Random) -> str:
    """Freeze a replica for less or more than a deadline, or end it and start another in its place."""
    service = rng.choice(["tier0", "tier1"])
    victim = rng.choice(fleet.shards[service])
    how = rng.choice(["freeze", "freeze", "kill", "stop", *(["leave"] if service == "tier1" else [])])
    if how == "freeze":
        os.kill(victim.process.pid, signal.SIGSTOP)
        time.sleep(rng.uniform(0.05, 1))
        os.kill(victim.process.pid, signal.SIGCONT)
    elif how == "leave":
        fleet.write_addresses(tier1=[each.calls for each in fleet.shards["tier1"] if each is not victim])
        time.sleep(rng.uniform(0.5, 1.5))
        fleet.write_addresses()
    else:
        os.kill(victim.process.pid, signal.SIGKILL if how == "kill" else signal.SIGTERM)
        victim.process.wait()
        fleet.shards[service].remove(victim)
        fleet.start_shard(service, victim.ports)
    return f"{how} {service}"


def ask(fleet: Running, server: Server, number: int, seen: Seen, stop: threading.Event) -> None:
    """Send a client's queries, one after another, until it is to stop: of all users, and of one beside candidates."""
    drawn = [random_query(fleet.spec, 1 + 3 * k, seed=1000 * number + k) for k in range(6)]
    drawn = [beside_candidates(fleet.spec, query, 1 + k % 3) if k % 2 else query for k, query in enumerate(drawn)]
    queries = [(query, expected(fleet, query)) for query in drawn]
    with grpcclient.InferenceServerClient(server.grpc) as sdk:
        while not stop.is_set():
            query, (whole, *without) = queries[seen.whole % len(queries)]
            try:
                answer = infer(sdk, fleet.spec, query)
            except InferenceServerException as exc:
                seen.errors["explained" if EXPLAINED.search(str(exc)) else str(exc)] += 1
                continue
            flags, scores = answer.as_numpy("degraded"), answer.as_numpy("score")
            degraded = flags is not None and bool(flags.any())
            seen.degraded += degraded
            seen.whole += not degraded
            if not any(np.abs(scores - each).max() <= 1e-5 for each in (without if degraded else [whole])):
                seen.wrong.append(f"client {number}: {scores.ravel()}, degraded: {degraded}")


def expected(fleet: Running, query: tuple[np.ndarray, np.ndarray]) -> list[np.ndarray]:
    """The query's scores; then those without one service or several, as PyTorch has them."""
    services, (dense, indices) = range(len(fleet.plan.embedding_services)), query
    missing = [gone for count in range(len(services) + 1) for gone in combinations(services, count)]
    return [pytorch_scores(fleet.spec, dense, without(fleet, indices, gone)) for gone in missing]


def without(fleet: Running, indices: np.ndarray, services: tuple[int, ...]) -> np.ndarray:
    """The ids with those that these services hold taken out, by the plan's cuts and the hotness order."""
    hotness, rest, begin = load_hotness(fleet.spec), indices.copy(), 0
    for table in fleet.spec.dlrm.tables:
        columns = rest[:, begin : begin + table.pooling]
        for service in services:
            for shard in fleet.plan.embedding_services[service].shards:
                if shard.table == table.name:
                    columns[np.isin(columns, hotness.order(table)[shard.begin : shard.end])] = -1
        begin += table.pooling
    return rest
