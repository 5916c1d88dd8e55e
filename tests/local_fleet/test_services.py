"""Replicas, and waits between restarts."""

import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from repo_builder.local_fleet import services
from repo_builder.local_fleet.machine import FreePorts
from repo_builder.local_fleet.services import LONGEST_S, STEADY_S, Backoff, Launch, Replica, superfluous
from repo_builder.serving.install import Installation


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


def test_those_that_load_go_before_those_that_serve_and_the_newest_first() -> None:
    states = ["ready", "starting", "ready", "starting", "ready"]
    replicas = [SimpleNamespace(name=i, state=state) for i, state in enumerate(states)]
    for wanted, gone in ((5, []), (4, [3]), (3, [1, 3]), (2, [4, 1, 3]), (1, [2, 4, 1, 3])):
        assert [replica.name for replica in superfluous(replicas, wanted)] == gone


def test_whatever_ends_a_replicas_thread_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def failing(*_: object, **__: object) -> None:
        raise IndexError("one word")

    monkeypatch.setattr(services, "running", failing)
    ports, changed = FreePorts(), threading.Event()
    replica = Replica("tier0-1", Launch(Installation(tmp_path), tmp_path, tmp_path, (), {}, ports), changed)
    replica.join()
    assert replica.state == "ended" and replica.error == "IndexError: one word" and changed.is_set()
