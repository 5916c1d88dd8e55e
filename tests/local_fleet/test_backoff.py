"""Waits between restarts."""

from repo_builder.local_fleet.services import LONGEST_S, STEADY_S, Backoff


def test_each_wait_is_twice_the_last_up_to_the_longest() -> None:
    backoff, waits = Backoff(), []
    assert backoff.may_start(0.0)
    for _ in range(50):
        backoff = backoff.failed(100.0, ran_s=1.0)
        waits.append(backoff.until_s - 100.0)
    assert waits[:5] == [1, 2, 4, 8, 16]
    assert set(waits[5:]) == {LONGEST_S}
    assert not backoff.may_start(100.0 + LONGEST_S - 0.1) and backoff.may_start(100.0 + LONGEST_S)


def test_what_ran_long_had_recovered() -> None:
    backoff = Backoff().failed(0.0, ran_s=1.0).failed(0.0, ran_s=1.0).failed(0.0, ran_s=STEADY_S)
    assert backoff.until_s == 1.0
