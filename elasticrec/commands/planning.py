"""`elasticrec plan`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from elasticrec import planning, tables_plan
from elasticrec.building import check_weights
from elasticrec.commands.common import (
    Commands,
    add_command,
    add_cutting,
    add_grouping,
    add_profile,
    add_s_max,
    add_spec,
    bounded,
    err,
    given_profile,
    out,
    png,
    say,
    stdout_to_stderr,
    tell,
    watch,
)
from elasticrec.loading import load_cluster, load_hotness, load_spec
from elasticrec.tables import profile_line
from repo_builder.access.hotness import Hotness
from repo_builder.analysis.sweep import FIELDS, Sweep, parse_sweep, sweep_csv, sweep_json
from repo_builder.errors import InputError
from repo_builder.partition.cost import Profile
from repo_builder.partition.placement.cluster import Cluster
from repo_builder.partition.placement.place import Placement
from repo_builder.partition.plan import Plan
from repo_builder.spec import Spec
from repo_builder.writing import write_whole


def add_plan(commands: Commands) -> None:
    """The command's words and help."""
    parser = add_command(
        commands,
        "plan",
        "Cut the embedding tables by hotness so that the fleet's memory is smallest at the spec's target traffic: the\n"
        "exact optimum of ElasticRec's dynamic program (ISCA 2024), at full row resolution. Cuts that save less than\n"
        "a container is worth are merged, and a model is not cut where whole replicas take no more memory.",
        "elasticrec plan rm1.yaml --grouping tiered --s-max 4 -o plan.json --plot hotness.png",
    )
    add_spec(parser)
    add_s_max(parser)
    add_profile(parser)
    told = "tiered: a service holds one hotness tier of all tables; per_table: a service per shard, as in the paper "
    add_grouping(parser, f"{told}(default: tiered, unless cutting saves less than 5%% of whole replicas' memory)", None)
    add_cutting(parser)
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
    parser.set_defaults(run=_plan)


def _plan(args: argparse.Namespace) -> None:
    if args.sweep:
        _sweep(args, parse_sweep(args.sweep))
        return
    spec = load_spec(args.spec)
    check_weights(spec, tell)
    cluster = load_cluster(args.cluster) if args.cluster else None
    profile = given_profile(args)
    hotness = load_hotness(spec, watch=watch, tell=tell)
    plan, explanation = _planned(args, spec, hotness, profile, cluster)
    placement = _placed(spec, plan, profile, cluster) if cluster else None
    plan = placement.plan if placement else plan
    text = planning.plan_json(placement or plan)
    if args.output:
        write_whole(args.output, text)
    if args.plot:
        _plot(args.plot, spec, hotness, plan, explanation)
    if args.json:
        print(text, end="")
        return
    out.print(tables_plan.plan_table(plan))
    say(tables_plan.plan_summary(plan, spec))
    if placement:
        out.print(tables_plan.placement_table(placement))
        say(tables_plan.placement_summary(placement))
    if explanation and explanation.cut is not explanation.plan:
        say(f"the best fleet that cuts, {explanation.cut.grouping}:")
    if explanation:
        say(tables_plan.explanation(explanation.chains))
    if explanation and explanation.sizes:
        out.print(tables_plan.sizes_table(explanation.sizes))
        say(tables_plan.sizes_summary(explanation.sizes))


def _planned(
    args: argparse.Namespace, spec: Spec, hotness: Hotness, profile: Profile, cluster: Cluster | None
) -> tuple[Plan, planning.Explanation | None]:
    asked = _asked(args)
    if args.explain:
        explanation = planning.explain(spec, hotness, profile=profile, cluster=cluster, **asked, watch=watch, tell=tell)
        return explanation.plan, explanation
    return planning.plan(spec, hotness, profile=profile, cluster=cluster, **asked, watch=watch, tell=tell), None


def _asked(args: argparse.Namespace) -> dict[str, Any]:
    return {name: getattr(args, name) for name in ("grouping", "s_max", "utilisation", "least_saving", "profile_error")}


def _placed(spec: Spec, plan: Plan, profile: Profile, cluster: Cluster) -> Placement:
    with err.status("packing the replicas"), stdout_to_stderr():
        return planning.place(spec, plan, cluster, profile=profile)


def _plot(path: Path, spec: Spec, hotness: Hotness, plan: Plan, explanation: planning.Explanation | None) -> None:
    """The explanation's picture where there is one, else the hotness; matplotlib is slow to import, rarely wanted."""
    from repo_builder.analysis.plan_plots import plot_explanation, plot_hotness

    if explanation:
        title = f"{spec.name}: a {explanation.cut.grouping} plan by the profile {plan.profile}"
        plot_explanation(title, explanation.accesses, explanation.chains, path)
    else:
        plot_hotness(spec, hotness, path)


def _sweep(args: argparse.Namespace, sweep: Sweep) -> None:
    if args.cluster:
        raise InputError("--cluster: expected none with --sweep, which plans without nodes; leave one of them out")
    if args.output and not args.output.name.lower().endswith((".json", ".csv")):
        raise InputError(f"{args.output}: expected a name ending in .json or .csv for a sweep; choose one with -o")
    spec, profile = load_spec(args.spec), given_profile(args)
    asked = _asked(args)
    swept = planning.sweep(spec, sweep, profile=profile, **asked, watch=watch, tell=tell)
    setting, points = swept.setting, swept.points
    if args.output:
        as_csv = args.output.name.lower().endswith(".csv")
        write_whole(args.output, sweep_csv(sweep, points) if as_csv else sweep_json(sweep, setting, points))
    if args.plot:
        from repo_builder.analysis.plan_plots import plot_sweep

        plot_sweep(sweep, setting, points, args.plot)
    if args.json:
        print(sweep_json(sweep, setting, points), end="")
    else:
        out.print(tables_plan.sweep_table(sweep, points))
        say(profile_line(setting.profile.name))
