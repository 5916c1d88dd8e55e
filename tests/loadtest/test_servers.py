"""What is read of the servers behind a load test: arithmetic here, real fleets in tests/integration/test_up.py."""

import numpy as np
import pytest

from loadtest.run import Seen, ServiceTimes, timeline
from loadtest.servers import between
from repo_builder.serving.client import ModelTimes
from repo_builder.serving.processes import find_server


def test_times_are_of_the_requests_between_two_readings_over_all_replicas() -> None:
    """100 requests of 1 + 2 ms at one replica, 300 of 3 + 6 ms at another; what was before does not count."""
    before = {("a", "tier0"): ModelTimes(50, 40, 9.0, 9.0), ("b", "tier0"): ModelTimes(0, 0, 0.0, 0.0)}
    after = {
        ("a", "tier0"): ModelTimes(150, 100, (50 * 9 + 100 * 1) / 150, (50 * 9 + 100 * 2) / 150),
        ("b", "tier0"): ModelTimes(300, 200, 3.0, 6.0),
    }
    found = between(before, after)
    assert list(found) == ["tier0"]
    times = found["tier0"]
    assert (times.requests, times.executions) == (400, 260)
    assert (times.queue_ms, times.compute_ms) == pytest.approx((2.5, 5.0))


def test_a_replica_that_came_went_or_began_again_is_left_out() -> None:
    before = {("gone", "m"): ModelTimes(5, 5, 1.0, 1.0), ("again", "m"): ModelTimes(9, 9, 1.0, 1.0)}
    after = {("new", "m"): ModelTimes(5, 5, 1.0, 1.0), ("again", "m"): ModelTimes(2, 2, 1.0, 1.0)}
    assert between(before, after) == {}
    assert between({}, {}) == {}


def test_a_model_that_was_not_called_has_no_times() -> None:
    same = {("a", "m"): ModelTimes(5, 5, 1.0, 1.0)}
    assert between(same, same) == {}


def test_only_a_tritonserver_is_found_by_its_address() -> None:
    assert find_server("127.0.0.1:9") is None
    assert find_server("no.such.host.invalid:8001") is None


def test_a_second_shows_the_last_look_before_its_end() -> None:
    looks = [(101.5, Seen({"tier0": 7}, {"tier0": 1})), (103.2, Seen({"tier0": 9}, {"tier0": 2}))]
    due_s = np.array([100.0, 100.5, 104.5])
    samples = timeline(due_s, np.ones(3), np.zeros(3, bool), looks=looks)
    assert [dict(sample.replicas) for sample in samples] == [{}, *[{"tier0": 1}] * 2, *[{"tier0": 2}] * 2]
    assert [sample.memory_bytes.get("tier0") for sample in samples] == [None, 7, 7, 9, 9]


def test_times_keep_their_type() -> None:
    (times,) = between({("a", "m"): ModelTimes(0, 0, 0.0, 0.0)}, {("a", "m"): ModelTimes(2, 1, 1.5, 2.5)}).values()
    assert times == ServiceTimes(2, 1, 1.5, 2.5)
