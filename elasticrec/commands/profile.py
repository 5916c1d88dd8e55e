"""`elasticrec profile`."""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from elasticrec.commands.accesses import read_accesses
from elasticrec.commands.common import Commands, add_command, add_spec, bounded, err, out, png
from elasticrec.tables import plain_table, size
from repo_builder.access.progress import progress_bar
from repo_builder.errors import InputError
from repo_builder.spec import Spec, load_spec
from repo_builder.writing import write_whole

if TYPE_CHECKING:
    from repo_builder.profiling.points import ProfileOptions  # what it imports is slow to import

HELD_BYTES = 1 << 30  # of rows, by default
QUICK_HELD_BYTES = 1 << 28


def add(commands: Commands) -> None:
    """The command's words and help."""
    parser = add_command(
        commands,
        "profile",
        "Start real Triton servers with services like the spec's, measure them with perf_analyzer, and fit the cost\n"
        "model that `elasticrec plan --profile` takes. A replica is one server with one instance. It takes some 3\n"
        "minutes, with --quick less than one; let nothing else run. The client runs on the same machine, so that its\n"
        "processor time is part of what is measured.",
        "elasticrec profile rm1.yaml -o profile.json --plot fit.png",
    )
    add_spec(parser)
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path("profile.json"),
        metavar="FILE",
        help="the profile (default: %(default)s)",
    )
    parser.add_argument("--plot", type=png, metavar="FILE", help="draw the points and the fit as a PNG")
    parser.add_argument(
        "--seconds", type=bounded(float, 0.5, 600), metavar="S", help="time for each point (default: 3, --quick: 1)"
    )
    parser.add_argument("--quick", action="store_true", help="fewer points, each measured once: a first impression")
    parser.add_argument(
        "--rows",
        type=bounded(int, 1, 2**31 - 2),
        metavar="N",
        help="rows of the measured embedding service, in all (default: the spec's, at most 1 GiB of them; --quick: 256 "
        "MiB)",
    )
    parser.add_argument(
        "--grouping",
        choices=["tiered", "per_table"],
        default="tiered",
        help="measure a service that holds rows of all tables, or of one (default: %(default)s)",
    )
    parser.add_argument(
        "--shard-backend",
        choices=["python", "native"],
        default="python",
        help="what serves embedding services, as in build (default: %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="print the profile as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Do what they ask for."""
    spec = load_spec(args.spec)
    for path in filter(None, (args.output, args.plot)):
        if not path.absolute().parent.is_dir():
            raise InputError(f"{path}: expected a folder that exists, got {path.parent}; make it first")
    document = _profile(args, spec)
    text = json.dumps(document, indent=2, allow_nan=False) + "\n"
    write_whole(args.output, text)
    if args.json:
        print(text, end="")
    else:
        out.print(_table(document))
        out.print(_summary(document, args), markup=False, soft_wrap=True)


def _profile(args: argparse.Namespace, spec: Spec) -> dict[str, Any]:
    from repo_builder.profiling.document import profile_document  # torch, SciPy and matplotlib are slow to import
    from repo_builder.profiling.fit import fit_measured
    from repo_builder.profiling.measure import measure

    options = _options(args, spec)
    hotness = read_accesses(spec)
    with (
        tempfile.TemporaryDirectory(prefix="elasticrec-profile-") as folder,
        progress_bar(err, "measuring") as progress,
    ):
        measured = measure(spec, hotness, options, Path(folder), progress)
    fits = fit_measured(measured)
    document = profile_document(spec, options, measured, fits)
    if args.plot:
        from repo_builder.profiling.plot import plot_fit

        plot_fit(measured, fits, document["name"], args.plot)
    return document


def _options(args: argparse.Namespace, spec: Spec) -> ProfileOptions:
    from repo_builder.profiling.points import QUICK, STANDARD, ProfileOptions

    effort = QUICK if args.quick else STANDARD
    if args.seconds:
        effort = replace(effort, seconds=args.seconds)
    row_bytes = max(table.format.row_bytes for table in spec.model.tables)
    held_rows = (QUICK_HELD_BYTES if args.quick else HELD_BYTES) // row_bytes
    return ProfileOptions(args.grouping, args.shard_backend, args.rows or held_rows, effort)


def _table(document: dict[str, Any]) -> Table:
    """The points, one a line; beside those of a fit how far the model is from them."""
    table = plain_table(
        "service", "asked of it", "in flight", "queries/call", "queries/s", "p50 ms", "p95 ms", "model is off by"
    )
    for kind, unit in (("embedding", "gathers"), ("dense", "rows")):
        for point in document["points"][kind]:
            asked = f"{point[unit]:,} {point.get('accesses', '')} {unit}".replace(" spec ", " ")
            table.add_row(
                kind,
                " ".join(asked.split()),
                str(point["in_flight"]),
                f"{point['queries']:.2f}",
                f"{point['qps']:,.0f}",
                f"{point['p50_ms']:.2f}",
                f"{point['p95_ms']:.2f}",
                f"{point['residual']:+.0%}" if "residual" in point else "",
            )
    return table


def _summary(document: dict[str, Any], args: argparse.Namespace) -> str:
    time, batching, dense = document["service_time"], document["batching"], document["dense_service_time"]
    cache, fit = document["row_cache"], document["fit"]
    return "\n".join(
        [
            f"embedding call   {_us(batching['call_s'])} + queries x ({_us(batching['query_s'])} + "
            f"{_ns(time['per_gather_s'])} x gathers); RMS error {fit['embedding']['relative_rms']:.0%}",
            f"embedding query  {_us(time['fixed_s'])} + {_ns(time['per_gather_s'])} x gathers under full load, "
            f"{batching['queries']:.1f} queries a call",
            f"gathered row     {_ns(time['per_gather_s'])} with the spec's accesses to all rows, which the cuts go by; "
            f"{_ns(cache['hit_s'])} of a service within the cache ({size(cache['size_bytes'])}), "
            f"{_ns(cache['miss_s'])} of a larger one",
            f"dense query      {_us(dense['fixed_s'])} + {1e12 * dense['per_flop_s']:.1f} ps x operations; "
            f"RMS error {fit['dense']['relative_rms']:.0%}",
            f"remote call      {_us(document['remote_call_s'])} of latency, "
            f"{_us(document['client_cpu_s'])} of the caller's processor time",
            f"minimum memory   {size(document['min_memory_bytes'])} of a service that holds a row a table",
            f"wrote {args.output}; next: elasticrec plan {args.spec} --profile {args.output}",
        ]
    )


def _us(seconds: float) -> str:
    return f"{1e6 * seconds:,.0f} µs"


def _ns(seconds: float) -> str:
    return f"{1e9 * seconds:.1f} ns"
