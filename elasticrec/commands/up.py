"""`elasticrec up`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.live import Live

from elasticrec.commands.common import Commands, add_command, add_repository, bounded, out, warn
from elasticrec.commands.fleet_arguments import add_force, service_replicas
from k8s.options import CLAIM, ManifestOptions, parse_source
from k8s.render import write
from repo_builder.endings import on_ending
from repo_builder.local_fleet.fleet import LocalFleet, UpOptions, local_fleet
from repo_builder.local_fleet.views import live_view
from repo_builder.repository.built_fleet import BuiltFleet
from repo_builder.scaling.hpa import SYNC_S
from repo_builder.scaling.rules import ScalingOptions

RENDER = Path("-")  # no folder given: render the rules


def add(commands: Commands) -> None:
    """The command's words and help."""
    parser = add_command(
        commands,
        "up",
        "Start one tritonserver a replica of every service, on free ports of 127.0.0.1, and keep them running: one\n"
        "that dies is replaced, on the same ports. Prints the front ends' addresses, and `ready` when all are.\n"
        "Ctrl-C, or elasticrec down, stops all; the logs stay, in DIR.run/logs. Clients may follow\n"
        "DIR.run/addresses.json, where the ready replicas of every service stand, the front ends too: one that is\n"
        "to stop leaves it three seconds before.",
        "elasticrec up fleet/rm1 --replicas frontend=1 --replicas tier0=2 --autoscale --status-port 8080",
    )
    add_repository(parser)
    parser.add_argument(
        "--replicas",
        type=service_replicas,
        action="append",
        default=[],
        metavar="SERVICE=N",
        help="start N replicas of a service (default: the plan's)",
    )
    parser.add_argument(
        "--autoscale",
        nargs="?",
        const=RENDER,
        type=Path,
        metavar="OUT",
        help="follow the ScaledObjects that elasticrec k8s wrote into OUT, or would write of DIR, as KEDA and "
        "Kubernetes do; their queries go to a Prometheus of this machine (Debian package prometheus): a way to "
        "try rules, not a product",
    )
    parser.add_argument(
        "--sync-s",
        type=bounded(float, 0.5, 300),
        default=SYNC_S,
        metavar="S",
        help="seconds between the autoscaler's decisions (default: %(default)g, Kubernetes' own)",
    )
    add_force(parser)
    for name, what in (("prometheus", "Prometheus"), ("status", "the status page")):
        parser.add_argument(
            f"--{name}-port",
            type=bounded(int, 1, 65535),
            metavar="N",
            help=f"of {what} on 127.0.0.1 (default: a free one)",
        )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Do what they ask for."""
    options = UpOptions(
        repository=args.repository.resolve(),
        replicas=dict(args.replicas),
        autoscale=args.autoscale is not None,
        rules=None if args.autoscale == RENDER else args.autoscale,
        write_rules=_write_rules,
        sync_s=args.sync_s,
        prometheus_port=args.prometheus_port,
        status_port=args.status_port,
        force=args.force,
    )
    with local_fleet(options) as fleet:
        on_ending(lambda *_: fleet.supervisor.stop())
        if sys.stdout.isatty():
            with Live(get_renderable=lambda: live_view(fleet.status()), console=out, refresh_per_second=2):
                fleet.serve(_Warning(fleet).show)
        else:
            plain = _Plain(fleet)
            fleet.serve(plain.show)
            plain.show()


def _write_rules(fleet: BuiltFleet, scaling: ScalingOptions, folder: Path) -> None:
    """What `elasticrec k8s` writes, asking the Prometheus of this machine."""
    write(fleet, ManifestOptions(parse_source(CLAIM), prometheus=scaling.prometheus), folder)


class _Warning:
    """Says once, when all is up, what is known to end servers of this version."""

    def __init__(self, fleet: LocalFleet) -> None:
        self._fleet = fleet
        self._asked = False

    def show(self) -> None:
        if self._fleet.supervisor.phase == "up" and not self._asked:
            self._asked = True
            if told := self._fleet.warning():
                warn(told)


class _Plain:
    """Prints what happens line by line, and where the front ends are once all is up."""

    def __init__(self, fleet: LocalFleet) -> None:
        self._fleet = fleet
        self._announced = False
        self._warning = _Warning(fleet)

    def show(self) -> None:
        self._warning.show()
        for line in self._fleet.events.new():
            print(line, flush=True)
        if self._fleet.supervisor.phase == "up" and not self._announced:
            self._announced = True
            found = self._fleet.status()
            print(f"status      {found['page']}")
            print(f"prometheus  {found['prometheus'] or 'none'}")
            for replica in found["services"][0]["replicas"]:
                print(f"{replica['name']}  grpc {replica['grpc']}  http {replica['http']}")
            print("ready", flush=True)
