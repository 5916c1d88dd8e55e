"""When queries fall due, with the clock in hand."""

import math

import numpy as np
import pytest
from scipy.stats import kstest

from loadtest import sender
from loadtest.sender import Arrivals


class Clock:
    """Stands in for `time`."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def perf_counter(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(sender, "time", clock)
    return clock


def test_an_arrival_is_due_when_the_rate_has_added_up_to_it(clock: Clock) -> None:
    """Against the rate summed up in steps of 0.1 ms."""
    process = Arrivals(seed=1)
    changes = {0.0: 20.0, 1.0: 0.0, 3.0: 100.0, 3.5: 7.0}
    for after_s, qps in changes.items():
        clock.now_s = 100 + after_s
        process.change(qps)
    steps_s = np.arange(0, 8, 1e-4)
    rates = np.select([steps_s < 1, steps_s < 3, steps_s < 3.5], [20.0, 0.0, 100.0], 7.0)
    added = np.concatenate([[0], np.cumsum(rates * 1e-4)])
    taken = [process.take() for _ in range(80)]
    due_s = [process.due_s(arrival) - 100 for arrival in taken]
    np.testing.assert_allclose(due_s, np.interp(taken, added, np.append(steps_s, 8.0)), atol=2e-4)
    assert sum(3 < at_s < 3.5 for at_s in due_s) > 25  # 50 are expected


def test_gaps_are_exponential(clock: Clock) -> None:
    process = Arrivals(seed=2)
    process.change(50)
    due_s = [process.due_s(process.take()) for _ in range(4000)]
    assert kstest(np.diff(due_s), "expon", args=(0, 1 / 50)).pvalue > 0.001


def test_a_pause_forgets_what_was_due_and_not_sent(clock: Clock) -> None:
    process = Arrivals(seed=3)
    process.change(10)
    first = process.take()
    clock.now_s += 60
    process.change(0)
    assert process.paused and process.is_forgotten(first)
    later = process.take()
    assert not process.is_forgotten(later) and process.due_s(later) == math.inf
    clock.now_s += 60
    process.change(10)
    assert clock.now_s < process.due_s(later) < clock.now_s + 5


def test_what_a_busy_sender_has_not_sent_stays_due(clock: Clock) -> None:
    process = Arrivals(seed=4)
    process.change(10)
    clock.now_s += 60
    process.change(20)
    assert process.due_s(process.take()) < 102
