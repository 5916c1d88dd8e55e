"""`elasticrec build`."""

from __future__ import annotations

import argparse
from pathlib import Path

from elasticrec import tables
from elasticrec.commands.accesses import read_accesses
from elasticrec.commands.common import Commands, add_command, add_s_max, add_spec, err, out
from repo_builder.access.progress import progress_bar
from repo_builder.errors import InputError
from repo_builder.local_fleet.run_folder import RunFolder, is_up
from repo_builder.partition.check import check_plan
from repo_builder.partition.cost import DEFAULT_PROFILE
from repo_builder.partition.plan import load_plan, on_cpu
from repo_builder.partition.planner import make_plan, model_wise_plan
from repo_builder.spec import load_spec
from repo_builder.words import count

_NEXT = {"single": "serve", "fleet": "up", "model-wise": "serve"}  # the command that runs what was built


def add(commands: Commands) -> None:
    """The command's words and help."""
    parser = add_command(
        commands,
        "build",
        "Export the dense layers to ONNX, write the embedding shards, and wire them into a Triton ensemble. The\n"
        "folder appears whole or not at all; a former repository there is replaced.",
        "elasticrec build rm1.yaml -o model_repository/rm1 --plan plan.json",
    )
    add_spec(parser)
    parser.add_argument(
        "-o", "--output", type=Path, metavar="DIR", help="the repository's folder (default: model_repository/NAME)"
    )
    either = parser.add_mutually_exclusive_group()
    either.add_argument(
        "--plan", type=Path, metavar="FILE", help="a plan from elasticrec plan (default: plan now, tiered)"
    )
    add_s_max(either)
    parser.add_argument(
        "--layout",
        choices=["single", "fleet", "model-wise"],
        default="single",
        help="single: one server, one ensemble; fleet: a repository and a server for each service; model-wise: one "
        "server that holds every table whole, to compare with: an ONNX file as it is, any other model in our kernels "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--shard-backend",
        choices=["python", "native"],
        default="python",
        help="what serves embedding services on the CPU: python, a process an instance; or native, C in the server's "
        "own process (default: %(default)s)",
    )
    parser.add_argument("--cpu-only", action="store_true", help="place on the CPU what the plan places on GPUs")
    parser.set_defaults(run=run)


def _next(layout: str, target: Path) -> str:
    """What to do with what was built; a fleet that runs has its files open, and does not see new ones."""
    if is_up(RunFolder.of(target)):
        return (
            f"the fleet that is up goes on with the former build; change over with elasticrec down {target} "
            f"and elasticrec up {target}"
        )
    return f"next: elasticrec {_NEXT[layout]} {target}"


def run(args: argparse.Namespace) -> None:
    """Do what they ask for."""
    from repo_builder.export.dlrm.source import open_source  # torch is slow to import: only where it is needed
    from repo_builder.repository.build import build

    whole = args.layout == "model-wise"
    if whole and args.plan:
        raise InputError(
            f"--plan: expected none with --layout model-wise, which cuts nothing, got {args.plan}; leave one out"
        )
    spec = load_spec(args.spec)
    given = load_plan(args.plan) if args.plan else None
    if given:
        check_plan(given, spec, str(args.plan))
    source = open_source(spec)
    for note in source.notes:
        err.print(note, markup=False, soft_wrap=True)
    hotness = read_accesses(spec)
    if whole:
        plan = model_wise_plan(spec, hotness, DEFAULT_PROFILE)
    else:
        plan = given or make_plan(spec, hotness, DEFAULT_PROFILE, "tiered", args.s_max)
    if args.cpu_only:
        plan = on_cpu(plan)
    target = args.output or Path("model_repository") / spec.name
    with progress_bar(err, "building") as progress:
        manifest = build(spec, plan, hotness, source, target, progress, args.shard_backend, layout=args.layout)
    total_bytes = sum(entry.size_bytes for entry in manifest.files)
    out.print(
        f"built {target}: {count(len(plan.services), 'service')}, {count(len(manifest.files), 'file')}, "
        f"{tables.size(total_bytes)}; {_next(args.layout, target)}",
        markup=False,
        soft_wrap=True,
    )
