"""`elasticrec k8s`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from elasticrec.commands.common import Commands, add_command, add_repository, bounded, out
from k8s.options import CLAIM, IMAGE, NAMESPACE, PROMETHEUS, Options
from k8s.render import DOCUMENT, write
from k8s.source import parse_source
from repo_builder.repository.built_fleet import load_fleet
from repo_builder.scaling.rules import LATENCY_SHARE
from repo_builder.words import count


def add(commands: Commands) -> None:
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
    parser.add_argument("--namespace", default=NAMESPACE, metavar="NAME", help="default: %(default)s")
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
        help="mutual TLS between front end and embedding services, by a secret's ca.crt, tls.crt and tls.key",
    )
    parser.add_argument("--priority-class", metavar="NAME", help="of all pods (default: the cluster's)")
    parser.add_argument("--json", action="store_true", help="also print the objects as JSON, a mapping by file name")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Do what they ask for."""
    options = Options(
        source=parse_source(args.source),
        namespace=args.namespace,
        image=args.image,
        min_replicas=args.min_replicas,
        prometheus=args.prometheus,
        latency_share=args.latency_share,
        tls_secret=args.tls,
        priority_class=args.priority_class,
    )
    fleet = load_fleet(args.repository)
    objects = write(fleet, options, args.output)
    if args.json:
        print(json.dumps(objects, indent=1))
        return
    services = count(len(fleet.services), "service")
    out.print(
        f"wrote {args.output}: {services}, {count(len(objects), 'file')}; the rules and their reasons are "
        f"in {args.output / DOCUMENT}; next: kubectl apply -k {args.output}",
        markup=False,
        soft_wrap=True,
    )
