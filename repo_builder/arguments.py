"""The command line's words, options and help."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # argparse has no public name for it
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

_EPILOG = """\
examples:
  elasticrec plan rm1.yaml                                what would be built, and why
  elasticrec build rm1.yaml -o model_repository/rm1       write the model repository
  elasticrec serve model_repository/rm1                   run tritonserver on it; Ctrl-C stops it
  elasticrec query model_repository/rm1                   send it sample rows, print the scores
  elasticrec demo                                         all of the above on a model made up for it

exit codes: 0 done, 2 bad input (one line a mistake, with the fix), 1 anything else.
Any Triton client works: the ensemble takes `dense` FP32 [B, dense_features] and `indices` INT64 [B, sum of pooling]
(-1 = an empty slot) and answers `score` FP32 [B, 1]."""


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the words after `elasticrec`; on a mistake argparse prints the usage and exits with 2."""
    parser = argparse.ArgumentParser(
        prog="elasticrec",
        description="Serve a recommendation model on NVIDIA Triton as services that scale alone: the dense layers, and "
        "embedding shards cut by hotness.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"elasticrec {metadata.version('elasticrec')}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for add in (_plan, _build, _verify, _serve, _query, _demo):
        add(commands)
    return parser.parse_args(arguments)


def _command(commands: Commands, name: str, summary: str, description: str, example: str) -> argparse.ArgumentParser:
    return commands.add_parser(
        name,
        help=summary,
        description=description,
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def _plan(commands: Commands) -> None:
    parser = _command(
        commands,
        "plan",
        "cut the tables into shards and print the plan",
        "Cut the embedding tables by hotness so that the fleet's memory is smallest at the spec's target traffic: the\n"
        "exact optimum of ElasticRec's dynamic program (ISCA 2024), at full row resolution.",
        "elasticrec plan rm1.yaml --grouping tiered --s-max 4 -o plan.json --plot hotness.png",
    )
    _spec(parser)
    _s_max(parser)
    parser.add_argument(
        "--profile",
        type=Path,
        metavar="FILE",
        help="measured service times (default: calls of 0.5 ms, 20 M gathers/s, 300 MB)",
    )
    parser.add_argument(
        "--grouping",
        choices=["tiered", "per_table"],
        default="tiered",
        help="tiered: a service holds one hotness tier of all tables; per_table: a service per shard, as in the paper "
        "(default: %(default)s)",
    )
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="write the plan as JSON")
    parser.add_argument("--plot", type=_png, metavar="FILE", help="draw the tables' hotness as a PNG")
    parser.add_argument("--json", action="store_true", help="print the plan as JSON")


def _build(commands: Commands) -> None:
    parser = _command(
        commands,
        "build",
        "write a Triton model repository",
        "Export the dense layers to ONNX, write the embedding shards, and wire them into a Triton ensemble. The\n"
        "folder appears whole or not at all; a former repository there is replaced.",
        "elasticrec build rm1.yaml -o model_repository/rm1 --plan plan.json",
    )
    _spec(parser)
    parser.add_argument(
        "-o", "--output", type=Path, metavar="DIR", help="the repository's folder (default: model_repository/NAME)"
    )
    either = parser.add_mutually_exclusive_group()
    either.add_argument(
        "--plan", type=Path, metavar="FILE", help="a plan from elasticrec plan (default: plan now, tiered)"
    )
    _s_max(either)
    parser.add_argument(
        "--layout", choices=["single"], default="single", help="single: one server, one ensemble (default: %(default)s)"
    )
    parser.add_argument("--cpu-only", action="store_true", help="place on the CPU what the plan places on GPUs")


def _verify(commands: Commands) -> None:
    parser = _command(
        commands,
        "verify",
        "check a repository's files against its manifest",
        "Check that every file is there with the size and SHA-256 that the manifest lists, and that there is no other.",
        "elasticrec verify model_repository/rm1",
    )
    _repository(parser)


def _serve(commands: Commands) -> None:
    parser = _command(
        commands,
        "serve",
        "run tritonserver on a repository",
        "Run tritonserver in the foreground: the one on PATH or in /opt/tritonserver, else that of PyPI's\n"
        "nvidia-pytriton. Prints its addresses, and `ready` when it is; Ctrl-C stops it and leaves nothing behind.",
        "elasticrec serve model_repository/rm1 --http-port 9000 --grpc-port 9001 --metrics-port 9002",
    )
    _repository(parser)
    for name, port in (("http", 8000), ("grpc", 8001), ("metrics", 8002)):
        parser.add_argument(
            f"--{name}-port", type=_bounded(int, 1, 65535), default=port, metavar="N", help="(default: %(default)s)"
        )
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on (default: %(default)s)")
    parser.add_argument("--log-file", type=Path, metavar="FILE", help="the server's log (default: DIR.log)")


def _query(commands: Commands) -> None:
    parser = _command(
        commands,
        "query",
        "send sample rows to a served model",
        "Send the repository's sample rows, which were drawn from the model's accesses, in one query, and\n"
        "print the scores.",
        "elasticrec query model_repository/rm1 --protocol http --rows 4",
    )
    _repository(parser)
    parser.add_argument("--protocol", choices=["grpc", "http"], default="grpc", help="(default: %(default)s)")
    parser.add_argument("--url", metavar="HOST:PORT", help="(default: port 8001 or 8000 of this machine)")
    parser.add_argument("--rows", type=_bounded(int, 1, 256), default=8, metavar="N", help="(default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print the scores as JSON")


def _demo(commands: Commands) -> None:
    parser = _command(
        commands,
        "demo",
        "train-free tour: build, serve, query, compare, measure",
        "Write a DLRM checkpoint of ten tables, build it, serve it, compare its scores with PyTorch's over gRPC and\n"
        "HTTP, measure it with perf_analyzer, and stop. Exits with 1 where a score differs.",
        "elasticrec demo --rows 50000",
    )
    parser.add_argument(
        "--rows",
        type=_bounded(int, 1000, 20_000_000),
        default=200_000,
        metavar="N",
        help="rows a table (default: %(default)s)",
    )
    parser.add_argument(
        "--queries",
        type=_bounded(int, 1, 100_000),
        default=1000,
        metavar="N",
        help="rows to compare (default: %(default)s)",
    )
    parser.add_argument(
        "--seconds",
        type=_bounded(float, 1, 600),
        default=10.0,
        metavar="S",
        help="time for perf_analyzer (default: %(default)s)",
    )
    parser.add_argument(
        "-o", "--output", type=Path, metavar="DIR", help="keep checkpoint, spec and repository there (default: removed)"
    )


def _spec(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("spec", type=Path, metavar="SPEC", help="the model spec, YAML or JSON")


def _repository(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("repository", type=Path, metavar="DIR", help="a built repository")


def _s_max(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--s-max",
        type=_bounded(int, 1, 16),
        default=16,
        metavar="N",
        help="at most N shards a table (default: %(default)s)",
    )


def _png(text: str) -> Path:
    if not text.lower().endswith(".png"):
        raise argparse.ArgumentTypeError(f"expected a name ending in .png, got {text}")
    return Path(text)


def _bounded(kind: Callable[[str], float], low: float, high: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = float("nan")
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"expected a number from {low} to {high}, got {text}")
        return value

    return parse
