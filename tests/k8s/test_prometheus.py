"""The rules' queries on a real Prometheus that scrapes real servers, against the load's own count.

The window is shorter than the rendered one, and scrapes come faster, in the same proportion.
"""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from repo_builder.local_fleet.status import metric, metrics_text
from repo_builder.repository.built_fleet import BuiltFleet
from repo_builder.scaling.queries import SCRAPE_S, WINDOW_S, Scope, latency_flags
from repo_builder.scaling.rules import Rule, service_rules
from repo_builder.serving.client import times_by_model
from repo_builder.serving.server import Server, free_ports
from repo_builder.spec import Spec
from tests.integration.models import make_repository
from tests.k8s.fleets import Made, fleet
from tests.k8s.prometheus import Load, Prometheus, needs_prometheus, scraping
from tests.servers import serving

pytestmark = [pytest.mark.server, pytest.mark.long, needs_prometheus]

WINDOW = WINDOW_S // SCRAPE_S // 2  # seconds, with two scrapes a second
QPS = 40.0
SCOPE = Scope("elasticrec", WINDOW)


class Replicas:
    """Two places for a server of the same model, of which none, one or both are taken."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.spec: Spec = make_repository(folder, "tiered")[0]
        self.folder, self.ports = folder, (free_ports(), free_ports())
        self._stack = stack
        self._flags = latency_flags()  # alone: its statistics, the test's second opinion, are not restricted

    def start(self, index: int) -> Server:
        log = self.folder / f"log{index}"
        repository = self.folder / "repository"
        return self._stack.enter_context(serving(repository, log, ports=self.ports[index], flags=self._flags))

    @property
    def metrics(self) -> list[str]:
        return [f"127.0.0.1:{ports.metrics}" for ports in self.ports]


@pytest.fixture
def replicas(tmp_path: Path) -> Iterator[Replicas]:
    with ExitStack() as stack:
        yield Replicas(tmp_path, stack)


def rules(folder: Path, dense_qps: float) -> tuple[dict[str, Rule], dict[str, Rule]]:
    """Of the front end and of tier0, where the plan gives the front end so many queries per second."""
    folder.mkdir()
    made: BuiltFleet = fleet(folder, Made(model="small", dense_qps=dense_qps))
    front, shard = (service_rules(made, service) for service in made.services[:2])
    return {rule.name: rule for rule in front}, {rule.name: rule for rule in shard}


def test_every_query_says_what_happened(replicas: Replicas, tmp_path: Path) -> None:
    """No traffic, traffic, its end, a second replica, one killed, none left: each checked where it matters."""
    front, shard = rules(tmp_path / "busy", dense_qps=QPS)
    idle_front, _ = rules(tmp_path / "idle", dense_qps=100 * QPS)
    everything = [*front.values(), *shard.values()]
    first = replicas.start(0)
    with scraping(tmp_path, replicas.metrics, SCOPE.namespace) as prometheus:
        prometheus.wait_until_up(1)
        time.sleep(2)
        assert [prometheus.one(rule.query.promql(SCOPE)) for rule in everything] == [0] * len(
            everything
        )  # no traffic at all

        check_queue_times(prometheus, front, shard, replicas.spec, first)
        with Load(replicas.spec, [first.grpc], QPS) as load:
            time.sleep(WINDOW + 2)
            check_rates(prometheus, load, front, shard)
            check_latency(prometheus, load, [first], front, idle_front)

            second = replicas.start(1)
            prometheus.wait_until_up(2)  # a pod's first query comes after its readiness, the DNS and a first scrape
            check_latency(prometheus, load, [first, second], front, idle_front)  # the new pod has no quantile yet: NaN
            load.addresses = [first.grpc, second.grpc]
            for _ in range(3):
                time.sleep(1.5)
                check_rates(prometheus, load, front, shard)
                check_latency(prometheus, load, [first, second], front, idle_front)
                check_queues_are_short(prometheus, front, shard)
            assert prometheus.one(SCOPE.pods("small")) == 2

            load.addresses = [second.grpc]
            time.sleep(1)  # a killed pod takes along what it counted since its last scrape
            first.process.kill()
            for _ in range(3):
                time.sleep(1.5)
                check_rates(prometheus, load, front, shard)
                check_latency(prometheus, load, [second], front, idle_front)
                check_queues_are_short(prometheus, front, shard)
            assert prometheus.one(SCOPE.pods("small")) == 1
        second.process.kill()
        time.sleep(WINDOW + 3)
        assert [prometheus.ask(rule.query.promql(SCOPE)) for rule in everything] == [[]] * len(
            everything
        )  # KEDA falls back


def check_rates(prometheus: Prometheus, load: Load, front: dict[str, Rule], shard: dict[str, Rule]) -> None:
    """Within 5% of the load's own count; a rate of counters ends with their last scrape, up to half a second ago."""
    now = time.time()
    counted = [load.rate(now - age, WINDOW) for age in (0, 0.25, 0.5)]
    for rule in (front["throughput"], shard["throughput"]):
        rate = prometheus.one(rule.query.promql(SCOPE), now)
        assert 0.95 * min(counted) <= rate <= 1.05 * max(counted), (rule.query.promql(SCOPE), counted)


