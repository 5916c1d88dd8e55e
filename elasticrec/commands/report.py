"""`elasticrec report`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from elasticrec.commands.common import Commands, add_command, out
from loadtest.run import Run, read_run
from repo_builder.errors import InputError
from repo_builder.words import count
from repo_builder.writing import write_whole


def add(commands: Commands) -> None:
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
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Do what they ask for."""
    runs = _read(args.runs)
    from loadtest.report.page import page  # plotly is slow to import
    from loadtest.report.summary import report_csv, report_json

    write_whole(args.output, page(runs))
    if args.json:
        write_whole(args.json, report_json(runs))
    if args.csv:
        write_whole(args.csv, report_csv(runs))
    out.print(f"{args.output}: {count(len(runs), 'run')}", markup=False, soft_wrap=True)


def _read(paths: Sequence[Path]) -> list[Run]:
    """Every run, or every problem of all of the files."""
    runs: list[Run] = []
    problems: list[str] = []
    for path in paths:
        try:
            found = read_run(path)
        except InputError as exc:
            problems += exc.problems
            continue
        if not found.points and not found.timeline:
            why = f" ({found.why})" if found.why else ""
            problems.append(f"{path}: points: expected at least one, or a timeline, got neither{why}; measure again")
        runs.append(found)
    if problems:
        raise InputError(*problems)
    return runs
