"""`elasticrec simulate`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

from rich.table import Table

from elasticrec import tables
from elasticrec.commands.accesses import read_accesses
from elasticrec.commands.common import (
    Commands,
    add_command,
    add_profile,
    add_s_max,
    add_spec,
    bounded,
    json_or_csv,
    out,
    png,
)
from repo_builder.analysis.baselines import model_wise
from repo_builder.partition.cost import DEFAULT_PROFILE, Profile, load_profile
from repo_builder.partition.placement.cluster import Cluster, load_cluster
from repo_builder.partition.planner import make_plan
from repo_builder.simulation.fleets import (
    DEFAULT_TIMING,
    SimulatedFleet,
    SimulatedModel,
    Timing,
    planned_fleet,
    whole_fleet,
)
from repo_builder.simulation.play import simulate
from repo_builder.simulation.report import (
    Played,
    SimulationSummary,
    prices_over_time,
    report_csv,
    report_json,
    summarize,
)
from repo_builder.spec import Spec, load_spec
from repo_builder.traffic import load_traffic
from repo_builder.words import times_less
from repo_builder.writing import write_whole


def add(commands: Commands) -> None:
    """The command's words and help."""
    parser = add_command(
        commands,
        "simulate",
        "Play a traffic file against the plan's fleet and against replicas of the whole model, both scaled by the\n"
        "rules that `elasticrec k8s` renders and by Kubernetes' own arithmetic: replicas, memory, price and SLA\n"
        "misses over time, cold starts included.\n\n"
        "The traffic file is a CSV of `seconds,qps`: each row's rate holds until the next, the last row only ends it.\n"
        "Queries flow as a fluid: overload and backlog count, chance meetings on a busy server do not.",
        "elasticrec simulate rm1.yaml --traffic examples/traffic/day.csv --cluster cluster.yaml --plot day.png",
    )
    add_spec(parser)
    parser.add_argument("--traffic", type=Path, required=True, metavar="FILE", help="queries a second over time, CSV")
    add_profile(parser)
    add_s_max(parser)
    parser.add_argument(
        "--grouping",
        choices=["tiered", "per_table"],
        default="tiered",
        help="the plan's grouping of shards into services (default: %(default)s)",
    )
    parser.add_argument("--cluster", type=Path, metavar="FILE", help="nodes and their prices, for the price")
    _add_timing(parser)
    parser.add_argument("-o", "--output", type=json_or_csv, metavar="FILE", help="write what happened, .json or .csv")
    parser.add_argument("--plot", type=png, metavar="FILE", help="draw it as a PNG")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    parser.set_defaults(run=run)


def _add_timing(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--pod-start-s",
        type=bounded(float, 0, 86_400),
        default=DEFAULT_TIMING.pod_start_s,
        metavar="N",
        help="seconds until a new pod serves, beside loading its weights (default: %(default)g, a guess)",
    )
    parser.add_argument(
        "--load-gb-per-s",
        type=bounded(float, 0.001, 1000),
        default=DEFAULT_TIMING.load_bytes_per_s / 1e9,
        metavar="N",
        help="how fast a new pod loads its weights, GB/s (default: %(default)g, a guess)",
    )


def run(args: argparse.Namespace) -> None:
    """Do what they ask for."""
    spec, traffic = load_spec(args.spec), load_traffic(args.traffic)
    profile = load_profile(args.profile) if args.profile else DEFAULT_PROFILE
    cluster = load_cluster(args.cluster) if args.cluster else None
    timing = Timing(args.pod_start_s, args.load_gb_per_s * 1e9)
    played = []
    for fleet in _fleets(args, spec, profile):
        timeline = simulate(fleet, traffic, timing, spec.serving.sla_ms / 1000)
        played.append(Played(timeline, prices_over_time(timeline, cluster) if cluster else None))
    about = _about(args, spec, profile, cluster)
    if args.output:
        csv = args.output.suffix.lower() == ".csv"
        write_whole(args.output, report_csv(played) if csv else report_json(played, about, series=True))
    if args.plot:
        from repo_builder.simulation.plot import plot_simulation  # matplotlib is slow to import

        plot_simulation(f"{spec.name} under the traffic of {args.traffic.name}", played, args.plot)
    if args.json:
        print(report_json(played, about, series=False), end="")
    else:
        _print([summarize(each) for each in played], about)


def _fleets(args: argparse.Namespace, spec: Spec, profile: Profile) -> tuple[SimulatedFleet, SimulatedFleet]:
    """Model-wise and ours, for the spec's target traffic."""
    hotness = read_accesses(spec)
    model = SimulatedModel(spec.name, spec.serving.sla_ms, spec.serving.target_qps, profile)
    whole = model_wise(spec, profile)
    return (
        whole_fleet(model, whole.replicas(model.target_qps), whole.alone_s),
        planned_fleet(model, make_plan(spec, hotness, profile, args.grouping, args.s_max)),
    )


def _about(args: argparse.Namespace, spec: Spec, profile: Profile, cluster: Cluster | None) -> Mapping[str, object]:
    return {
        "spec": spec.name,
        "traffic": args.traffic.name,
        "profile": profile.name,
        "cluster": cluster.name if cluster else None,
        "sla_ms": spec.serving.sla_ms,
        "pod_start_s": args.pod_start_s,
        "load_bytes_per_s": args.load_gb_per_s * 1e9,
    }


def _print(summaries: list[SimulationSummary], about: Mapping[str, object]) -> None:
    whole, ours = summaries
    price = whole.price is not None
    table: Table = tables.plain_table(
        "fleet", "replicas, mean", "peak", "memory, mean", "peak", "past the SLA", *(["price"] if price else [])
    )
    for each in summaries:
        table.add_row(
            each.fleet,
            f"{each.mean_replicas:,.1f}",
            f"{each.peak_replicas:,}",
            tables.size(each.mean_memory_bytes),
            tables.size(each.peak_memory_bytes),
            f"{each.missed_share:.3%}",
            *([f"{each.price:,.2f}"] if each.price is not None else []),
        )
    out.print(table)
    times = [f"{times_less(whole.mean_memory_bytes / ours.mean_memory_bytes)} memory"]
    if whole.price is not None and ours.price:
        times.append(f"{times_less(whole.price / ours.price)} to pay (nodes as if sold in parts)")
    out.print(f"{ours.fleet} against {whole.fleet}, means over time: {', '.join(times)}", markup=False, soft_wrap=True)
    for each in summaries:
        if each.at_maximum:
            names = ", ".join(each.at_maximum)
            out.print(f"{each.fleet}: at its maximum: {names}; raise serving.target_qps", markup=False, soft_wrap=True)
    out.print(tables.profile_line(str(about["profile"])), markup=False, soft_wrap=True)
