"""`elasticrec plan`."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

from elasticrec import placement_tables, tables, tables_analysis
from elasticrec.commands.accesses import read_accesses
from elasticrec.commands.common import Commands, add_command, add_profile, add_s_max, add_spec, bounded, err, out, png
from elasticrec.commands.native_output import stdout_to_stderr
from repo_builder.access.hotness import Hotness
from repo_builder.analysis.explain import Chain, explain
from repo_builder.analysis.sweep import FIELDS, Setting, Sweep, parse_sweep, run_sweep, sweep_csv, sweep_json
from repo_builder.errors import InputError
from repo_builder.model.source import ModelFile
from repo_builder.partition.accesses import ModelAccesses, model_accesses
from repo_builder.partition.cost import DEFAULT_PROFILE, Profile, load_profile
from repo_builder.partition.placement.cluster import Cluster, load_cluster
from repo_builder.partition.placement.place import Placement, place, placement_document
from repo_builder.partition.plan import Plan, plan_to_json
from repo_builder.partition.planner import plan_accesses
from repo_builder.spec import Spec, load_spec
from repo_builder.writing import write_whole


def add(commands: Commands) -> None:
    """The command's words and help."""
    parser = add_command(
        commands,
        "plan",
        "Cut the embedding tables by hotness so that the fleet's memory is smallest at the spec's target traffic: the\n"
        "exact optimum of ElasticRec's dynamic program (ISCA 2024), at full row resolution.",
        "elasticrec plan rm1.yaml --grouping tiered --s-max 4 -o plan.json --plot hotness.png",
    )
    add_spec(parser)
    add_s_max(parser)
    add_profile(parser)
    parser.add_argument(
        "--grouping",
        choices=["tiered", "per_table"],
        default="tiered",
        help="tiered: a service holds one hotness tier of all tables; per_table: a service per shard, as in the paper "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--utilisation",
        type=bounded(float, 0.01, 1),
        default=1.0,
        metavar="U",
        help="count on this share of a replica's most queries/s; less leaves room for bursts (default: %(default)s)",
    )
    parser.add_argument(
        "--cluster",
        type=Path,
        metavar="FILE",
        help="also choose each service's device and pack the replicas onto these nodes, at the least price",
    )
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--explain", action="store_true", help="say why each cut lies where it does; --plot draws it")
    instead.add_argument(
        "--sweep",
        metavar="FIELD=A..B[:N]",
        help=f"plan at N values from A to B of one of {', '.join(FIELDS)}, beside the whole model; "
        "-o (.json, .csv), --json and --plot then are of the sweep",
    )
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="write the plan as JSON")
    parser.add_argument("--plot", type=png, metavar="FILE", help="draw the tables' hotness as a PNG")
    parser.add_argument("--json", action="store_true", help="print the plan as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Do what they ask for."""
    if args.sweep:
        _sweep(args, parse_sweep(args.sweep))
        return
    spec = load_spec(args.spec)
    _check_weights(spec)
    cluster = load_cluster(args.cluster) if args.cluster else None
    profile = _profile(args)
    if cluster and cluster.min_memory_bytes is not None:
        profile = replace(profile, min_memory_bytes=cluster.min_memory_bytes)
    hotness = read_accesses(spec)
    workload = model_accesses(spec, hotness, keep=args.explain)
    plan = plan_accesses(spec, workload, profile, args.grouping, args.s_max, args.utilisation)
    chains = explain(spec, workload, profile, plan, args.utilisation) if args.explain else ()
    placement = _place(spec, plan, profile, cluster) if cluster else None
    plan = placement.plan if placement else plan
    text = _placed_json(placement) if placement else plan_to_json(plan)
    if args.output:
        write_whole(args.output, text)
    if args.plot:
        _plot(args.plot, spec, hotness, workload, plan, chains)
    if args.json:
        print(text, end="")
        return
    out.print(tables.plan_table(plan))
    out.print(tables.plan_summary(plan, spec), markup=False, soft_wrap=True)
    if placement:
        out.print(placement_tables.placement_table(placement))
        out.print(placement_tables.placement_summary(placement), markup=False, soft_wrap=True)
    if chains:
        out.print(tables_analysis.explanation(chains), markup=False, soft_wrap=True)


def _check_weights(spec: Spec) -> None:
    """Raise CheckpointError where `build` would; a checkpoint that is not there yet is no reason not to plan."""
    path = spec.form.path if isinstance(spec.form, ModelFile) else spec.form.weights.path
    if path is not None and not path.exists():
        err.print(f"{path}: not there, so not checked: elasticrec build will need it", markup=False, soft_wrap=True)
    elif path is not None:
        from repo_builder.export.dlrm.source import open_source  # torch is slow to import: only where it is needed

        open_source(spec)


def _plot(
    path: Path, spec: Spec, hotness: Hotness, workload: ModelAccesses, plan: Plan, chains: tuple[Chain, ...]
) -> None:
    """The explanation's picture where there is one, else the hotness; matplotlib is slow to import, rarely wanted."""
    if chains:
        from repo_builder.analysis.plan_plots import plot_explanation

        plot_explanation(f"{spec.name}: a {plan.grouping} plan by the profile {plan.profile}", workload, chains, path)
    else:
        from repo_builder.analysis.plan_plots import plot_hotness

        plot_hotness(spec, hotness, path)


def _place(spec: Spec, plan: Plan, profile: Profile, cluster: Cluster) -> Placement:
    with err.status("packing the replicas"), stdout_to_stderr():
        return place(spec, plan, profile, cluster)


def _placed_json(placement: Placement) -> str:
    """A plan file with the placement beside the plan's own keys."""
    document = {**json.loads(plan_to_json(placement.plan)), "placement": placement_document(placement)}
    return json.dumps(document, indent=2, allow_nan=False) + "\n"


def _sweep(args: argparse.Namespace, sweep: Sweep) -> None:
    if args.cluster:
        raise InputError("--cluster: expected none with --sweep, which plans without nodes; leave one of them out")
    if args.output and not args.output.name.lower().endswith((".json", ".csv")):
        raise InputError(f"{args.output}: expected a name ending in .json or .csv for a sweep; choose one with -o")
    setting = Setting(load_spec(args.spec), _profile(args), args.grouping, args.s_max, args.utilisation)
    points = run_sweep(sweep, setting, read_accesses)
    if args.output:
        as_csv = args.output.name.lower().endswith(".csv")
        write_whole(args.output, sweep_csv(sweep, points) if as_csv else sweep_json(sweep, setting, points))
    if args.plot:
        from repo_builder.analysis.plan_plots import plot_sweep

        plot_sweep(sweep, setting, points, args.plot)
    if args.json:
        print(sweep_json(sweep, setting, points), end="")
    else:
        out.print(tables_analysis.sweep_table(sweep, points))
        out.print(tables.profile_line(setting.profile.name), markup=False, soft_wrap=True)


def _profile(args: argparse.Namespace) -> Profile:
    return load_profile(args.profile) if args.profile else DEFAULT_PROFILE
