"""`elasticrec compare`."""

from __future__ import annotations

import argparse
from pathlib import Path

from elasticrec import tables, tables_compare
from elasticrec.commands.accesses import read_accesses
from elasticrec.commands.common import Commands, add_command, add_profile, add_s_max, bounded, json_or_csv, out, png
from repo_builder.analysis.compare import (
    ASSUMPTIONS,
    SWEEP_REPLICAS,
    Comparison,
    ComparisonReport,
    compare,
    report_csv,
    report_json,
)
from repo_builder.analysis.fleets import ComparisonCase
from repo_builder.partition.accesses import model_accesses
from repo_builder.partition.cost import DEFAULT_PROFILE, Profile, load_profile
from repo_builder.partition.placement.cluster import Cluster, load_cluster
from repo_builder.spec import load_spec
from repo_builder.writing import write_whole


def add(commands: Commands) -> None:
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
    parser.add_argument(
        "--replicas",
        type=bounded(int, 1, 10_000),
        default=10,
        metavar="N",
        help="compare at the traffic of N model-wise replicas (default: %(default)s)",
    )
    parser.add_argument("-o", "--output", type=json_or_csv, metavar="FILE", help="write all figures, .json or .csv")
    parser.add_argument("--plot", type=png, metavar="FILE", help="draw them as a PNG")
    parser.add_argument("--json", action="store_true", help="print them as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Do what they ask for."""
    profile = load_profile(args.profile) if args.profile else DEFAULT_PROFILE
    cluster = load_cluster(args.cluster)
    found = [_compare(path, profile, cluster, args) for path in args.specs]
    comparisons, sweeps = zip(*found, strict=True)
    report = ComparisonReport(profile, cluster, args.s_max, args.replicas, comparisons, sweeps)
    if args.output:
        write_whole(args.output, report_csv(report) if args.output.suffix == ".csv" else report_json(report))
    if args.plot:
        from repo_builder.analysis.compare_plot import plot_comparison  # matplotlib is slow to import

        plot_comparison(report, args.plot)
    if args.json:
        print(report_json(report), end="")
    else:
        _print(report)


def _compare(
    path: Path, profile: Profile, cluster: Cluster, args: argparse.Namespace
) -> tuple[Comparison, tuple[Comparison, ...]]:
    """One spec's comparison; its tables' accesses are dropped afterwards."""
    spec = load_spec(path)
    hotness = read_accesses(spec)
    case = ComparisonCase(spec, model_accesses(spec, hotness, keep=True), profile, cluster, args.s_max)
    return compare(case, args.replicas, SWEEP_REPLICAS)


def _print(report: ComparisonReport) -> None:
    for comparison in report.comparisons:
        out.print(tables_compare.comparison_table(comparison))
        out.print()
    out.print(tables_compare.averages_table(report))
    out.print()
    out.print(tables_compare.sweep_table(report))
    out.print()
    out.print(tables_compare.comparison_notes(report), markup=False, soft_wrap=True)
    out.print(tables.profile_line(report.profile.name), markup=False, soft_wrap=True)
