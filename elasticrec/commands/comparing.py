"""`elasticrec compare` and `simulate`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from elasticrec import comparing, tables_compare
from elasticrec.commands.common import (
    Commands,
    add_command,
    add_cutting,
    add_grouping,
    add_profile,
    add_s_max,
    add_spec,
    bounded,
    given_profile,
    json_or_csv,
    out,
    png,
    say,
    tell,
    watch,
)
from elasticrec.loading import load_cluster, load_spec
from elasticrec.tables import profile_line
from repo_builder.analysis.compare import ASSUMPTIONS, ComparisonReport
from repo_builder.analysis.compare import report_csv as comparison_csv
from repo_builder.analysis.compare import report_json as comparison_json
from repo_builder.partition.cost import Profile
from repo_builder.partition.placement.cluster import Cluster
from repo_builder.simulation.fleets import DEFAULT_TIMING, Timing
from repo_builder.simulation.report import SimulationSummary, report_csv, report_json, summarize
from repo_builder.spec import Spec
from repo_builder.writing import write_whole


def add_compare(commands: Commands) -> None:
    """The command's words and help."""
    parser = add_command(
        commands,
        "compare",
        "Compare ElasticRec's plans with replicating the whole model, with and without a GPU embedding cache, at\n"
        "equal traffic on one cluster; and sweep the traffic from 1 to 100 model-wise replicas.\n\n"
        + "\n".join(f"- {assumption}" for assumption in ASSUMPTIONS),
        "elasticrec compare examples/paper/*.yaml --cluster examples/clusters/cpu.yaml --plot compare.png",
    )
    parser.add_argument("specs", type=Path, nargs="+", metavar="SPEC", help="model specs, YAML or JSON")
    parser.add_argument("--cluster", type=Path, required=True, metavar="FILE", help="the nodes and their prices")
    add_profile(parser)
    add_s_max(parser)
    add_cutting(parser)
    parser.add_argument(
        "--replicas",
        type=bounded(int, 1, 10_000),
        default=10,
        metavar="N",
        help="compare at the traffic of N model-wise replicas (default: %(default)s)",
    )
    parser.add_argument(
        "--row-speed",
        action="store_true",
        help="also measure on this machine how fast rows of each format are read, which takes some seconds",
    )
    parser.add_argument(
        "-o", "--output", type=json_or_csv, metavar="FILE", help="write all figures, .json or .csv (no row formats)"
    )
    parser.add_argument("--plot", type=png, metavar="FILE", help="draw them as a PNG")
    parser.add_argument("--json", action="store_true", help="print them as JSON")
    parser.set_defaults(run=_compare)


def _compare(args: argparse.Namespace) -> None:
    profile = given_profile(args)
    cluster = load_cluster(args.cluster)
    report = comparing.compare(
        (load_spec(path) for path in args.specs),
        cluster,
        profile=profile,
        s_max=args.s_max,
        least_saving=args.least_saving,
        profile_error=args.profile_error,
        replicas=args.replicas,
        row_speed=args.row_speed,
        watch=watch,
        tell=tell,
    )
    if args.output:
        as_csv = args.output.suffix == ".csv"
        write_whole(args.output, comparison_csv(report) if as_csv else comparison_json(report))
    if args.plot:
        from repo_builder.analysis.compare_plot import plot_comparison  # matplotlib is slow to import

        plot_comparison(report, args.plot)
    if args.json:
        print(comparison_json(report), end="")
    else:
        _print_comparison(report)


def _print_comparison(report: ComparisonReport) -> None:
    for comparison in report.comparisons:
        out.print(tables_compare.comparison_table(comparison))
        out.print()
    for found in report.row_formats:
        out.print(tables_compare.row_formats_table(found))
        out.print()
    out.print(tables_compare.averages_table(report))
    out.print()
    out.print(tables_compare.gains_table(report))
    out.print()
    say(tables_compare.comparison_notes(report))
    say(profile_line(report.profile.name))


def add_simulate(commands: Commands) -> None:
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
    parser.add_argument("--traffic", type=Path, required=True, metavar="FILE", help="queries per second over time, CSV")
    add_profile(parser)
    add_s_max(parser)
    add_grouping(parser, "the plan's grouping of shards into services")
    parser.add_argument("--cluster", type=Path, metavar="FILE", help="nodes and their prices, for the price")
    _add_timing(parser)
    parser.add_argument("-o", "--output", type=json_or_csv, metavar="FILE", help="write what happened, .json or .csv")
    parser.add_argument("--plot", type=png, metavar="FILE", help="draw it as a PNG")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    parser.set_defaults(run=_simulate)


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


def _simulate(args: argparse.Namespace) -> None:
    spec, traffic = load_spec(args.spec), comparing.load_traffic(args.traffic)
    profile = given_profile(args)
    cluster = load_cluster(args.cluster) if args.cluster else None
    timing = Timing(args.pod_start_s, args.load_gb_per_s * 1e9)
    played = comparing.simulate(
        spec,
        traffic,
        profile=profile,
        cluster=cluster,
        grouping=args.grouping,
        s_max=args.s_max,
        timing=timing,
        watch=watch,
        tell=tell,
    )
    about = _about(args, spec, profile, cluster, timing)
    if args.output:
        csv = args.output.suffix.lower() == ".csv"
        write_whole(args.output, report_csv(played) if csv else report_json(played, about, series=True))
    if args.plot:
        from repo_builder.simulation.plot import plot_simulation  # matplotlib is slow to import

        plot_simulation(f"{spec.name} under the traffic of {args.traffic.name}", played, args.plot)
    if args.json:
        print(report_json(played, about, series=False), end="")
    else:
        _print_simulation([summarize(each) for each in played], profile)


def _about(
    args: argparse.Namespace, spec: Spec, profile: Profile, cluster: Cluster | None, timing: Timing
) -> Mapping[str, object]:
    return {
        "spec": spec.name,
        "traffic": args.traffic.name,
        "profile": profile.name,
        "cluster": cluster.name if cluster else None,
        "sla_ms": spec.serving.sla_ms,
        "pod_start_s": timing.pod_start_s,
        "load_bytes_per_s": timing.load_bytes_per_s,
    }


def _print_simulation(summaries: Sequence[SimulationSummary], profile: Profile) -> None:
    out.print(tables_compare.simulation_table(summaries))
    say(tables_compare.simulation_summary(summaries))
    say(profile_line(profile.name))
