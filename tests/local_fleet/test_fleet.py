"""A thread that no error ends."""

import threading

from repo_builder.local_fleet.fleet import Periodic


def test_an_error_is_told_once_and_the_thread_goes_on() -> None:
    told: list[str] = []
    errors = iter([IndexError("one word"), IndexError("one word"), None, IndexError("one word"), OSError("disk")])
    done = threading.Event()

    def act() -> None:
        try:
            error = next(errors)
        except StopIteration:
            done.set()
            return
        if error:
            raise error

    with Periodic("sampler", 0.001, act, told.append):
        assert done.wait(30)
    assert told == ["sampler: IndexError: one word; it goes on", "sampler: OSError: disk; it goes on"]


def test_it_has_ended_with_the_block() -> None:
    calls: list[int] = []
    with Periodic("autoscaler", 0.001, lambda: calls.append(1), print):
        while not calls:
            threading.Event().wait(0.001)
    count = len(calls)
    assert "autoscaler" not in [thread.name for thread in threading.enumerate()] and len(calls) == count
