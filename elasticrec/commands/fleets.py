"""`elasticrec up`, `ps`, `scale`, `logs` and `down`: a fleet on this machine; and `k8s`: one on Kubernetes."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from pathlib import Path

from rich.live import Live

from elasticrec import fleets
from elasticrec.cli import on_ending
from elasticrec.commands.common import Commands, add_command, add_repository, bounded, out, say, tell, warn
from k8s.options import CLAIM, IMAGE
from k8s.render import DOCUMENT
from repo_builder.local_fleet.fleet import LocalFleet
from repo_builder.local_fleet.views import live_view, replica_table
from repo_builder.repository.built_fleet import load_fleet
from repo_builder.scaling.hpa import SYNC_S
from repo_builder.scaling.queries import NAMESPACE
from repo_builder.scaling.rules import LATENCY_SHARE, PROMETHEUS
from repo_builder.words import count

RENDER = Path("-")  # no folder given: render the rules


def add_up(commands: Commands) -> None:
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
    parser.set_defaults(run=_up)


def _up(args: argparse.Namespace) -> None:
    started = fleets.up(
        args.repository,
        replicas=dict(args.replicas),
        autoscale=args.autoscale is not None,
        rules=None if args.autoscale == RENDER else args.autoscale,
        sync_s=args.sync_s,
        prometheus_port=args.prometheus_port,
        status_port=args.status_port,
        force=args.force,
    )
    with started as fleet:
        on_ending(lambda *_: fleet.supervisor.stop())
        if sys.stdout.isatty():
            with Live(get_renderable=lambda: live_view(fleet.status()), console=out, refresh_per_second=2):
                fleet.serve(_Warning(fleet).show)
        else:
            plain = _Plain(fleet)
            fleet.serve(plain.show)
            plain.show()


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


def add_ps(commands: Commands) -> None:
    """The command's words and help."""
    parser = add_command(
        commands,
        "ps",
        "What elasticrec up runs for DIR: services and replicas with their state, addresses, traffic and memory.",
        "elasticrec ps fleet/rm1 --json",
    )
    add_repository(parser)
    parser.add_argument("--json", action="store_true", help="print it as JSON")
    parser.set_defaults(run=_ps)


def _ps(args: argparse.Namespace) -> None:
    found = fleets.ps(args.repository)
    if args.json:
        print(json.dumps(found, indent=1))
    else:
        out.print(replica_table(found))


def add_scale(commands: Commands) -> None:
    """The command's words and help."""
    parser = add_command(
        commands,
        "scale",
        "Have elasticrec up start or stop replicas of services; it returns at once. With --autoscale the rules have\n"
        "the next word, within seconds.",
        "elasticrec scale fleet/rm1 tier0=3 frontend=2",
    )
    add_repository(parser)
    parser.add_argument("replicas", type=service_replicas, nargs="+", metavar="SERVICE=N", help="N from 1 on")
    add_force(parser)
    parser.set_defaults(run=_scale)


def _scale(args: argparse.Namespace) -> None:
    wanted = dict(args.replicas)
    fleets.scale(args.repository, wanted, force=args.force)
    told = ", ".join(f"{service} to {number}" for service, number in wanted.items())
    say(f"scaling {told}; see elasticrec ps {args.repository}")
    if rules := fleets.ps(args.repository)["rules"]:
        tell(
            f"the rules in {rules} decide again within seconds, and undo it where they ask for another number; "
            "to scale by hand, start the fleet without --autoscale"
        )


def add_logs(commands: Commands) -> None:
    """The command's words and help."""
    parser = add_command(
        commands,
        "logs",
        "The logs of the fleet that runs, or ran last, for DIR: of every replica, of `fleet` (what happened to it)\n"
        "and of `prometheus`; each line begins with its log's name.",
        "elasticrec logs fleet/rm1 tier0 -f",
    )
    add_repository(parser)
    parser.add_argument("service", nargs="?", metavar="SERVICE", help="only this service, or this replica")
    parser.add_argument("-f", "--follow", action="store_true", help="go on with what is added, until Ctrl-C")
    parser.set_defaults(run=_logs)


def _logs(args: argparse.Namespace) -> None:
    with contextlib.suppress(KeyboardInterrupt):
        for name, line in fleets.logs(args.repository, args.service, follow=args.follow):
            print(f"{name:<12} {line}", flush=args.follow)
    sys.stdout.flush()


