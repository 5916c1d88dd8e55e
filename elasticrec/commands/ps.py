"""`elasticrec ps`."""

from __future__ import annotations

import argparse
import json

from elasticrec.commands.common import Commands, add_command, add_repository, out
from repo_builder.local_fleet.control import ask
from repo_builder.local_fleet.run_folder import RunFolder
from repo_builder.local_fleet.views import replica_table


def add(commands: Commands) -> None:
    """The command's words and help."""
    parser = add_command(
        commands,
        "ps",
        "What elasticrec up runs for DIR: services and replicas with their state, addresses, traffic and memory.",
        "elasticrec ps fleet/rm1 --json",
    )
    add_repository(parser)
    parser.add_argument("--json", action="store_true", help="print it as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Do what they ask for."""
    found = ask(RunFolder.of(args.repository), {"do": "status"})
    if args.json:
        print(json.dumps(found, indent=1))
    else:
        out.print(replica_table(found))
