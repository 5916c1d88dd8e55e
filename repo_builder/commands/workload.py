"""`elasticrec workload`."""

from __future__ import annotations

import argparse
import os
import shlex
import tempfile
from pathlib import Path
from typing import Any

from loadtest.workload import binary_words, draw_workload, replay_workload, write_workload
from repo_builder.access.draw import draw_queries
from repo_builder.commands.accesses import read_accesses
from repo_builder.commands.common import Commands, add_command, add_repository, bounded, out
from repo_builder.errors import InputError
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
        help="add PyTorch's scores of the first N queries to a .npz, for locust to compare; needs --spec",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Do what they ask for."""
    if args.output.suffix not in ("", ".npz", ".json"):
        raise InputError(f"{args.output}: expected a name ending in .npz or .json, or a folder's")
    if args.expected and not (args.spec and args.output.suffix == ".npz"):
        raise InputError("--expected: expected --spec with it, whose weights give the scores, and a .npz file with -o")
    manifest = load_manifest(args.repository)
    if args.trace:
        workload = replay_workload(manifest, args.trace, args.queries, args.seed)
    elif args.spec:
        workload = _of_spec(args, manifest, load_spec(args.spec))
    else:
        workload = draw_workload(manifest, args.queries, args.seed)
    _write(args.output, workload, manifest.batch)
    if args.output.suffix:
        said = f"{count(args.queries, 'query')} of {count(manifest.batch, 'row')}"
    else:
        words = binary_words(args.output, workload["dense"], workload["indices"], manifest.batch)
        said = f"a query of {count(manifest.batch, 'row')}; perf_analyzer -m {manifest.name} {shlex.join(words)}"
    out.print(f"wrote {args.output}: {said}", markup=False, soft_wrap=True)


def _of_spec(args: argparse.Namespace, manifest: Manifest, spec: Spec) -> dict[str, Any]:
    built = [(table.name, table.rows, table.pooling) for table in manifest.tables]
    if built != [(table.name, table.rows, table.pooling) for table in spec.tables]:
        raise InputError(f"{args.spec}: tables: expected those of {args.repository}, got others; give its own spec")
    hotness = read_accesses(spec)
    rows = args.queries * manifest.batch
    dense, indices = draw_queries(hotness, spec.tables, spec.dense_features, spec.index_dtype, rows, args.seed)
    workload = {"dense": dense, "indices": indices}
    if args.expected:
        from repo_builder.export.reference import reference_scores  # torch is slow to import: only where it is needed
        from repo_builder.export.weights import open_weights

        compared = min(args.expected, args.queries) * manifest.batch
        workload["scores"] = reference_scores(spec.dlrm, open_weights(spec.dlrm), dense[:compared], indices[:compared])[
            :, 0
        ]
    return workload


def _write(path: Path, workload: Any, batch: int) -> None:
    """Whole or not at all; of folders only a former workload is replaced."""
    target = Path(os.path.realpath(path))
    try:
        with tempfile.TemporaryDirectory(prefix=".elasticrec-", dir=target.parent) as scratch:
            part = Path(scratch) / f"workload{path.suffix}"
            write_workload(part, workload, batch)
            if target.is_dir():
                _check_former(path, workload, batch)
                target.rename(Path(scratch) / "former")
            part.replace(target)
    except OSError as exc:
        raise InputError(f"{path}: cannot be written: {exc.strerror}; choose another file with -o") from exc


def _check_former(path: Path, workload: Any, batch: int) -> None:
    """A workload's folder holds nothing but a file an input, each as long as a query of this model has it."""
    plain = [each for each in path.iterdir() if each.is_file() and not each.is_symlink()]
    found = {each.name: -1 for each in path.iterdir()} | {each.name: each.stat().st_size for each in plain}
    if path.suffix or (found and found != {name: workload[name][:batch].nbytes for name in ("dense", "indices")}):
        raise InputError(f"{path}: expected a former workload's folder, or none; choose another with -o")
