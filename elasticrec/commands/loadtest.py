"""`elasticrec loadtest perf`."""

from __future__ import annotations

import argparse
import re
import shlex
import sys
import tempfile
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from itertools import pairwise
from pathlib import Path

from rich.table import Table

from elasticrec.commands.common import Commands, add_command, add_repository, bounded, err, out
from loadtest.perf_run import Load, Recording, concurrencies, request_rates, search, sweep
from loadtest.queries import load_queries
from loadtest.run import Run, write_run
from loadtest.servers import PORTS, behind
from loadtest.target import LoadTarget
from repo_builder.errors import InputError
from repo_builder.machine import machine_facts
from repo_builder.profiling import perf_analyzer
from repo_builder.profiling.perf_analyzer import LoadTestError
from repo_builder.repository.manifest import QUERIES, Manifest, load_manifest
from repo_builder.words import count


def add(commands: Commands) -> None:
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
    parser.set_defaults(run=run)


def _header(text: str) -> tuple[str, str]:
    """An argument type: a header's name, in lower case as gRPC wants it, and its value."""
    found = re.fullmatch(r"([\w.-]+):[ \t]*([\x20-\x7e]+)", text, re.ASCII)
    if not found:
        raise argparse.ArgumentTypeError(f"expected 'NAME: VALUE', got {text!r}")
    return found[1].lower(), found[2]


def run(args: argparse.Namespace) -> None:
    """Do what they ask for."""
    loads = [
        *(concurrencies(args.concurrency) if args.concurrency else ()),
        *(request_rates(args.request_rate) if args.request_rate else ()),
    ]
    if not loads and not args.search:
        loads = list(concurrencies("1:2"))
    manifest = load_manifest(args.repository)
    queries = load_queries(
        args.workload or args.repository / QUERIES, manifest.batch, manifest.inputs, manifest.outputs
    )
    perf_analyzer.find()  # tell now that it is missing
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "queries.json"
        target = _target(args, manifest, data)
        version = target.check()
        perf_analyzer.write_input_data(data, queries.file, manifest.inputs, manifest.batch)
        recording = Recording(_run(args, manifest, version), partial(write_run, args.output), target.servers.look)
        _measure(args, target, loads, recording)
    if args.json:
        print(recording.run.to_json(), end="")
    else:
        out.print(_table(recording.run))
        out.print(_summary(recording.run, args.output), markup=False, soft_wrap=True)


def _measure(args: argparse.Namespace, target: LoadTarget, loads: list[Load], recording: Recording) -> None:
    """All that was asked for; what was measured until an interruption or a failure stays in the file."""
    try:
        with err.status("measuring"):
            sweep(target, loads, recording)
            found_qps = search(target, recording.run.sla_ms or 0.0, recording) if args.search else None
        recording.finish(found_qps)
    except KeyboardInterrupt as exc:
        recording.cut_off("interrupted")
        raise LoadTestError(f"interrupted; {args.output} holds {count(len(recording.run.points), 'point')}") from exc
    except LoadTestError as exc:
        recording.cut_off(str(exc))
        raise


def _target(args: argparse.Namespace, manifest: Manifest, data: Path) -> LoadTarget:
    if args.url:
        host, _, port = args.url.rpartition(":")
        if not host or not port.isdigit() or not 0 < int(port) < 65536:
            raise InputError(f"--url: expected HOST:PORT, such as 127.0.0.1:{PORTS[args.protocol]}, got {args.url}")
    addresses, servers = behind(args.repository, manifest, args.protocol, args.url)
    asked, *others = addresses.split(",")
    if others:
        err.print(f"asking {asked}, one of {1 + len(others)} front ends: locust asks all", markup=False, soft_wrap=True)
    seconds, percentile, shared = args.seconds, args.percentile, args.shared_memory
    headers = dict(args.header)
    return LoadTarget(manifest.name, args.protocol, asked, data, seconds, percentile, shared, servers, headers)


def _run(args: argparse.Namespace, manifest: Manifest, version: str) -> Run:
    return Run(
        title=args.title or f"{manifest.name}, {manifest.layout}",
        tool="perf_analyzer",
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        command=("elasticrec", *_without_secrets(sys.argv[1:])),
        model=manifest.name,
        layout=manifest.layout,
        batch=manifest.batch,
        sla_ms=args.sla_ms or manifest.sla_ms,
        percentile=args.percentile,
        machine=machine_facts(version),
    )


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
