"""`elasticrec demo`."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from elasticrec import tables
from elasticrec.commands.common import Commands, add_command, bounded, out

if TYPE_CHECKING:
    from elasticrec.demo import Report  # it imports torch


def add(commands: Commands) -> None:
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
        help="rows a table (default: %(default)s)",
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
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Do what they ask for."""
    from elasticrec.demo import Options, run_demo

    with tempfile.TemporaryDirectory(prefix="elasticrec-demo-") as scratch:
        options = Options(args.output or Path(scratch), args.rows, args.queries, args.seconds)
        run_demo(options, lambda line: out.print(line, markup=False, soft_wrap=True), _show)


def _show(report: Report) -> None:
    out.print(tables.demo_table(report))
    out.print(tables.demo_summary(report), markup=False, soft_wrap=True)
    out.print()
