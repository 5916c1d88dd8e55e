"""`elasticrec down`."""

from __future__ import annotations

import argparse

from elasticrec.commands.common import Commands, add_command, add_repository, out
from repo_builder.local_fleet.control import ask
from repo_builder.local_fleet.run_folder import RunFolder


def add(commands: Commands) -> None:
    """The command's words and help."""
    parser = add_command(
        commands,
        "down",
        "Have elasticrec up stop every server, and wait until it has; the logs stay.",
        "elasticrec down fleet/rm1",
    )
    add_repository(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Do what they ask for."""
    ask(RunFolder.of(args.repository), {"do": "down"})
    out.print(f"{args.repository} is down", markup=False, soft_wrap=True)
