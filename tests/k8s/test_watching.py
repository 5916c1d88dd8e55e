"""The dashboard's and the alerts' queries on a real Prometheus that scrapes a real fleet in good and bad times."""

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import tritonclient.grpc
from tritonclient.utils import InferenceServerException

from k8s.alerts import alerts
from k8s.dashboard import panels
from k8s.pods import flags
from k8s.series import Series
from repo_builder.repository.built_fleet import BuiltFleet
from tests.integration.fleets import Running, eventually, infer, metric, running_fleet
from tests.integration.models import random_query
from tests.k8s.exporters import exporting, page
from tests.k8s.fleets import Made, fleet
from tests.k8s.prometheus import Load, Prometheus, needs_prometheus, scraping, text_of
from tests.servers import serving

pytestmark = [pytest.mark.server, pytest.mark.slow, needs_prometheus]

WINDOW_S, QPS, BAD = 10, 40.0, 20
NAMESPACE = "elasticrec"
ASIDE = "elasticrec_replicas_aside"


@dataclass(frozen=True)
class Seen:
    """A fleet after traffic that went well, queries that were refused, and the end of the service tier1."""

    prometheus: Prometheus
    fleet: BuiltFleet
    load: Load
    well_s: float  # when all was well
    bad_s: float  # when tier1 was gone

    def series(self, window: str = f"{WINDOW_S}s") -> Series:
        return Series(self.fleet, NAMESPACE, window)


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    folder, described = tmp_path_factory.mktemp("watched"), tmp_path_factory.mktemp("described")
    made = fleet(described, Made(model="small"))
    with running_fleet(folder, "tiered", 2, missing_shard="degrade") as running:
        words = [word for word in flags(made, made.frontend, "", tls=False) if word.startswith("--metrics-config")]
        variables = {"ELASTICREC_ADDRESSES": str(running.addresses)}
        log = folder / "watched.log"
        front = running.stack.enter_context(
            serving(running.folder / "frontend", log, flags=words, environment=variables)
        )
        servers = [front, *(server for servers in running.shards.values() for server in servers)]
        targets = [re.sub(r"^http://|/metrics$", "", server.metrics) for server in servers]
        text = page(made, NAMESPACE)
        if ASIDE not in text_of(front.metrics):
            text += f'{ASIDE}{{namespace="{NAMESPACE}",model="small_router",service="tier1"}} 1\n'
        with exporting(text) as exporter, scraping(folder, targets, NAMESPACE, [exporter]) as prometheus:
            prometheus.wait_until_up(len(targets) + 1)
            with Load(running.spec, [front.grpc], QPS) as load:
                time.sleep(WINDOW_S + 2)
                well_s = time.time()
                ask_in_vain(running, front.grpc)
                prometheus_saw = Series(made, NAMESPACE, "5m").failures_per_s()
                eventually(lambda: sum(prometheus.ask(prometheus_saw)) > 0)
                (tier1,) = running.shards["tier1"]
                tier1.process.kill()
                eventually(lambda: metric(front, "elasticrec_degraded_queries_total") > 2 * QPS, timeout_s=60)
                time.sleep(1.5)
                yield Seen(prometheus, made, load, well_s, time.time())


def ask_in_vain(running: Running, address: str) -> None:
    """Ask for ids that no table has."""
    dense, indices = random_query(running.spec, 2, seed=5)
    indices[:, 0] = 10**6
    sdk = tritonclient.grpc.InferenceServerClient(address)
    for _ in range(BAD):
        with pytest.raises(InferenceServerException, match="out of range"):
            infer(sdk, running.spec, (dense, indices))
    sdk.close()


def test_every_query_of_the_dashboard_gives_series_with_the_labels_of_its_legend(seen: Seen) -> None:
    for panel in panels(seen.fleet, NAMESPACE):
        for legend, expression in panel.lines:
            found = seen.prometheus.labels(expression.replace("$__rate_interval", f"{WINDOW_S}s"), seen.bad_s)
            assert found, (panel.title, legend)
            assert all(set(labels) == set(re.findall(r"{{(\w+)}}", legend)) for labels in found), (panel.title, found)


def test_every_alert_compares_series_that_there_are(seen: Seen) -> None:
    """Left of the last comparison; an alert of absence has none while all is there."""
    for alert in alerts(seen.fleet, NAMESPACE):
        compared = re.fullmatch(r"(.*) (?:>|>=|<) .*", alert.expression)
        if compared is None:
            assert "absent" in alert.expression and seen.prometheus.ask(alert.expression, seen.well_s) == []
        else:
            assert seen.prometheus.ask(compared[1], seen.bad_s), alert.name


def test_queries_are_counted_as_the_clients_count_them(seen: Seen) -> None:
    counted = [seen.load.rate(seen.well_s - age, WINDOW_S) for age in (0, 0.25, 0.5)]
    answered = seen.prometheus.one(seen.series().queries_per_s(), seen.well_s)
    assert 0.9 * min(counted) <= answered <= 1.1 * max(counted)
    assert seen.prometheus.one(seen.series().failed_share(), seen.well_s) == 0


def test_a_failed_query_is_counted_once(seen: Seen) -> None:
    """Over all that was: Triton's own count of the ensemble is twice as high."""
    series, expected = seen.series("10m"), pytest.approx(BAD / (BAD + len(seen.load.done)), rel=0.1)
    assert seen.prometheus.one(series.failed_share(), seen.bad_s) == expected
    failed = sum(seen.prometheus.ask(series.failures_per_s(), seen.bad_s))
    assert failed / (failed + seen.prometheus.one(series.queries_per_s(), seen.bad_s)) == expected


def test_latencies_are_what_the_clients_saw(seen: Seen) -> None:
    quantiles = seen.prometheus.ask(seen.series().latency_ms(), seen.well_s)
    assert len(quantiles) == 3
    latencies = sorted(latency for when, latency in seen.load.done if when < seen.well_s)
    assert 0 < min(quantiles) <= 1000 * latencies[-1]
    assert max(quantiles) <= 1200 * latencies[-1]


def test_the_end_of_a_service_shows(seen: Seen) -> None:
    series = seen.series("30s")
    for when, gone in ((seen.well_s, False), (seen.bad_s, True)):
        for query in (series.degraded_per_s(), series.remote_failures_per_s(), series.remote_failed_share()):
            assert (max(seen.prometheus.ask(query, when)) > 0) == gone, query
    assert len(seen.prometheus.ask(series.scraped_pods(), seen.well_s)) == 3


def test_pods_and_memory_are_the_deployments(seen: Seen) -> None:
    """Of the page of exporters: wanted 3 of 4, ready 2, 300 of 400 bytes."""
    series = seen.series()
    for query, expected in (
        (series.wanted_pods(), 3),
        (series.most_pods(), 4),
        (series.ready_pods(), 2),
        (series.specified_pods(), 3),
        (series.memory_bytes(), 300),
        (series.memory_limit_bytes(), 400),
    ):
        assert seen.prometheus.ask(query, seen.bad_s) == 3 * [expected], query
        names = [labels["deployment"] for labels in seen.prometheus.labels(query, seen.bad_s)]
        assert sorted(names) == [service.name for service in seen.fleet.services], query
