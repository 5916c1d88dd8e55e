"""`elasticrec demo`."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from elasticrec.commands.common import Commands, add_command, bounded, out, say
from elasticrec.tables import plain_table, size
from repo_builder.words import count

if TYPE_CHECKING:
    from elasticrec.demo import Report  # it imports torch


def add_demo(commands: Commands) -> None:
    """The command's words and help."""
    parser = add_command(
        commands,
        "demo",
        "Write a DLRM checkpoint of ten tables, build it, serve it, compare its scores with PyTorch's over gRPC and\n"
        "HTTP, measure it with perf_analyzer, and stop; then the same with a DCN-v2 that torch.export wrote. Exits\n"
        "with 1 where a score differs.",
        "elasticrec demo --rows 50000",
    )
    parser.add_argument(
        "--rows",
        type=bounded(int, 1000, 20_000_000),
        default=200_000,
        metavar="N",
        help="rows per table (default: %(default)s)",
    )
    parser.add_argument(
        "--queries",
        type=bounded(int, 1, 100_000),
        default=1000,
        metavar="N",
        help="rows to compare (default: %(default)s)",
    )
    parser.add_argument(
        "--seconds",
        type=bounded(float, 1, 600),
        default=10.0,
        metavar="S",
        help="time for perf_analyzer (default: %(default)s)",
    )
    parser.add_argument(
        "-o", "--output", type=Path, metavar="DIR", help="keep models, specs and repositories there (default: removed)"
    )
    parser.set_defaults(run=_demo)


def _demo(args: argparse.Namespace) -> None:
    from elasticrec.demo import Options, run_demo

    with tempfile.TemporaryDirectory(prefix="elasticrec-demo-") as scratch:
        options = Options(args.output or Path(scratch), args.rows, args.queries, args.seconds)
        run_demo(options, say, _show)


def _show(report: Report) -> None:
    out.print(demo_table(report))
    say(demo_summary(report))
    out.print()


def demo_table(report: Report) -> Table:
    """The served models: what each holds, its processes' memory, and a request's mean times."""
    from repo_builder.repository.configs import router_threads  # imports Triton's protobuf: only where it is needed

    table = plain_table(
        "model", "instances", "rows", "memory (PSS)", "requests", "requests/call", "queue ms", "compute ms"
    )
    services = {f"{report.spec.name}_{service.name}": service for service in report.plan.services}
    instances = {name: service.instances * service.deployed for name, service in services.items()}
    router = f"{report.spec.name}_router"
    instances[router] = router_threads(report.plan)
    for name in [router, *services, report.spec.name, "tritonserver"]:
        service, times = services.get(name), report.times.get(name)
        rows = sum(shard.rows for shard in service.shards) if service else 0
        table.add_row(
            name,
            str(instances.get(name, "")),
            f"{rows:,}" if rows else "",
            size(report.memory[name]) if name in report.memory else "",
            f"{times.requests:,}" if times else "",
            f"{times.requests / times.executions:.2f}" if times and times.executions else "",
            f"{times.queue_ms:.2f}" if times else "",
            f"{times.compute_ms:.2f}" if times else "",
        )
    return table


def demo_summary(report: Report) -> str:
    """Throughput, latencies, memory and the verdict."""
    found = report.measurement
    whole = report.spec.model.size_bytes
    return (
        f"throughput {found.throughput_qps:.0f} queries/s of {count(report.spec.serving.batch, 'row')}, "
        f"latency p50 {found.p50_ms:.2f} ms, p95 {found.p95_ms:.2f} ms, p99 {found.p99_ms:.2f} ms\n"
        f"memory {size(sum(report.memory.values()))} in all, of it tables {size(whole)}\n"
        f"scores equal PyTorch's: max abs difference {max(report.differences.values()):.1e}"
    )
