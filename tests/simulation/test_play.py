"""The simulator against queues and scalings that can be computed by hand, and against a plain loop over seconds."""

import json
import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from repo_builder.errors import PlacementError
from repo_builder.partition.placement.cluster import Cluster, NodePool
from repo_builder.scaling.hpa import DEFAULT_DOWN, DEFAULT_UP, SYNC_S, Behavior, HpaSpec, MetricTarget
from repo_builder.scaling.queries import Throughput
from repo_builder.simulation.fleets import SimulatedFleet, SimulatedService, Timing
from repo_builder.simulation.play import SimulatedPods, Timeline, simulate
from repo_builder.simulation.report import Played, prices_over_time, report_csv, report_json, summarize
from repo_builder.traffic import Traffic
from tests.scaling.hpa_oracle import Oracle

WINDOW_S, SCRAPE_S = 30, 5
AT_ONCE = Behavior(DEFAULT_UP, replace(DEFAULT_DOWN, window_s=0))
GB = 10**9


@pytest.fixture(autouse=True, scope="module")
def _fixed_windows() -> Iterator[None]:
    """What is computed by hand below holds for these, whatever the rules say today."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("repo_builder.simulation.queues.WINDOW_S", WINDOW_S)
        patch.setattr("repo_builder.simulation.queues.SCRAPE_S", SCRAPE_S)
        yield


def service(name: str, qps: float = 100, most: int = 1000, share: float = 0.65, load_gb: int = 0) -> SimulatedService:
    """One that scales at a share of its capacity, on throughput alone."""
    target = MetricTarget("AverageValue", round(1000 * share * qps))
    hpa = HpaSpec(1, most, (target,), AT_ONCE)
    memory = (load_gb + 1) * GB
    return SimulatedService(name, qps, 0.01, memory, load_gb * GB, 1, hpa, (Throughput("model", "front"),))


def fleet(front: SimulatedService, *embedding: SimulatedService) -> SimulatedFleet:
    return SimulatedFleet("test", front, embedding, 0.001)


def traffic(*steps: tuple[float, float], end_s: float) -> Traffic:
    starts, rates = zip(*steps, strict=True)
    return Traffic(starts, rates, end_s)


def play(simulated: SimulatedFleet, steps: Traffic, start_s: float = 60, sla_s: float = 0.4) -> Timeline:
    return simulate(simulated, steps, Timing(start_s, GB), sla_s)


def test_constant_traffic_keeps_the_replicas_that_the_threshold_asks_for() -> None:
    found = play(fleet(service("front", 500), service("a", 100), service("b", 33)), traffic((0, 1000), end_s=3600))
    expected = [math.ceil(1000 / 65), math.ceil(1000 / 21.45), math.ceil(1000 / 325)]
    assert (found.replicas == expected).all() and (found.ready == expected).all()
    assert found.missed.sum() == 0
    assert found.arrived.sum() == pytest.approx(3_600_000)


def test_a_step_is_met_after_the_rate_is_seen_and_the_pods_have_started() -> None:
    # 10 pods of 100 queries/s at 65%; at 300 s the traffic doubles to 1,300, and 1,000/s are served. At 315 s the last
    # scrape, at 310, saw 10 s of the new rate in its 30: 650 + 350/3 = 767, 12 pods; at 330 s, 25 s: 942, 15 pods; and
    # then 1,000, for which 15 are within the tolerance
    found = play(fleet(service("front")), traffic((0, 650), (300, 1300), end_s=900))
    assert found.replicas[18:25, 0].tolist() == [10, 10, 10, 12, 15, 15, 15]
    assert found.ready[24:28, 0].tolist() == [10, 12, 15, 15]  # 60 s after they were asked for
    late = found.missed > 0
    assert not late[:20].any() and late[20:24].all()
    assert found.missed[20] == pytest.approx(1300 * 14)  # a backlog of 0.39 s is there after 1.3 s


def test_misses_end_when_the_backlog_is_gone() -> None:
    # the backlog grows by 300/s until 375 s and by 100/s until 390 s, to 24,000; 15 pods take 200/s of it until 465 s;
    # the 20 that were asked for at 405 s then take 700/s: it is gone at 478 s
    found = play(fleet(service("front")), traffic((0, 650), (300, 1300), end_s=1800))
    assert found.times_s[found.missed > 0].max() == 465
    assert 20 <= found.replicas[-1, 0] <= 22  # 1,300 / 65, and what the tolerance leaves


def test_without_capacity_all_queries_miss_from_the_first_overfull_moment_on() -> None:
    found = play(fleet(service("front", most=5)), traffic((0, 100), (60, 1000), end_s=600))
    # 1,000/s come, 200 are served at first, 500 with 5 pods: the backlog never shrinks
    assert found.missed[:4].sum() == 0
    assert found.missed[5:].sum() == pytest.approx(found.arrived[5:].sum())
    assert found.replicas.max() == 5
    assert summarize(Played(found, None)).at_maximum == ("front",)


def test_the_slowest_embedding_service_holds_up_the_front_end_which_then_does_not_scale() -> None:
    simulated = fleet(service("front", 100), service("slow", 100, most=2), service("fast", 100))
    found = play(simulated, traffic((0, 100), (60, 1000), end_s=1200))
    slow, fast, front = found.replicas[-1]
    assert slow == 2 and 16 <= fast <= 17  # 1,000 / 65, and what the tolerance leaves
    assert front == 3  # 200 queries/s come to it
    assert found.missed[-1] == found.arrived[-1]


def test_cold_starts_take_the_time_to_load() -> None:
    slow, quick = (
        play(fleet(service("front", load_gb=gb)), traffic((0, 100), (60, 1000), end_s=900)) for gb in (100, 1)
    )
    for found, start_s in ((slow, 160), (quick, 61)):
        asked, came = (found.times_s[np.argmax(counts[:, 0] > 2)] for counts in (found.replicas, found.ready))
        assert came - asked == pytest.approx(math.ceil(start_s / SYNC_S) * SYNC_S)
    assert slow.missed.sum() > quick.missed.sum()


def test_pods_that_still_start_are_the_first_to_go() -> None:
    found = play(fleet(service("front")), traffic((0, 650), (300, 1300), (345, 650), end_s=900), start_s=1000)
    assert found.replicas.max() == 15 and found.replicas[-1, 0] == 10
    assert (found.ready == 10).all()


def test_the_youngest_go_first() -> None:
    pods = SimulatedPods(service("front"), wanted=9, start_steps=60, ready=2, starting=[(60, 3), (75, 4)])
    pods.values_milli = [6 * 65_000]
    pods.sync(30, 30.0)
    assert (pods.wanted, pods.ready, pods.starting) == (6, 2, [(60, 3), (75, 1)])
    pods.values_milli = [65_000]
    pods.sync(45, 45.0)
    assert (pods.wanted, pods.ready, pods.starting) == (1, 1, [])


def test_no_traffic_leaves_the_minimum() -> None:
    found = play(fleet(service("front"), service("a")), traffic((0, 0), end_s=600))
    assert (found.replicas == 1).all()
    assert found.missed.sum() == found.arrived.sum() == 0
    assert summarize(Played(found, None)).missed_share == 0


def test_ten_thousand_replicas() -> None:
    found = play(fleet(service("front", most=20_000)), traffic((0, 65_000), (60, 650_000), end_s=1800))
    assert 10_000 <= found.replicas[-1, 0] <= 11_111


@pytest.mark.parametrize("end_s", [1.0, 100.0, 607.5])
def test_the_end_need_not_be_a_sync(end_s: float) -> None:
    found = play(fleet(service("front")), traffic((0, 100), end_s=end_s))
    assert found.arrived.sum() == pytest.approx(100 * end_s)
    assert len(found.times_s) == math.ceil(end_s / SYNC_S)


RATES = st.lists(st.integers(0, 2000), min_size=1, max_size=6)


@given(RATES, st.integers(1, 90), st.integers(3, 40))
@settings(max_examples=40, deadline=None)
def test_it_equals_a_loop_over_seconds(rates: list[int], start_s: int, most: int) -> None:
    steps = Traffic(tuple(90.0 * i for i in range(len(rates))), tuple(map(float, rates)), 90.0 * len(rates))
    one = service("front", most=most)
    found = play(fleet(one), steps, start_s=start_s)
    expected = _loop(one, steps, start_s)
    np.testing.assert_array_equal(found.replicas[:, 0], expected)


def _loop(one: SimulatedService, steps: Traffic, start_s: int) -> list[int]:
    """A service alone, second by second, a pod at a time, with the other HPA."""
    oracle, first = Oracle(one.hpa), steps.rates_qps[0]
    wanted = min(one.hpa.max_replicas, max(1, math.ceil(first / 65)))
    pods = [0.0] * wanted  # when each is ready
    done = {-t: -first * t for t in range(WINDOW_S + SCRAPE_S + 1)}
    arrived, sizes = 0.0, []
    for t in range(round(steps.end_s)):
        if t % 15 == 0:
            rate = (done[t - SCRAPE_S] - done[t - SCRAPE_S - WINDOW_S]) / WINDOW_S
            ready = sum(when <= t for when in pods)
            size = oracle.sync(len(pods), len(pods), ready, [int(1000 * rate + 1e-6) if ready else None], t)
            pods = sorted(pods)[:size] + [float(t + start_s)] * (size - len(pods))
            sizes.append(size)
        arrived += float(steps.rate(np.array([t]))[0])
        done[t + 1] = min(done[t] + 100 * sum(when <= t for when in pods), arrived)
    return sizes


def test_the_same_twice() -> None:
    simulated = fleet(service("front"), service("a", 77), service("b", 31, load_gb=9))
    steps = traffic((0, 300), (200, 900.5), (500.25, 100), end_s=900)
    first, second = (report_json([Played(play(simulated, steps), None)], {}, series=True) for _ in range(2))
    assert first == second


CLUSTER = Cluster(
    "c", (NodePool("small", None, 2000, 4 * GB, 0, 0, 1.0), NodePool("large", None, 64_000, 64 * GB, 0, 0, 8.0))
)


def test_the_price_is_that_of_the_cheapest_pools_parts() -> None:
    found = play(fleet(service("front", load_gb=1), service("a", load_gb=1)), traffic((0, 650), end_s=60))
    # 2 x 10 pods of a core and 2 GB: 20 of 2 cores at 1.0 each, or 40 of 64 GB at 8.0: 10.0 against 5.0
    np.testing.assert_allclose(prices_over_time(found, CLUSTER), 5.0)
    big = play(fleet(service("front", load_gb=30)), traffic((0, 650), end_s=60))
    np.testing.assert_allclose(prices_over_time(big, CLUSTER), 8.0 * 310 / 64)
    with pytest.raises(PlacementError, match=r"c: expected a pool whose nodes hold a replica of front, 101.0 GB"):
        prices_over_time(play(fleet(service("front", load_gb=100)), traffic((0, 1), end_s=60)), CLUSTER)


def test_reports_say_what_happened() -> None:
    found = play(fleet(service("front", load_gb=1)), traffic((0, 650), (300, 1300), end_s=1800))
    played = Played(found, prices_over_time(found, CLUSTER))
    summary = summarize(played)
    assert summary.peak_memory_bytes == 2 * GB * summary.peak_replicas == 2 * GB * int(found.replicas.max())
    assert summary.missed_share == pytest.approx(found.missed.sum() / (300 * 650 + 1500 * 1300))
    assert summary.price == pytest.approx(found.replicas.sum() * SYNC_S / 3600 * 8.0 * 2 / 64)
    document = json.loads(report_json([played], {"spec": "rm"}, series=True))
    series = document["fleets"][0]["series"]
    assert document["spec"] == "rm" and document["qps"][0] == 650 and document["seconds"][:2] == [0, 15]
    assert series["replicas"]["front"] == found.replicas[:, 0].tolist()
    rows = report_csv([played]).splitlines()
    assert rows[0] == "seconds,qps,fleet,replicas,ready,memory_bytes,missed_share,price_per_hour"
    assert rows[1] == "0.0,650.0,test,10,10,20000000000,0.0,2.5"
    assert len(rows) == 1 + len(found.times_s)
