"""`elasticrec workload`."""

from __future__ import annotations

import argparse
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np

from elasticrec.commands.accesses import read_accesses
from elasticrec.commands.common import Commands, add_command, add_repository, bounded, out
from loadtest.workload import binary_words, draw_workload, replay_workload, samples, write_workload
from repo_builder.access.queries import draw_queries
from repo_builder.access.query_file import QueryFile
from repo_builder.errors import InputError
from repo_builder.model.arrays import Arrays
from repo_builder.repository.manifest import Manifest, load_manifest
from repo_builder.spec import Spec, load_spec
from repo_builder.words import count


def add(commands: Commands) -> None:
    """The command's words and help."""
    parser = add_command(
        commands,
        "workload",
        "Draw queries from the model's accesses, or replay those of a trace. The file's suffix says for\n"
        "whom: .npz for locust, .json for perf_analyzer's --input-data, none for its folder of binary files.",
        "elasticrec workload model_repository/rm1 -o workload.npz --queries 2000 --spec rm1.yaml --expected 200",
    )
    add_repository(parser)
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help=".npz, .json or a folder")
    parser.add_argument(
        "--queries", type=bounded(int, 1, 10_000_000), default=200, metavar="N", help="(default: %(default)s)"
    )
    parser.add_argument("--seed", type=bounded(int, 0, 2**63), default=0, metavar="N", help="(default: %(default)s)")
    either = parser.add_mutually_exclusive_group()
    either.add_argument("--trace", type=Path, metavar="FILE", help="replay this .parquet or .npz trace from its start")
    either.add_argument("--spec", type=Path, metavar="SPEC", help="the model's spec: for accesses that lie in a file")
    parser.add_argument(
        "--expected",
        type=bounded(int, 0, 10_000_000),
        default=0,
        metavar="N",
        help="add the whole model's answers to the first N queries to a .npz, for locust to compare; needs --spec",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Do what they ask for."""
    if args.output.suffix not in ("", ".npz", ".json"):
        raise InputError(f"{args.output}: expected a name ending in .npz or .json, or a folder's")
    if args.expected and not (args.spec and args.output.suffix == ".npz"):
        raise InputError("--expected: expected --spec with it, whose weights give the answers, and a .npz file with -o")
    manifest = load_manifest(args.repository)
    if args.trace:
        workload = replay_workload(args.repository, manifest, args.trace, args.queries, args.seed)
    elif args.spec:
        workload = _of_spec(args, manifest, load_spec(args.spec))
    else:
        workload = draw_workload(args.repository, manifest, args.queries, args.seed)
    write_workload(args.output, workload, manifest.inputs, manifest.batch)
    if args.output.suffix:
        said = f"{count(args.queries, 'query')} of {count(manifest.batch, 'row')}"
    else:
        words = binary_words(args.output, workload, manifest.inputs, manifest.batch)
        said = f"a query of {count(manifest.batch, 'row')}; perf_analyzer -m {manifest.name} {shlex.join(words)}"
    out.print(f"wrote {args.output}: {said}", markup=False, soft_wrap=True)


def _of_spec(args: argparse.Namespace, manifest: Manifest, spec: Spec) -> QueryFile:
    model = spec.model
    if (manifest.inputs, manifest.tables, manifest.lookups) != (model.inputs, model.tables, model.lookups):
        raise InputError(
            f"{args.spec}: expected the inputs, tables and look-ups of {args.repository}, got others; give its own spec"
        )
    known = samples(args.repository, manifest)
    workload = draw_queries(model, read_accesses(spec), args.queries, manifest.batch, args.seed, known)
    return replace(workload, expected=_answers(spec, workload, min(args.expected, args.queries), manifest.batch))


def _answers(spec: Spec, workload: QueryFile, queries: int, batch: int) -> Arrays:
    """The whole model's to the first queries, by output, one behind the other."""
    if not queries:
        return {}
    from repo_builder.export.dlrm.source import open_source  # torch is slow to import: only where it is needed

    source = open_source(spec)
    answers = [source.answers(workload.query(number, batch)) for number in range(queries)]
    return {name: np.stack([answer[name] for answer in answers]) for name in answers[0]}
