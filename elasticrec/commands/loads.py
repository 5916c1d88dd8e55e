"""`elasticrec workload`, `loadtest perf` and `report`."""

from __future__ import annotations

import argparse
import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

from rich.table import Table

from elasticrec import loads
from elasticrec.commands.common import Commands, add_command, add_repository, bounded, out, say, tell, watch
from loadtest.perf_run import concurrencies, request_rates
from loadtest.run import Run
from loadtest.servers import PORTS
from loadtest.workload import binary_words
from repo_builder.repository.manifest import load_manifest
from repo_builder.words import count


def add_workload(commands: Commands) -> None:
    """The command's words and help."""
    parser = add_command(
        commands,
        "workload",
        "Draw queries from the model's accesses, or replay those of a trace. The file's suffix says for\n"
        "whom: .npz for locust, .json for perf_analyzer's --input-data, none for its folder of binary files.",
        "elasticrec workload model_repository/rm1 -o workload.npz --queries 2000 --spec rm1.yaml --expected 200",
    )
    add_repository(parser)
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help=".npz, .json or a folder")
    parser.add_argument(
        "--queries", type=bounded(int, 1, 10_000_000), default=200, metavar="N", help="(default: %(default)s)"
    )
    parser.add_argument("--seed", type=bounded(int, 0, 2**63), default=0, metavar="N", help="(default: %(default)s)")
    either = parser.add_mutually_exclusive_group()
    either.add_argument("--trace", type=Path, metavar="FILE", help="replay this .parquet or .npz trace from its start")
    either.add_argument("--spec", type=Path, metavar="SPEC", help="the model's spec: for accesses that lie in a file")
    parser.add_argument(
        "--expected",
        type=bounded(int, 0, 10_000_000),
        default=0,
        metavar="N",
        help="add the whole model's answers to the first N queries to a .npz, of rows as DIR stores them, for locust "
        "to compare; needs --spec",
    )
    parser.set_defaults(run=_workload)


def _workload(args: argparse.Namespace) -> None:
    drawn = loads.workload(
        args.repository,
        args.output,
        queries=args.queries,
        seed=args.seed,
        trace=args.trace,
        spec=args.spec,
        expected=args.expected,
        watch=watch,
        tell=tell,
    )
    manifest = load_manifest(args.repository)
    if args.output.suffix:
        said = f"{count(args.queries, 'query')} of {count(manifest.batch, 'row')}"
    else:
        words = binary_words(args.output, drawn, manifest.inputs, manifest.batch)
        said = f"a query of {count(manifest.batch, 'row')}; perf_analyzer -m {manifest.name} {shlex.join(words)}"
    say(f"wrote {args.output}: {said}")


def add_loadtest(commands: Commands) -> None:
    """The command's words and help."""
    parser = add_command(
        commands,
        "loadtest",
        "Measure a served repository and record the run for a report. With locust: locust -f loadtest/locustfile.py.",
        "elasticrec loadtest perf model_repository/rm1 --search --sla-ms 50 -o run.json",
    )
    _add_perf(parser.add_subparsers(required=True, metavar="TOOL"))


def _add_perf(tools: Commands) -> None:
    parser = add_command(
        tools,
        "perf",
        "Measure at each load asked for, and search for the highest request rate whose percentile stays within the\n"
        "SLA (latency-bounded throughput). Without any of them: one and two queries in flight. Of a fleet that\n"
        "elasticrec up runs it asks a front end; all services' times and memory are recorded. Memory is known of\n"
        "servers on this machine.",
        "elasticrec loadtest perf model_repository/rm1 --concurrency 1:4 --request-rate 100:400:100 -o run.json",
        summary="with NVIDIA's perf_analyzer",
    )
    add_repository(parser)
    parser.add_argument(
        "--url",
        metavar="HOST:PORT",
        help="the server (default: 127.0.0.1:8001, http: 8000; of a running fleet its first front end)",
    )
    parser.add_argument(
        "--header",
        type=_header,
        action="append",
        default=[],
        metavar="'NAME: VALUE'",
        help="send it with every call, may be given again; of an API that the server restricts by KEY=VALUE: "
        "'KEY: VALUE' over HTTP, 'triton-grpc-protocol-KEY: VALUE' over gRPC. The run's file has no values",
    )
    parser.add_argument("--protocol", choices=list(PORTS), default="grpc", help="(default: %(default)s)")
    parser.add_argument("--concurrency", metavar="FIRST[:LAST[:STEP]]", help="queries always in flight")
    parser.add_argument("--request-rate", metavar="FIRST[:LAST[:STEP]]", help="queries/s, at Poisson times")
    parser.add_argument("--search", action="store_true", help="search for the highest rate within the SLA")
    parser.add_argument(
        "--sla-ms", type=bounded(float, 0.001, 1e6), metavar="MS", help="(default: that of the repository's spec)"
    )
    parser.add_argument(
        "--percentile", type=int, choices=[95, 99], default=95, help="that the SLA is of (default: %(default)s)"
    )
    parser.add_argument("--shared-memory", action="store_true", help="pass tensors in shared memory of one machine")
    parser.add_argument(
        "--seconds", type=bounded(float, 0.3, 3600), default=6.0, metavar="S", help="a load (default: %(default)s)"
    )
    parser.add_argument("--workload", type=Path, metavar="FILE", help=".npz of elasticrec workload")
    parser.add_argument("--title", metavar="TEXT", help="of the run in a report (default: the model and its layout)")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help="write the run as JSON")
    parser.add_argument("--json", action="store_true", help="print the run as JSON")
    parser.set_defaults(run=_perf)


