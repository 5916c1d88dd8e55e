"""`elasticrec init`, `check` and `build`."""

from __future__ import annotations

import argparse
from pathlib import Path

from elasticrec import building
from elasticrec.commands.common import (
    Commands,
    add_command,
    add_s_max,
    add_shard_backend,
    add_spec,
    out,
    say,
    tell,
    warn,
    watch,
)
from elasticrec.drafting import check_target, first_spec
from elasticrec.loading import load_plan, load_spec
from elasticrec.tables import (
    kept_table,
    lookups_table,
    plain_table,
    score_error_line,
    size,
    tables_table,
    tensors_table,
)
from repo_builder.access.powerlaw import PowerLawHotness
from repo_builder.analysis.choice import best_plan
from repo_builder.errors import InputError, PlanError
from repo_builder.local_fleet.run_folder import RunFolder, is_up
from repo_builder.model.types import Model
from repo_builder.partition.accesses import model_accesses
from repo_builder.partition.cost import DEFAULT_PROFILE
from repo_builder.partition.worth import LEAST_SAVING, PROFILE_ERROR
from repo_builder.spec import Spec
from repo_builder.words import count
from repo_builder.writing import write_whole

_NEXT = {"single": "serve", "fleet": "up", "model-wise": "serve"}  # the command that runs what was built


def add_init(commands: Commands) -> None:
    """The command's words and help."""
    parser = add_command(
        commands,
        "init",
        "Look into a model file, print its tables and look-ups, what would be cut and what stays dense, and write a\n"
        "first spec of it. What the file cannot say is guessed and marked in the spec.",
        "elasticrec init ranker.pt2 -o ranker.yaml",
    )
    parser.add_argument(
        "model",
        type=Path,
        metavar="MODEL",
        help="a program of torch.export (.pt2), an ONNX file (.onnx), or a state dict of a DLRM or of TorchRec's (.pt, "
        ".pth, .safetensors, .safetensors.index.json)",
    )
    parser.add_argument("-o", "--output", type=Path, metavar="SPEC", required=True, help="the spec to write, YAML")
    parser.add_argument("--name", help="the model's name in Triton (default: the file's)")
    parser.add_argument("--force", action="store_true", help="write over a spec that is there")
    parser.set_defaults(run=_init)


def _init(args: argparse.Namespace) -> None:
    check_target(args.output, args.force)
    first = first_spec(args.model, args.output, name=args.name, tell=warn)
    _print(first.spec.model)
    say(_saving(first.spec))
    write_whole(args.output, first.text)
    say(f"wrote {args.output}; next: elasticrec plan {args.output}")


def _print(model: Model) -> None:
    for table in (tensors_table, tables_table, lookups_table, *([kept_table] if model.kept else [])):
        out.print(table(model))
        out.print()


def _saving(spec: Spec) -> str:
    """What a plan at the guessed traffic takes, beside replicating the whole model."""
    try:
        accesses = model_accesses(spec, PowerLawHotness(0.9, 0))
        choice = best_plan(spec, accesses, DEFAULT_PROFILE, None, 4, 1.0, LEAST_SAVING, PROFILE_ERROR)[0].choice
    except PlanError as exc:
        return f"no plan at the guessed traffic: {exc}"
    if choice is None:
        return "no plan at the guessed traffic: a replica of the whole model misses the guessed SLA"
    verdict = ": at this traffic a cut does not pay" if choice.is_whole else ""
    return (
        f"at {spec.serving.target_qps:g} queries/s of {count(spec.serving.batch, 'row')}, by the default profile: "
        f"{size(choice.memory_bytes)} cut, {size(choice.whole_memory_bytes)} as "
        f"{count(choice.whole_replicas, 'whole replica')}{verdict}"
    )


def add_check(commands: Commands) -> None:
    """The command's words and help."""
    parser = add_command(
        commands,
        "check",
        "Check all that can be known before a build: the spec, every tensor's key, shape and type in the checkpoint,\n"
        "the dense layers' values, a model file's samples, and the accesses. The tables' values are read, and\n"
        "checked, by build alone.",
        "elasticrec check rm1.yaml",
    )
    add_spec(parser)
    parser.set_defaults(run=_check)


def _check(args: argparse.Namespace) -> None:
    spec = load_spec(args.spec)
    table = plain_table("checked", "where", "found")
    model = spec.queried
    rows, tables = sum(each.rows for each in model.tables), count(len(model.tables), "table")
    stay = len(model.tables) - len(spec.model.tables)
    dense = f"; {stay} of them in the dense graph" if stay else ""
    table.add_row("spec", str(args.spec), f"{tables}, {rows:,} rows, {sum(model.ids_per_row):g} ids a query row{dense}")
    checked = building.check(spec, watch=watch, tell=tell)
    for each in checked:
        table.add_row(each.name, each.where, each.found)
    out.print(table)
    if problems := [problem for each in checked for problem in each.problems]:
        raise InputError(*problems)


def add_build(commands: Commands) -> None:
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
        help="single: one server, one ensemble; fleet: a repository and a server for each service; model-wise: one "
        "server that holds every table whole: an ONNX file as it is, any other model, and smaller rows, in our kernels "
        "(default: single; model-wise for a plan that does not cut)",
    )
    told = "python, a process an instance; or native, C in the server's own process"
    add_shard_backend(parser, f"what serves embedding services on the CPU: {told}")
    parser.add_argument("--cpu-only", action="store_true", help="place on the CPU what the plan places on GPUs")
    parser.set_defaults(run=_build)


def _build(args: argparse.Namespace) -> None:
    spec = load_spec(args.spec)
    plan = load_plan(args.plan, spec) if args.plan else None
    if plan and plan.grouping != "model_wise" and args.layout == "model-wise":
        raise InputError(
            f"--plan: expected none with --layout model-wise, which cuts nothing, got {args.plan}; leave one out"
        )
    target = args.output or Path("model_repository") / spec.name
    built = building.build(
        spec,
        target,
        plan,
        layout=args.layout,
        shard_backend=args.shard_backend,
        s_max=args.s_max,
        cpu_only=args.cpu_only,
        watch=watch,
        tell=tell,
    )
    files, proof = built.manifest.files, built.manifest.proof
    if proof and proof.score_error:
        say(score_error_line(proof.score_error))
    say(
        f"built {target}: {count(len(built.plan.services), 'service')}, {count(len(files), 'file')}, "
        f"{size(sum(entry.size_bytes for entry in files))}; {_next(built.manifest.layout, target)}"
    )


def _next(layout: str, target: Path) -> str:
    """What to do with what was built; a fleet that runs has its files open, and does not see new ones."""
    if is_up(RunFolder.of(target)):
        return (
            f"the fleet that is up goes on with the former build; change over with elasticrec down {target} "
            f"and elasticrec up {target}"
        )
    return f"next: elasticrec {_NEXT[layout]} {target}"
