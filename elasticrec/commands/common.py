"""What the commands share: what they write to the terminal, and the options and argument types of several."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

import rich.progress
from rich.console import Console

from elasticrec.commands import COMMANDS
from elasticrec.loading import load_profile
from repo_builder.output import Progress
from repo_builder.partition.cost import DEFAULT_MEASURED_ON, Profile
from repo_builder.partition.worth import LEAST_SAVING, PROFILE_ERROR

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # argparse has no public name for it

out = Console(highlight=False, emoji=False, width=None if sys.stdout.isatty() else 160)
err = Console(stderr=True, highlight=False, emoji=False)


def say(text: str) -> None:
    """Print text on standard output, as it is."""
    out.print(text, markup=False, soft_wrap=True)


def tell(line: str) -> None:
    """Print on standard error what the user should know, as it is."""
    err.print(line, markup=False, soft_wrap=True)


def warn(line: str) -> None:
    """The same, after the program's name."""
    tell(f"elasticrec: {line}")


@contextmanager
def watch(label: str) -> Iterator[Progress]:
    """Draw a bar while standard error is a terminal, and nothing where it is a pipe or a file."""
    columns = (*rich.progress.Progress.get_default_columns(), rich.progress.TimeElapsedColumn())
    bar = rich.progress.Progress(*columns, console=err, transient=True, disable=not err.is_terminal)
    with bar:
        task = bar.add_task(label, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextmanager
def stdout_to_stderr() -> Iterator[None]:
    """Send what is written to the file descriptor of standard output to that of standard error.

    HiGHS prints a debugging line there at times, whatever its options say; `--json` must stay JSON.
    """
    sys.stdout.flush()
    kept = os.dup(1)
    try:
        os.dup2(2, 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def add_command(
    commands: Commands, name: str, description: str, example: str, summary: str | None = None
) -> argparse.ArgumentParser:
    """A command's parser: its line in the list of commands (default: that of COMMANDS), its own help and an example."""
    return commands.add_parser(
        name,
        help=summary or COMMANDS[name].summary,
        description=description,
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_spec(parser: argparse.ArgumentParser) -> None:
    """The positional SPEC."""
    parser.add_argument("spec", type=Path, metavar="SPEC", help="the model spec, YAML or JSON")


def add_repository(parser: argparse.ArgumentParser) -> None:
    """The positional DIR."""
    parser.add_argument("repository", type=Path, metavar="DIR", help="a built repository")


def add_s_max(parser: argparse._ActionsContainer) -> None:
    """The option --s-max."""
    parser.add_argument(
        "--s-max",
        type=bounded(int, 1, 16),
        default=16,
        metavar="N",
        help="at most N shards per table (default: %(default)s)",
    )


def add_profile(parser: argparse._ActionsContainer) -> None:
    """The options --profile and --size-by."""
    parser.add_argument(
        "--profile",
        type=Path,
        metavar="FILE",
        help=f"what elasticrec profile measured (default: what it found elsewhere: {DEFAULT_MEASURED_ON})",
    )
    parser.add_argument(
        "--size-by",
        choices=["capacity", "cpu"],
        default="capacity",
        help="count replicas by the most queries/s within the SLA of one on a core of its own; or by the CPU of a "
        "query that comes alone, as a fleet at light load shows it (default: %(default)s)",
    )


def given_profile(args: argparse.Namespace) -> Profile:
    """The profile of the options --profile and --size-by."""
    return load_profile(args.profile).sized_by(args.size_by)


def add_grouping(parser: argparse._ActionsContainer, told: str, default: str | None = "tiered") -> None:
    """The option --grouping; what `told` says of it ends with its default where that is none of its values."""
    ending = " (default: %(default)s)" if default else ""
    parser.add_argument("--grouping", choices=["tiered", "per_table"], default=default, help=f"{told}{ending}")


def add_cutting(parser: argparse._ActionsContainer) -> None:
    """The options --least-saving and --profile-error."""
    parser.add_argument(
        "--least-saving",
        type=bounded(float, 0, 0.99),
        default=LEAST_SAVING,
        metavar="SHARE",
        help="merge cuts whose service saves less than this share of the embedding services' memory and the front ends "
        "that its calls take up; 0: merge none and take the profile to the letter, the paper's recurrence (default: "
        "%(default)s)",
    )
    parser.add_argument(
        "--profile-error",
        type=bounded(float, 0, 0.9),
        default=PROFILE_ERROR,
        metavar="SHARE",
        help="the profile's times may be off by this share, either way: cut so that the memory is least on average "
        "over that; 0: by the profile to the letter (default: %(default)s)",
    )


def add_shard_backend(parser: argparse._ActionsContainer, told: str) -> None:
    """The option --shard-backend."""
    parser.add_argument(
        "--shard-backend", choices=["python", "native"], default="python", help=f"{told} (default: %(default)s)"
    )


def json_or_csv(text: str) -> Path:
    """An argument type: the name of a JSON or CSV file."""
    if not text.lower().endswith((".json", ".csv")):
        raise argparse.ArgumentTypeError(f"expected a name ending in .json or .csv, got {text}")
    return Path(text)


def png(text: str) -> Path:
    """An argument type: the name of a PNG file."""
    if not text.lower().endswith(".png"):
        raise argparse.ArgumentTypeError(f"expected a name ending in .png, got {text}")
    return Path(text)


def bounded(kind: Callable[[str], float], low: float, high: float) -> Callable[[str], float]:
    """An argument type: a number of that kind from low to high."""

    def parse(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = float("nan")
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"expected a number from {low} to {high}, got {text}")
        return value

    return parse
