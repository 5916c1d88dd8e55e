"""`elasticrec scale`."""

from __future__ import annotations

import argparse

from elasticrec.commands.common import Commands, add_command, add_repository, err, out
from elasticrec.commands.fleet_arguments import add_force, service_replicas
from repo_builder.local_fleet.control import ask
from repo_builder.local_fleet.run_folder import RunFolder


def add(commands: Commands) -> None:
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
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Do what they ask for."""
    wanted, fleet = dict(args.replicas), RunFolder.of(args.repository)
    ask(fleet, {"do": "scale", "replicas": wanted, "force": args.force})
    out.print(f"scaling {', '.join(f'{service} to {number}' for service, number in wanted.items())}; "
              f"see elasticrec ps {args.repository}", markup=False, soft_wrap=True)  # fmt: skip
    if rules := ask(fleet, {"do": "status"})["rules"]:
        err.print(
            f"the rules in {rules} decide again within seconds, and undo it where they ask for another number; "
            "to scale by hand, start the fleet without --autoscale",
            markup=False,
            soft_wrap=True,
        )
