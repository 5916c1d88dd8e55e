"""The words after `elasticrec`: only the room of the command that is asked for is read."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from elasticrec.commands import COMMANDS
from repo_builder.errors import InputError

_WRITTEN = {"output", "plot", "json", "csv", "log_file"}
"""The arguments that name files to write."""

_EPILOG = """\
examples:
  elasticrec check rm1.yaml                               is all right with it, its weights and accesses?
  elasticrec plan rm1.yaml                                what would be built, and why
  elasticrec compare rm1.yaml --cluster cpu.yaml          beside replicating the whole model
  elasticrec build rm1.yaml -o model_repository/rm1       write the model repository
  elasticrec serve model_repository/rm1                   run tritonserver on it; Ctrl-C stops it
  elasticrec query model_repository/rm1                   send it sample rows, print the scores
  elasticrec demo                                         all of the above on a model made up for it

exit codes: 0 done, 2 bad input (one line a mistake, with the fix), 130 Ctrl-C (143 SIGTERM), 1 anything else.
Any Triton client works: the ensemble takes `dense` FP32 [B, dense_features] and `indices` INT64 [B, sum of pooling]
(-1 = an empty slot) and answers `score` FP32 [B, 1]."""


class _Version(argparse.Action):
    """Print the version; looking it up is slow, so only when it is asked for."""

    def __init__(self, **words: Any) -> None:
        super().__init__(**words, nargs=0, default=argparse.SUPPRESS, help="show the version and exit")

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib import metadata

        parser.exit(message=f"elasticrec {metadata.version('elasticrec')}\n")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse them (None: the process's own); on a mistake argparse prints the usage and exits with 2."""
    words = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(
        prog="elasticrec",
        description="Serve a recommendation model on NVIDIA Triton as services that scale alone: the dense layers, and "
        "embedding shards cut by hotness.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action=_Version)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    wanted = next((word for word in words if not word.startswith("-")), None)  # no option before it takes a value
    for name, command in COMMANDS.items():
        if name == wanted:
            add_whole(name, commands)
        else:
            commands.add_parser(name, help=command.summary)
    return parser.parse_args(words)


def add_whole(name: str, commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Read the room of a command, and add all of its words."""
    room = import_module(f"elasticrec.commands.{COMMANDS[name].room}")
    getattr(room, f"add_{name}")(commands)


def check_outputs(args: argparse.Namespace) -> None:
    """Raise InputError where a command would write over what it reads."""
    given = {name: values if isinstance(values, list) else [values] for name, values in vars(args).items()}
    paths = {name: [value for value in values if isinstance(value, Path)] for name, values in given.items()}
    read = [path for name in paths.keys() - _WRITTEN for path in paths[name]]
    for path in [path for name in _WRITTEN & paths.keys() for path in paths[name]]:
        if any(_is_same(path, other) for other in read):
            raise InputError(f"{path}: expected another file to write than one that is read; choose another")


def _is_same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except (OSError, ValueError):  # where one is not there, or no path at all
        return False
