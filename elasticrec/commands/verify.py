"""`elasticrec verify`."""

from __future__ import annotations

import argparse

from elasticrec.commands.common import Commands, add_command, add_repository, out
from repo_builder.repository.manifest import verify
from repo_builder.words import count


def add(commands: Commands) -> None:
    """The command's words and help."""
    parser = add_command(
        commands,
        "verify",
        "Check that every file is there with the size and SHA-256 that the manifest lists, and that there is no other.",
        "elasticrec verify model_repository/rm1",
    )
    add_repository(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Do what they ask for."""
    manifest = verify(args.repository)
    out.print(
        f"{args.repository}: {count(len(manifest.files), 'file')} as built (plan {manifest.plan_sha256[:12]})",
        markup=False,
    )