def check_queue_times(
    prometheus: Prometheus, front: dict[str, Rule], shard: dict[str, Rule], spec: Spec, server: Server
) -> None:
    """A burst that the window holds whole: what Triton's statistics, another way, say of its mean queue times."""
    before = times_by_model(server.http)
    with Load(spec, [server.grpc], 2 * QPS) as load:
        time.sleep(WINDOW - 3)
    time.sleep(1.5)
    values = {
        name: prometheus.one(rules["queue"].query.promql(SCOPE)) for name, rules in (("front", front), ("shard", shard))
    }
    after = times_by_model(server.http)

    def mean_us(model: str) -> float:
        waited = after[model].queue_ms * after[model].requests - before[model].queue_ms * before[model].requests
        return 1000 * waited / (after[model].requests - before[model].requests)

    assert len(load.done) > QPS
    assert values["front"] == pytest.approx(max(mean_us("small_router"), mean_us("small_dense")), rel=0.05)
    assert values["shard"] == pytest.approx(mean_us("small_tier0"), rel=0.05)


def check_queues_are_short(prometheus: Prometheus, front: dict[str, Rule], shard: dict[str, Rule]) -> None:
    """A mean over the pods that come and go is a mean still: far below what the clients see of the whole."""
    for rule in (front["queue"], shard["queue"]):
        assert 0 < prometheus.one(rule.query.promql(SCOPE)) < rule.threshold, rule.query.promql(SCOPE)


def own_p95_us(servers: Sequence[Server]) -> float:
    """The slowest one's, as its metrics say now; one that has answered nothing yet has NaN."""
    texts = map(metrics_text, servers)
    values = [
        p95 for text in texts for p95 in metric(text, "nv_inference_request_summary_us", model="small", quantile="0.95")
    ]
    return max(value for value in values if not math.isnan(value))


def check_latency(
    prometheus: Prometheus, load: Load, servers: Sequence[Server], front: dict[str, Rule], idle_front: dict[str, Rule]
) -> None:
    """What the servers say themselves, scraped up to half a second ago, and no more than the clients saw; and nothing
    where the front end could do a hundred times more.
    """
    own_us = []
    for _ in range(3):
        own_us.append(own_p95_us(servers))
        time.sleep(0.25)
    latency_us = prometheus.one(front["latency"].query.promql(SCOPE))
    own_us.append(own_p95_us(servers))
    half_us, most_us = 1e6 * np.quantile([latency for _, latency in load.done], [0.5, 0.95])
    assert 0.6 * min(own_us) < latency_us < 1.6 * max(own_us)
    # from below not by their p95: where another server starts, queries wait long before one has them and counts
    assert 0.3 * half_us < latency_us < 1.2 * most_us
    assert prometheus.one(idle_front["latency"].query.promql(SCOPE)) == 0
