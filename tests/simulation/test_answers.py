"""What the scaling rules' queries answer in a simulation."""

import numpy as np
import pytest

from repo_builder.scaling.queries import SCRAPE_S, WINDOW_S, GuardedLatency, QueueTime, Throughput
from repo_builder.simulation.queues import Counters, Observation, answers_milli

QUEUE = QueueTime(("m",), 40_000.0)
QUERIES = (GuardedLatency("m", 260_000.0, 65.0, QUEUE), Throughput("m"), QUEUE)


def test_a_steady_stream_has_its_rate_and_no_queue() -> None:
    assert Counters.begin(2, 130.0).observe([3, 4], 0.012)[1] == Observation(
        pytest.approx(130.0), pytest.approx(130.0), 0.0, pytest.approx(12_000), 4
    )


def test_waits_are_the_queue_over_the_rate() -> None:
    sent = 100.0 * np.arange(WINDOW_S + SCRAPE_S + 1)
    came = np.stack([sent, sent - 50], axis=1)
    counters = Counters(sent, came, came - np.array([0, 200]))
    first, second = counters.observe([4, 4], 0.012)
    assert first == Observation(pytest.approx(100), pytest.approx(100), 0, pytest.approx(12_000), 4)
    # 200 queries wait in the second service's own queue, and 250 are on their way since they were sent
    assert second == Observation(pytest.approx(100), pytest.approx(100), pytest.approx(2e6), pytest.approx(2.512e6), 4)


def test_what_has_just_happened_is_not_seen_before_a_scrape() -> None:
    counters = Counters.begin(1, 100.0)
    burst = 1000.0 * np.arange(1, SCRAPE_S + 1)
    counters.add(burst, burst[:, None], burst[:, None])
    assert counters.observe([1], 0.0)[0].rate_qps == pytest.approx(100)


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (Observation(500.0, 500.0, 1000.0, 100_000.0, 10), [100_000, 500, 1000]),
        (Observation(500.0, 500.0, 9e9, 9e9, 10), [520_000, 500, 80_000]),  # Values are cut off at two thresholds
        (Observation(100.0, 100.0, 1000.0, 300_000.0, 10), [0, 100, 1000]),  # neither busy nor queued: others are slow
        (Observation(100.0, 100.0, 20_000.0, 300_000.0, 10), [300_000, 100, 20_000]),
        (Observation(325.0, 325.0, 0.0, 300_000.0, 10), [300_000, 325, 0]),
    ],
)
def test_the_queries_clamps_and_guards(seen: Observation, expected: list[int]) -> None:
    assert answers_milli(QUERIES, seen) == [1000 * value for value in expected]


def test_without_a_pod_there_is_no_answer() -> None:
    assert answers_milli(QUERIES, Observation(0, 0, 0, 0, 0)) == [None, None, None]


def test_an_embedding_service_counts_the_front_ends_queries_if_these_are_more() -> None:
    sent = 100.0 * np.arange(WINDOW_S + SCRAPE_S + 1)
    done = np.stack([0.5 * sent, 0.2 * sent, 0.3 * sent], axis=1)  # the front end is the last
    counters = Counters(sent, done, done)
    seen, query = counters.observe([1, 1, 1], 0.0), Throughput("shard", "front")
    assert [answers_milli([query], each)[0] for each in seen] == pytest.approx([50_000, 30_000, 30_000], abs=1)
    assert answers_milli([Throughput("front")], seen[1])[0] == pytest.approx(20_000, abs=1)
