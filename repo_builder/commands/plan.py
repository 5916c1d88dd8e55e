"""`elasticrec plan`."""

from __future__ import annotations

import argparse
from pathlib import Path

from repo_builder import tables
from repo_builder.access.load import load_hotness
from repo_builder.access.progress import progress_bar
from repo_builder.commands.common import Commands, add_command, add_s_max, add_spec, err, out, png, write_text
from repo_builder.partition.cost import DEFAULT_PROFILE, load_profile
from repo_builder.partition.plan import Plan, plan_to_json
from repo_builder.partition.planner import make_plan
from repo_builder.spec import Spec, load_spec


def add(commands: Commands) -> None:
    """The command's words and help."""
    parser = add_command(
        commands,
        "plan",
        "cut the tables into shards and print the plan",
        "Cut the embedding tables by hotness so that the fleet's memory is smallest at the spec's target traffic: the\n"
        "exact optimum of ElasticRec's dynamic program (ISCA 2024), at full row resolution.",
        "elasticrec plan rm1.yaml --grouping tiered --s-max 4 -o plan.json --plot hotness.png",
    )
    add_spec(parser)
    add_s_max(parser)
    parser.add_argument(
        "--profile",
        type=Path,
        metavar="FILE",
        help="measured service times (default: calls of 0.5 ms, 20 M gathers/s, 300 MB)",
    )
    parser.add_argument(
        "--grouping",
        choices=["tiered", "per_table"],
        default="tiered",
        help="tiered: a service holds one hotness tier of all tables; per_table: a service per shard, as in the paper "
        "(default: %(default)s)",
    )
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="write the plan as JSON")
    parser.add_argument("--plot", type=png, metavar="FILE", help="draw the tables' hotness as a PNG")
    parser.add_argument("--json", action="store_true", help="print the plan as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Do what they ask for."""
    spec = load_spec(args.spec)
    plan = _make_plan(args, spec)
    if args.output:
        write_text(args.output, plan_to_json(plan))
    if args.json:
        print(plan_to_json(plan), end="")
    else:
        out.print(tables.plan_table(plan))
        out.print(tables.plan_summary(plan, spec), markup=False, soft_wrap=True)


def _make_plan(args: argparse.Namespace, spec: Spec) -> Plan:
    profile = load_profile(args.profile) if args.profile else DEFAULT_PROFILE
    with progress_bar(err, "reading accesses") as progress:
        hotness = load_hotness(spec, progress)
    if args.plot:
        from repo_builder.access.plot import plot_hotness  # matplotlib is slow to import and rarely wanted

        plot_hotness(spec, hotness, args.plot)
    return make_plan(spec, hotness, profile, args.grouping, args.s_max)
