"""`elasticrec logs`."""

from __future__ import annotations

import argparse
import contextlib
import sys

from elasticrec.commands.common import Commands, add_command, add_repository
from repo_builder.local_fleet.run_folder import RunFolder, log_lines


def add(commands: Commands) -> None:
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
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Do what they ask for."""
    with contextlib.suppress(KeyboardInterrupt):
        for name, line in log_lines(RunFolder.of(args.repository), args.service, args.follow):
            print(f"{name:<12} {line}", flush=args.follow)
    sys.stdout.flush()
