"""`elasticrec check`."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from repo_builder.commands.accesses import read_accesses
from repo_builder.commands.common import Commands, add_command, add_spec, err, out
from repo_builder.errors import InputError
from repo_builder.spec import Spec, load_spec
from repo_builder.tables import plain_table
from repo_builder.words import count


def add(commands: Commands) -> None:
    """The command's words and help."""
    parser = add_command(
        commands,
        "check",
        "Check all that can be known before a build: the spec, every tensor's key, shape and type in the checkpoint,\n"
        "the dense layers' values, and the accesses. The tables' values are read, and checked, by build alone.",
        "elasticrec check rm1.yaml",
    )
    add_spec(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Do what they ask for."""
    spec = load_spec(args.spec)
    table = plain_table("checked", "where", "found")
    rows = sum(each.rows for each in spec.tables)
    tables = count(len(spec.tables), "table")
    table.add_row("spec", str(args.spec), f"{tables}, {rows:,} rows, {spec.index_columns} ids a query row")
    problems: list[str] = []
    for name, check in (("weights", _weights), ("access", _access)):
        try:
            table.add_row(name, *check(spec))
        except InputError as exc:
            problems += exc.problems
            table.add_row(name, str(getattr(spec, name).path), count(len(exc.problems), "problem"))
    out.print(table)
    if problems:
        raise InputError(*problems)


def _weights(spec: Spec) -> Iterator[str]:
    from repo_builder.export.weights import open_weights  # torch is slow to import

    for note in open_weights(spec.dlrm).notes:
        err.print(note, markup=False, soft_wrap=True)
    yield str(spec.weights.path or spec.weights.source)
    tensors = len(spec.tables) + 2 * (len(spec.dlrm.bottom_mlp) + len(spec.dlrm.top_mlp))
    yield "drawn from its seed" if spec.weights.path is None else f"{tensors} tensors as in the spec"


def _access(spec: Spec) -> Iterator[str]:
    read_accesses(spec)
    yield str(spec.access.path or spec.access.source)
    yield "of every table"
