"""What the commands share: the two consoles and argument types."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from rich.console import Console

from elasticrec.commands import SUMMARIES

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # argparse has no public name for it

out = Console(highlight=False, emoji=False, width=None if sys.stdout.isatty() else 160)
err = Console(stderr=True, highlight=False, emoji=False)


def add_command(
    commands: Commands, name: str, description: str, example: str, summary: str | None = None
) -> argparse.ArgumentParser:
    """A command's parser: its line in the list of commands (default: SUMMARIES), its own help and an example."""
    return commands.add_parser(
        name,
        help=summary or SUMMARIES[name],
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
        help="at most N shards a table (default: %(default)s)",
    )


def add_profile(parser: argparse._ActionsContainer) -> None:
    """The option --profile."""
    parser.add_argument(
        "--profile",
        type=Path,
        metavar="FILE",
        help="measured service times (default: calls of 0.5 ms, 20 M gathers/s, 300 MB)",
    )


def warn(line: str) -> None:
    """Say on stderr, in one line, what the user should know."""
    err.print(f"elasticrec: {line}", markup=False, soft_wrap=True)


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
