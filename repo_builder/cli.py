"""The command line: parses, calls a command, and turns errors into one line each and an exit code."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from importlib import metadata

from repo_builder.commands import (
    build,
    compare,
    demo,
    down,
    k8s,
    loadtest,
    logs,
    plan,
    profile,
    ps,
    query,
    report,
    scale,
    serve,
    simulate,
    up,
    verify,
    workload,
)
from repo_builder.commands.common import err, on_ending
from repo_builder.errors import ElasticRecError

_COMMANDS = (
    plan,
    profile,
    compare,
    simulate,
    build,
    verify,
    serve,
    query,
    workload,
    loadtest,
    report,
    k8s,
    up,
    ps,
    scale,
    logs,
    down,
    demo,
)

_EPILOG = """\
examples:
  elasticrec plan rm1.yaml                                what would be built, and why
  elasticrec compare rm1.yaml --cluster cpu.yaml          beside replicating the whole model
  elasticrec build rm1.yaml -o model_repository/rm1       write the model repository
  elasticrec serve model_repository/rm1                   run tritonserver on it; Ctrl-C stops it
  elasticrec query model_repository/rm1                   send it sample rows, print the scores
  elasticrec demo                                         all of the above on a model made up for it

exit codes: 0 done, 2 bad input (one line a mistake, with the fix), 1 anything else.
Any Triton client works: the ensemble takes `dense` FP32 [B, dense_features] and `indices` INT64 [B, sum of pooling]
(-1 = an empty slot) and answers `score` FP32 [B, 1]."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code: 0 done, 2 bad input, 1 anything else."""
    args = _parse(arguments)
    on_ending(signal.default_int_handler)  # what is under way is undone, as on Ctrl-C
    try:
        args.run(args)
    except ElasticRecError as exc:
        for line in str(exc).splitlines():
            err.print(f"elasticrec: {line}", markup=False, soft_wrap=True)
        return exc.exit_code
    except KeyboardInterrupt:
        err.print("elasticrec: interrupted; nothing was left behind")
        return 1
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader left: nothing more to say
        return 1
    except OSError as exc:
        err.print(f"elasticrec: {exc}", markup=False, soft_wrap=True)
        return 1
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
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
    for command in _COMMANDS:
        command.add(commands)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
