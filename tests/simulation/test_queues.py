"""Fluid queues against loops over steps and against queues whose waits are known."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from repo_builder.simulation.queues import STEP_S, served, waits_s

AMOUNTS = st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50), st.integers(0, 50)), min_size=1, max_size=30)


@given(AMOUNTS, st.integers(0, 40))
def test_served_is_the_recurrence_step_by_step(amounts: list[tuple[int, int, int]], backlog: int) -> None:
    arrived = backlog + np.cumsum([float(came) for came, _, _ in amounts])
    capacity = np.array([[first, second] for _, first, second in amounts], float)
    done, expected = [0.0, 0.0], []
    for total, room in zip(arrived, capacity, strict=True):
        done = [min(before + more, total) for before, more in zip(done, room, strict=True)]
        expected.append(done)
    np.testing.assert_allclose(served(np.zeros(2), arrived[:, None], capacity), expected, atol=1e-9)


def test_a_wait_is_the_backlog_over_the_capacity() -> None:
    # 20 queries/s come for 10 s and 10 leave: after t seconds 10 t wait, so the next one waits t seconds
    arrived = 20.0 * np.minimum(np.arange(41), 10)
    done = np.minimum(10.0 * np.arange(41), arrived)
    middle = np.arange(10) + 0.5
    np.testing.assert_allclose(waits_s(arrived, done, 10)[:10], middle)


def test_without_a_backlog_nobody_waits() -> None:
    arrived = np.array([0.0, 5, 6, 9, 30])
    assert not waits_s(arrived, arrived, 100).any()


def test_a_wait_ends_when_capacity_comes() -> None:
    # nothing is served for 5 s, then all: what comes in the middle of second k waits until then
    arrived = 10.0 * np.arange(11)
    done = np.where(np.arange(11) < 5, 0.0, np.minimum(arrived, 1000 * (np.arange(11) - 5.0)))
    waits = waits_s(arrived, done, 1000)[:5]
    exact = 4.5 - np.arange(5)
    assert (exact <= waits).all() and (waits <= exact + STEP_S).all()


def test_what_is_left_at_the_end_waits_for_the_last_capacity_or_for_ever() -> None:
    arrived, done = np.array([0.0, 10, 20]), np.array([0.0, 5, 10])
    np.testing.assert_allclose(waits_s(arrived, done, 5), [0.5, 1.5])
    np.testing.assert_array_equal(waits_s(arrived, np.zeros(3), 0), [np.inf, np.inf])
