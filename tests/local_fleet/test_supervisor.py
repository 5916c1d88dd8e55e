"""The supervisor with replicas that start no server."""

import json
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from repo_builder.errors import InputError
from repo_builder.local_fleet import services
from repo_builder.local_fleet import supervisor as supervisor_module
from repo_builder.local_fleet.machine import GIB, Capacity, Need
from repo_builder.local_fleet.run_folder import Events, RunFolder
from repo_builder.local_fleet.supervisor import AT_ONCE, Control, Supervisor
from repo_builder.serving.server import Ports

MOST = 1000  # by which a test that would start servers without end gives up


class FakeReplica:
    """Loads until it is told otherwise."""

    made: ClassVar[list["FakeReplica"]] = []

    def __init__(self, name: str, _launch: object, changed: threading.Event, ports: Ports | None) -> None:
        assert len(self.made) < MOST, "starts servers without end"
        self.name, self.wished, self._changed = name, ports, changed
        self.state = "starting"
        self.server: Any = None
        self.log, self.error = Path(f"{name}.log"), None
        self.drained_at_s: float | None = None
        self.ready_at_s: float | None = None
        self.made.append(self)

    def serve(self, ports: Ports) -> None:
        self.server = SimpleNamespace(calls=f"127.0.0.1:{ports.calls}", host="127.0.0.1", ports=ports)
        self.state, self.ready_at_s = "ready", time.monotonic()

    def die(self) -> None:
        self.state, self.error = "ended", "tritonserver was ended by SIGSEGV"

    def stop(self) -> None:
        self.state = "ended"

    def join(self) -> None:
        pass


@pytest.fixture(autouse=True)
def replicas(monkeypatch: pytest.MonkeyPatch) -> list[FakeReplica]:
    FakeReplica.made.clear()
    monkeypatch.setattr(services, "Replica", FakeReplica)
    return FakeReplica.made


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    run = RunFolder.of(tmp_path / "fleet")
    run.logs.mkdir(parents=True)
    return run


def supervisor(run: RunFolder, capacity: Capacity | None = None) -> Supervisor:
    names = ("frontend", "tier0", "tier1")
    services = tuple(SimpleNamespace(folder=name, is_frontend=name == "frontend") for name in names)
    fleet = SimpleNamespace(model="small", services=services)
    return Supervisor(fleet, run, dict.fromkeys(names, 1), dict.fromkeys(names), Events(run.events), "x", capacity)


def step(started: Supervisor) -> None:
    started._step()


def test_a_few_are_started_at_a_time_whatever_is_wanted_and_the_fleet_still_stops(
    run: RunFolder, replicas: list[FakeReplica]
) -> None:
    started = supervisor(run)
    started.scale("tier0", 100_000_000)
    thread = threading.Thread(target=started.run, args=(lambda: None,))
    thread.start()
    while len(replicas) < AT_ONCE:
        time.sleep(0.01)
    time.sleep(0.5)
    assert len(replicas) == AT_ONCE and {each.name for each in replicas[:2]} == {"tier0-1", "tier1-1"}
    started.stop()
    thread.join(30)
    assert not thread.is_alive() and all(each.state == "ended" for each in replicas)


def test_a_service_that_wants_many_does_not_keep_others_from_starting(
    run: RunFolder, replicas: list[FakeReplica]
) -> None:
    started = supervisor(run)
    started.scale("tier0", 100_000_000)
    for round in range(4):
        step(started)
        for i, each in enumerate(replicas):
            if each.state == "starting":
                each.serve(Ports(1000 * round + i, 2000 * round + i, 3000 * round + i, 4000 * round + i))
    assert {"frontend-1", "tier1-1", "tier0-2"} <= {each.name for each in replicas}


def test_who_replaces_a_dead_replica_gets_its_ports_and_nobody_else_does(
    run: RunFolder, replicas: list[FakeReplica], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(services.Backoff, "may_start", lambda *_: True)
    started = supervisor(run)
    step(started)
    assert [each.wished for each in replicas] == [None] * AT_ONCE
    for i, each in enumerate(replicas):
        each.serve(Ports(10 + i, 20 + i, 30 + i))
    started.phase = "up"
    tier0 = next(each for each in replicas if each.name == "tier0-1")
    tier0.die()
    step(started)
    (after,) = [each for each in replicas if each.name == "tier0-2"]
    assert after.wished == tier0.server.ports
    started.scale("tier0", 2)
    after.serve(after.wished)
    step(started)
    (newcomer,) = [each for each in replicas if each.name == "tier0-3"]
    assert newcomer.wished is None


def test_front_ends_are_told_where_calls_are_taken(run: RunFolder, replicas: list[FakeReplica]) -> None:
    started = supervisor(run)
    step(started)
    for i, each in enumerate(replicas):
        each.serve(Ports(10 + i, 20 + i, 30 + i, 40 + i))
    step(started)
    told = json.loads(run.addresses.read_text())
    assert [told[each.name.removesuffix("-1")] for each in replicas[:2]] == [["127.0.0.1:40"], ["127.0.0.1:41"]]


def test_a_disk_that_is_full_ends_nothing_and_the_files_come_later(
    run: RunFolder, replicas: list[FakeReplica], monkeypatch: pytest.MonkeyPatch
) -> None:
    started = supervisor(run)
    replace, full = supervisor_module.replace_file, [True]

    def replacing(path: Path, text: str) -> None:
        if full:
            raise OSError(28, "No space left on device", str(path))
        replace(path, text)

    monkeypatch.setattr(supervisor_module, "replace_file", replacing)
    step(started)
    step(started)
    assert run.events.read_text().count("No space left on device") == 1
    full.clear()
    step(started)
    assert json.loads(run.addresses.read_text()) == {"frontend": [], "tier0": [], "tier1": []}


def test_what_is_asked_for_is_bounded_but_by_force_and_one_may_always_ask_for_less(run: RunFolder) -> None:
    needs = dict.fromkeys(("frontend", "tier0", "tier1"), Need(0, GIB))
    started = supervisor(run, Capacity(cores=1, memory_bytes=100 * GIB, needs=needs))
    control = Control(started, Events(run.events), dict)

    def scale(number: int, **more: object) -> object:
        return control.handle({"do": "scale", "replicas": {"tier0": number}, **more})

    with pytest.raises(InputError, match=r"100,000,002 servers, and 1 core runs 8 at most; .* add --force"):
        scale(100_000_000)
    with pytest.raises(InputError, match="too many"):
        scale(7, force="yes")
    assert started.services["tier0"].wanted == 1
    assert scale(6) == "scaling" and started.most("tier0") == 6
    assert scale(50, force=True) == "scaling"
    assert scale(49) == "scaling" and started.services["tier0"].wanted == 49
    with pytest.raises(InputError, match="too many"):
        started.check_room()
