"""`elasticrec check`."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from elasticrec.commands.accesses import read_accesses
from elasticrec.commands.common import Commands, add_command, add_spec, err, out
from elasticrec.tables import plain_table
from repo_builder.errors import InputError
from repo_builder.model.source import ModelFile
from repo_builder.spec import Spec, load_spec
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
    rows = sum(each.rows for each in spec.model.tables)
    tables = count(len(spec.model.tables), "table")
    table.add_row("spec", str(args.spec), f"{tables}, {rows:,} rows, {sum(spec.model.ids_per_row):g} ids a query row")
    problems: list[str] = []
    for name, check in (("weights", _weights), ("access", _access)):
        try:
            table.add_row(name, *check(spec))
        except InputError as exc:
            problems += exc.problems
            table.add_row(name, str(_files(spec)[name]), count(len(exc.problems), "problem"))
    out.print(table)
    if problems:
        raise InputError(*problems)


def _files(spec: Spec) -> dict[str, Path | None]:
    weights = spec.form.path if isinstance(spec.form, ModelFile) else spec.form.weights.path
    return {"weights": weights, "access": spec.access.path}


def _weights(spec: Spec) -> Iterator[str]:
    from repo_builder.export.dlrm.source import open_source  # torch is slow to import

    for note in open_source(spec).notes:
        err.print(note, markup=False, soft_wrap=True)
    if isinstance(spec.form, ModelFile):
        yield str(spec.form.path)
        yield f"{count(len(spec.model.lookups), 'look-up')} to cut, {len(spec.model.kept)} stay dense"
        return
    yield str(spec.form.weights.path or spec.form.weights.source)
    tensors = len(spec.form.tables) + 2 * (len(spec.form.bottom_mlp) + len(spec.form.top_mlp))
    tensors += sum(len(layer) for stack in spec.form.interaction_stacks.values() for layer in stack)
    yield "drawn from its seed" if spec.form.weights.path is None else f"{tensors} tensors as in the spec"


def _access(spec: Spec) -> Iterator[str]:
    read_accesses(spec)
    yield str(spec.access.path or spec.access.source)
    yield "of every table"
