"""`elasticrec profile`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.table import Table

from elasticrec import profiling
from elasticrec.commands.common import (
    Commands,
    add_command,
    add_grouping,
    add_shard_backend,
    add_spec,
    bounded,
    out,
    png,
    say,
    tell,
    watch,
)
from elasticrec.loading import load_spec
from elasticrec.tables import plain_table, size
from repo_builder.errors import InputError
from repo_builder.writing import write_whole


def add_profile(commands: Commands) -> None:
    """The command's words and help."""
    parser = add_command(
        commands,
        "profile",
        "Start real Triton servers with services like the spec's, measure them under load (embedding services with\n"
        "calls as front ends make them, dense ones with perf_analyzer), and fit the cost model that\n"
        "`elasticrec plan --profile` takes. A replica is a server with one instance on a core of its own; the load\n"
        "generator has the others. A capacity is the most queries per second within the spec's SLA, by the server's\n"
        "processor time. It takes some 4 minutes, with --quick one; let nothing else run.",
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
    add_grouping(parser, "measure a service that holds rows of all tables, or of one")
    add_shard_backend(parser, "what serves embedding services, as in build")
    parser.add_argument("--json", action="store_true", help="print the profile as JSON")
    parser.set_defaults(run=_profile)


def _profile(args: argparse.Namespace) -> None:
    spec = load_spec(args.spec)
    for path in filter(None, (args.output, args.plot)):
        if not path.absolute().parent.is_dir():
            raise InputError(f"{path}: expected a folder that exists, got {path.parent}; make it first")
    found = profiling.profile(
        spec,
        grouping=args.grouping,
        shard_backend=args.shard_backend,
        rows=args.rows,
        seconds=args.seconds,
        quick=args.quick,
        watch=watch,
        tell=tell,
    )
    if args.plot:
        from repo_builder.profiling.plot import plot_fit  # matplotlib is slow to import

        plot_fit(found.measured, found.fits, found.document["name"], args.plot)
    text = json.dumps(found.document, indent=2, allow_nan=False) + "\n"
    write_whole(args.output, text)
    if args.json:
        print(text, end="")
    else:
        out.print(_table(found.document))
        say(_summary(found.document, args))


def _table(document: Mapping[str, Any]) -> Table:
    """The points, one a line; beside those of a fit how far the model is from them."""
    table = plain_table(
        "service",
        "asked of it",
        "under way",
        "queries/call",
        "queries/s",
        "capacity",
        "p50 ms",
        "p95 ms",
        "model is off by",
    )
    for kind, unit in (("embedding", "gathers"), ("dense", "rows"), ("front", "ids")):
        for point in document["points"][kind]:
            asked = f"{point[unit]:,} {point.get('accesses', '')} {unit}".replace(" spec ", " ")
            calls = f", {point['services']} services" if "services" in point else ""
            calls += f" within {size(point['within_bytes'])}" if "within_bytes" in point else ""
            table.add_row(
                "front end" if kind == "front" else kind,
                " ".join(asked.split()) + calls,
                str(point["in_flight"]),
                f"{point['queries']:.2f}",
                f"{point['qps']:,.0f}",
                f"{point['capacity_qps']:,.0f}" if "capacity_qps" in point else "",
                f"{point['p50_ms']:.2f}",
                f"{point['p95_ms']:.2f}",
                f"{point['residual']:+.0%}" if "residual" in point else "",
            )
    return table


def _summary(document: Mapping[str, Any], args: argparse.Namespace) -> str:
    time, batching, dense = document["service_time"], document["batching"], document["dense_service_time"]
    cache, fit, light = document["row_cache"], document["fit"], document["light_load"]
    front = document["front_time"]
    levels = ", ".join(f"{_row(level)} within {size(level['size_bytes'])}" for level in document["row_levels"])
    return "\n".join(
        [
            f"embedding call   {_us(batching['call_s'])} + queries x ({_us(batching['query_s'])} + gathers); "
            f"RMS error {fit['embedding']['relative_rms']:.0%}",
            f"embedding query  {_us(time['fixed_s'])} + gathers under full load, "
            f"{batching['queries']:.1f} queries a call",
            f"lone query       {_us(light['fixed_s'])} + gathers of processor time",
            f"gathered row     {_row(time)} from memory, {_row(cache)} of the hottest {size(cache['size_bytes'])}; "
            f"RMS error {fit['rows']['relative_rms']:.0%}",
            f"of hot services  {levels}",
            f"dense query      {_us(dense['fixed_s'])} + {1e12 * dense['per_flop_s']:.1f} ps x operations; "
            f"RMS error {fit['dense']['relative_rms']:.0%}",
            f"front end        {_ns(front['per_id_s'])} x ids + {_us(front['per_call_s'])} x services beside the dense "
            f"query; RMS error {fit['front']['relative_rms']:.0%}",
            f"remote call      {_us(document['remote_call_s'])} of latency, "
            f"{_us(document['client_cpu_s'])} of the caller's processor time",
            f"minimum memory   {size(document['min_memory_bytes'])} of a service that holds a row per table",
            f"wrote {args.output}; next: elasticrec plan {args.spec} --profile {args.output}",
        ]
    )


def _us(seconds: float) -> str:
    return f"{1e6 * seconds:,.0f} µs"


def _row(price: Mapping[str, float]) -> str:
    return f"{_ns(price['per_row_s'])} + {1e12 * price['per_byte_s']:.0f} ps x bytes"


def _ns(seconds: float) -> str:
    return f"{1e9 * seconds:.1f} ns"