def add_down(commands: Commands) -> None:
    """The command's words and help."""
    parser = add_command(
        commands,
        "down",
        "Have elasticrec up stop every server, and wait until it has; the logs stay.",
        "elasticrec down fleet/rm1",
    )
    add_repository(parser)
    parser.set_defaults(run=_down)


def _down(args: argparse.Namespace) -> None:
    fleets.down(args.repository)
    say(f"{args.repository} is down")


def add_k8s(commands: Commands) -> None:
    """The command's words and help."""
    parser = add_command(
        commands,
        "k8s",
        "Write a fleet's Deployments, Services, KEDA ScaledObjects, NetworkPolicies and what belongs to them as a\n"
        "Kustomize base, one object a file, and SCALING.md with the reason for every threshold. The folder appears\n"
        "whole or not at all; what a former run wrote there is replaced.",
        "elasticrec k8s model_repository/rm1 -o k8s/out --image registry/elasticrec-triton@sha256:... "
        "--repository s3://models/rm1/v7",
    )
    add_repository(parser)
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="OUT", help="the folder to write")
    parser.add_argument(
        "--repository",
        default=CLAIM,
        metavar="PLACE",
        dest="source",
        help="where pods find DIR's content: s3://BUCKET/PREFIX, gs://..., as://..., pvc:CLAIM[/PATH] (read-only), or "
        "init:IMAGE that holds it in /repository; a new version needs a new place (default: %(default)s)",
    )
    parser.add_argument(
        "--image",
        default=IMAGE,
        metavar="IMAGE",
        help="built from this project's Dockerfile; give a digest (default: %(default)s)",
    )
    parser.add_argument(
        "--namespace", default=NAMESPACE, metavar="NAME", help="one for each build (default: %(default)s)"
    )
    parser.add_argument(
        "--min-replicas",
        type=int,
        choices=[1, 2],
        default=1,
        help="pods of a service at rest; 2: no single pod's end is noticed (default: %(default)s)",
    )
    parser.add_argument(
        "--latency-share",
        type=bounded(float, 0.05, 1),
        default=LATENCY_SHARE,
        metavar="X",
        help="of the SLA, at which front ends are added (default: %(default)s)",
    )
    parser.add_argument("--prometheus", default=PROMETHEUS, metavar="URL", help="whom KEDA asks (default: %(default)s)")
    parser.add_argument(
        "--tls",
        metavar="SECRET",
        help="mutual TLS between front end and embedding services, by a secret's ca.crt, tls.crt and tls.key; the one "
        "certificate is every pod's, for *.NAMESPACE.svc.cluster.local, as server and client",
    )
    parser.add_argument("--priority-class", metavar="NAME", help="of all pods (default: the cluster's)")
    parser.add_argument("--json", action="store_true", help="also print the objects as JSON, a mapping by file name")
    parser.set_defaults(run=_k8s)


def _k8s(args: argparse.Namespace) -> None:
    objects = fleets.k8s(
        args.repository,
        args.output,
        source=args.source,
        image=args.image,
        namespace=args.namespace,
        min_replicas=args.min_replicas,
        latency_share=args.latency_share,
        prometheus=args.prometheus,
        tls_secret=args.tls,
        priority_class=args.priority_class,
    )
    if args.json:
        print(json.dumps(objects, indent=1))
        return
    services = count(len(load_fleet(args.repository).services), "service")
    say(
        f"wrote {args.output}: {services}, {count(len(objects), 'file')}; the rules and their reasons are "
        f"in {args.output / DOCUMENT}; next: kubectl apply -k {args.output}"
    )


def service_replicas(text: str) -> tuple[str, int]:
    """An argument type: a service's name and its number of replicas."""
    service, equals, number = text.partition("=")
    if not (service and equals and number.isascii() and number.isdigit() and len(number) <= 5 and int(number) >= 1):
        raise argparse.ArgumentTypeError(f"expected SERVICE=N with N from 1 to 99999, got {text}")
    return service, int(number)


def add_force(parser: argparse.ArgumentParser) -> None:
    """The option --force."""
    parser.add_argument(
        "--force", action="store_true", help="start more replicas than this machine's memory and cores hold"
    )
