"""A whole fleet on this machine: its parts put together, and taken apart again."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from repo_builder.errors import ServerError
from repo_builder.local_fleet.autoscaler import Autoscaler
from repo_builder.local_fleet.control import listening
from repo_builder.local_fleet.machine import FreePorts, capacity_here
from repo_builder.local_fleet.prometheus import INSTALL, Prometheus, ask_prometheus, find_prometheus
from repo_builder.local_fleet.run_folder import Events, RunFolder, Tell, claimed
from repo_builder.local_fleet.services import Launch
from repo_builder.local_fleet.status import PERIOD_S, Sampler, Status, page_status, status
from repo_builder.local_fleet.supervisor import Control, Supervisor
from repo_builder.local_fleet.views import status_page
from repo_builder.repository.built_fleet import BuiltFleet, load_fleet
from repo_builder.repository.manifest import verify
from repo_builder.scaling.edited import load_rules
from repo_builder.scaling.queries import NAMESPACE, latency_flags
from repo_builder.scaling.rules import FleetRules, ScalingOptions, fleet_rules
from repo_builder.serving import faults
from repo_builder.serving.install import Installation, check_gpus, installation
from repo_builder.serving.server import remove_caches

_PLAIN_TEXT = {"ELASTICREC_TLS_CA": "", "ELASTICREC_TLS_CERT": "", "ELASTICREC_TLS_KEY": ""}  # it is all one machine


WriteRules = Callable[[BuiltFleet, ScalingOptions, Path], object]


@dataclass(frozen=True, slots=True)
class UpOptions:
    """What to run.

    replicas: by service, where they differ from the plan's; rules: the folder of manifests to scale by, or None for the
    fleet's own; write_rules: writes those into a folder, for people to read; ports: None is a free one; force: start
    more replicas than the machine holds.
    """

    repository: Path
    replicas: Mapping[str, int]
    autoscale: bool
    rules: Path | None
    write_rules: WriteRules
    sync_s: float
    prometheus_port: int | None
    status_port: int | None
    force: bool


class LocalFleet:
    """A fleet whose parts are in place; nothing is served before `serve`."""

    def __init__(self, supervisor: Supervisor, events: Events) -> None:
        self.supervisor = supervisor
        self.events = events
        self.sampler = Sampler(supervisor.services.values())
        self.prometheus: Prometheus | None = None
        self.links: dict[str, str | None] = {"page": None, "prometheus": None, "rules": None}

    def serve(self, show: Callable[[], None]) -> None:
        """Run all replicas until the fleet is told to stop; `show` is called some times per second.

        Raises ServerError where a replica fails before every service was ready once.
        """

        def tick() -> None:
            if self.prometheus:
                self.prometheus.tick()
            show()

        self.supervisor.run(tick)

    def warning(self) -> str | None:
        """What is known to end servers of the version that a ready front end says it has; None where nothing is."""
        frontend, *_ = self.supervisor.services.values()
        versions = [faults.version_of(replica.server.http) for replica in frontend.ready if replica.server]
        return next((faults.warning(version) for version in versions if version), None)

    def status(self) -> Status:
        """What it is doing."""
        return status(self.supervisor, self.sampler, self.events, self.links)

    def page_status(self) -> Status:
        """The same with totals and the last minutes."""
        return page_status(self.status(), self.sampler)


@contextmanager
def local_fleet(options: UpOptions) -> Iterator[LocalFleet]:
    """Check the repository, claim its run folder, and prepare a fleet that can be served once while the block lasts.

    Raises RepositoryError where a file is missing or changed; InputError where the fleet is up already, a service is
    unknown, rules are wrong, or the machine is too small; ServerError where there is no tritonserver, no Prometheus to
    scale by, or a port is taken.
    """
    fleet = load_fleet(options.repository)
    run = RunFolder.of(options.repository)
    with ExitStack() as stack:
        stack.enter_context(claimed(run))
        _check(fleet, options.repository)
        installed = stack.enter_context(installation())
        events = Events(run.events)
        ports = FreePorts()
        watcher = _prometheus(options, run, events, ports)
        rules, folder = _rules(fleet, options, run, watcher)
        namespace = rules.namespace if rules else NAMESPACE
        capacity = None if options.force else capacity_here(fleet)
        launches = _launches(fleet, run, installed, ports)
        supervisor = Supervisor(fleet, run, _planned(fleet), launches, events, namespace, capacity)
        supervisor.check(options.replicas, force=True)
        for name, replicas in options.replicas.items():
            supervisor.scale(name, replicas)
        supervisor.check_room()
        local = LocalFleet(supervisor, events)
        # first, so that it ends last: `down` returns when nothing runs any more
        stack.enter_context(listening(run, Control(supervisor, events, local.status).handle))
        stack.enter_context(Periodic("sampler", PERIOD_S, local.sampler.sample, events.tell))
        if watcher:
            local.prometheus = stack.enter_context(watcher)
            local.links["prometheus"] = watcher.url
        if rules and watcher:
            local.links["rules"] = str(folder)
            autoscaler = Autoscaler(rules.by_service, supervisor, partial(ask_prometheus, watcher.url), events.tell)
            stack.enter_context(
                Periodic("autoscaler", options.sync_s, partial(_sync, autoscaler, supervisor), events.tell)
            )
        local.links["page"] = stack.enter_context(status_page(options.status_port or 0, local.page_status))
        yield local


def _prometheus(options: UpOptions, run: RunFolder, events: Events, ports: FreePorts) -> Prometheus | None:
    binary = find_prometheus()
    if binary is not None:
        return Prometheus(binary, options.prometheus_port or ports.take().http, run, events)
    if options.autoscale or options.prometheus_port:
        raise ServerError(f"prometheus: not on PATH, and --autoscale and --prometheus-port need it; run: {INSTALL}")
    events.tell(f"no prometheus on PATH: the fleet runs without; to have one: {INSTALL}")
    return None


def _rules(
    fleet: BuiltFleet, options: UpOptions, run: RunFolder, watcher: Prometheus | None
) -> tuple[FleetRules | None, Path | None]:
    """What to scale by, and the folder where it stands."""
    if not options.autoscale or watcher is None:
        return None, None
    if options.rules is not None:
        return load_rules(fleet, options.rules), options.rules
    chosen = ScalingOptions(prometheus=watcher.url)
    options.write_rules(fleet, chosen, run.rules)
    return fleet_rules(fleet, chosen), run.rules


def _sync(autoscaler: Autoscaler, supervisor: Supervisor) -> None:
    if supervisor.phase == "up":
        autoscaler.sync(time.monotonic())


def _check(fleet: BuiltFleet, repository: Path) -> None:
    """Every file is hashed: a flipped bit in a weight would make no error but wrong scores."""
    for service in fleet.services:
        remove_caches(repository / service.folder)  # of servers that were killed
        check_gpus(repository / service.folder)
    verify(repository)


def _planned(fleet: BuiltFleet) -> Mapping[str, int]:
    return {service.folder: service.planned.deployed for service in fleet.services}


def _launches(fleet: BuiltFleet, run: RunFolder, installed: Installation, ports: FreePorts) -> Mapping[str, Launch]:
    """As `serve` starts servers, with the latency summaries that a front end's pod has, here for every service."""
    environment = {"ELASTICREC_ADDRESSES": str(run.addresses), **_PLAIN_TEXT}
    return {
        service.folder: Launch(
            installed, run.repository / service.folder, run.logs, latency_flags(), environment, ports
        )
        for service in fleet.services
    }


class Periodic:
    """Calls `act` every `period_s` while a `with` block lasts, in a thread of its own.

    An error ends one call, not the thread: `tell` hears of it once, and again when another one comes.
    """

    def __init__(self, name: str, period_s: float, act: Callable[[], None], tell: Tell) -> None:
        self._name = name
        self._period_s = period_s
        self._act = act
        self._tell = tell
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        told = ""
        while not self._stop.wait(self._period_s):
            try:
                self._act()
            except Exception as exc:  # noqa: BLE001 - the one guard of a thread that nobody would miss in time
                failure = f"{type(exc).__name__}: {exc}"
                if failure != told:
                    self._tell(f"{self._name}: {failure}; it goes on")
                told = failure
