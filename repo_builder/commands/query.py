"""`elasticrec query`."""

from __future__ import annotations

import argparse
import json

from repo_builder.commands.common import Commands, add_command, add_repository, bounded
from repo_builder.repository.manifest import load_manifest, read_queries
from repo_builder.serving.client import score


def add(commands: Commands) -> None:
    """The command's words and help."""
    parser = add_command(
        commands,
        "query",
        "Send the repository's sample rows, which were drawn from the model's accesses, in one query, and\n"
        "print the scores.",
        "elasticrec query model_repository/rm1 --protocol http --rows 4",
    )
    add_repository(parser)
    parser.add_argument("--protocol", choices=["grpc", "http"], default="grpc", help="(default: %(default)s)")
    parser.add_argument("--url", metavar="HOST:PORT", help="(default: port 8001 or 8000 of this machine)")
    parser.add_argument("--rows", type=bounded(int, 1, 256), default=8, metavar="N", help="(default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print the scores as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Do what they ask for."""
    manifest = load_manifest(args.repository)
    dense, indices = read_queries(args.repository, args.rows)
    address = args.url or ("127.0.0.1:8001" if args.protocol == "grpc" else "127.0.0.1:8000")
    scores = score(args.protocol, address, manifest.name, dense, indices)
    if args.json:
        print(json.dumps({"model": manifest.name, "scores": scores[:, 0].tolist()}))
    else:
        for row, value in enumerate(scores[:, 0]):
            print(f"row {row:<4d} score {value:.6f}")