def _header(text: str) -> tuple[str, str]:
    """An argument type: a header's name, in lower case as gRPC wants it, and its value."""
    found = re.fullmatch(r"([\w.-]+):[ \t]*([\x20-\x7e]+)", text, re.ASCII)
    if not found:
        raise argparse.ArgumentTypeError(f"expected 'NAME: VALUE', got {text!r}")
    return found[1].lower(), found[2]


def _perf(args: argparse.Namespace) -> None:
    run = loads.loadtest(
        args.repository,
        args.output,
        [
            *(concurrencies(args.concurrency) if args.concurrency else ()),
            *(request_rates(args.request_rate) if args.request_rate else ()),
        ],
        search=args.search,
        address=args.url,
        protocol=args.protocol,
        headers=dict(args.header),
        sla_ms=args.sla_ms,
        percentile=args.percentile,
        shared_memory=args.shared_memory,
        seconds=args.seconds,
        workload=args.workload,
        title=args.title,
        command=("elasticrec", *_without_secrets(sys.argv[1:])),
        watch=watch,
        tell=tell,
    )
    if args.json:
        print(run.to_json(), end="")
    else:
        out.print(_table(run))
        say(_summary(run, args.output))


def _without_secrets(words: Sequence[str]) -> Iterator[str]:
    """The words of a command line, the headers' values left out: they open what is restricted."""
    for before, word in pairwise(["", *words]):
        is_header = before == "--header" or word.startswith("--header=")
        yield re.sub(r":.*", ": ...", word) if is_header else word


def _table(run: Run) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in ("load", "queries/s", "p50 ms", "p95 ms", "p99 ms", "network ms", "queries"):
        table.add_column(column, justify="left" if column == "load" else "right")
    for point in run.points:
        load = f"{point.load:g} in flight" if point.load_kind == "concurrency" else f"{point.load:,.1f} queries/s"
        network = "" if point.network_ms is None else f"{point.network_ms:.2f}"
        figures = (point.p50_ms, point.p95_ms, point.p99_ms)
        shown = [f"{point.throughput_qps:,.1f}", *(f"{ms:.2f}" for ms in figures), network, f"{point.queries:,}"]
        table.add_row(load, *shown)
    return table


def _summary(run: Run, path: Path) -> str:
    found = ""
    if run.found_qps is not None:
        found = (
            f"latency-bounded throughput {run.found_qps:,.1f} queries/s: p{run.percentile} within {run.sla_ms:g} ms\n"
        )
    return f"{found}wrote {path}; the same again: {shlex.join(run.command)}"


def add_report(commands: Commands) -> None:
    """The command's words and help."""
    parser = add_command(
        commands,
        "report",
        "Show one or several load tests on one HTML page that needs no network: latency against throughput and over\n"
        "time, each service's share, memory, errors, the machine and the commands.",
        "elasticrec report model-wise.json single.json fleet.json -o report.html --csv report.csv",
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="what a load test wrote, JSON")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help="the HTML file to write")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all figures as JSON")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="also write all figures as CSV, one value a line")
    parser.set_defaults(run=_report)


def _report(args: argparse.Namespace) -> None:
    runs = loads.report(args.runs, args.output, json=args.json, csv=args.csv)
    say(f"{args.output}: {count(len(runs), 'run')}")
