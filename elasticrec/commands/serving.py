"""`elasticrec verify`, `serve` and `query`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from elasticrec import serving
from elasticrec.commands.common import Commands, add_command, add_repository, bounded, out, warn
from elasticrec.tables import score_error_line
from repo_builder.errors import InputError
from repo_builder.model.arrays import Array, has_rows
from repo_builder.repository.manifest import load_manifest
from repo_builder.words import count

_SHOWN = 8  # numbers of an output in a row


def add_verify(commands: Commands) -> None:
    """The command's words and help."""
    parser = add_command(
        commands,
        "verify",
        "Check that every file is there with the size and SHA-256 that the manifest lists, and that there is no other.",
        "elasticrec verify model_repository/rm1",
    )
    add_repository(parser)
    parser.set_defaults(run=_verify)


def _verify(args: argparse.Namespace) -> None:
    manifest = serving.verify(args.repository)
    out.print(
        f"{args.repository}: {count(len(manifest.files), 'file')} as built (plan {manifest.plan_sha256[:12]})",
        markup=False,
    )
    if manifest.proof and manifest.proof.score_error:
        out.print(score_error_line(manifest.proof.score_error))


def add_serve(commands: Commands) -> None:
    """The command's words and help."""
    parser = add_command(
        commands,
        "serve",
        "Run tritonserver in the foreground: the one on PATH or in /opt/tritonserver, else that of PyPI's\n"
        "nvidia-pytriton. First every file is checked against the manifest, as elasticrec verify does. Prints its\n"
        "addresses, and `ready` when it is; Ctrl-C stops it and leaves nothing behind.",
        "elasticrec serve model_repository/rm1 --http-port 9000 --grpc-port 9001 --metrics-port 9002",
    )
    add_repository(parser)
    for name, port in (("http", 8000), ("grpc", 8001), ("metrics", 8002)):
        parser.add_argument(
            f"--{name}-port", type=bounded(int, 1, 65535), default=port, metavar="N", help="(default: %(default)s)"
        )
    parser.add_argument(
        "--calls-port",
        type=bounded(int, 1, 65535),
        metavar="N",
        help="where a fleet's native embedding service takes front ends' calls past Triton's gRPC (default: nowhere)",
    )
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on (default: %(default)s)")
    parser.add_argument("--log-file", type=Path, metavar="FILE", help="the server's log (default: DIR-PORT.log)")
    parser.set_defaults(run=_serve)


def _serve(args: argparse.Namespace) -> None:
    from repo_builder.repository.native import listens  # these import gRPC's Python
    from repo_builder.serving import faults
    from repo_builder.serving.server import Ports, wait

    whole = serving.servable(args.repository.resolve())
    ports = Ports(args.http_port, args.grpc_port, args.metrics_port, args.calls_port)
    if ports.calls is not None and not listens(args.repository):
        raise InputError(
            "--calls-port: expected a fleet's embedding service, built by this version with --shard-backend native, "
            f"got {args.repository}, whose calls all come to --grpc-port; leave the option out"
        )
    with serving.serve(args.repository, ports=ports, host=args.host, log=args.log_file) as server:
        try:
            print(f"model    {load_manifest(whole).name}")
            print(f"http     {server.http}")
            print(f"grpc     {server.grpc}")
            if server.ports.calls is not None:
                print(f"calls    {server.calls}")
            print(f"metrics  {server.metrics}")
            print(f"log      {server.log}")
            print("ready", flush=True)
            if told := faults.warning(faults.version_of(server.http) or ""):
                warn(told)
            wait(server)
        except KeyboardInterrupt:
            print("stopping", flush=True)


def add_query(commands: Commands) -> None:
    """The command's words and help."""
    parser = add_command(
        commands,
        "query",
        "Send the repository's sample rows, which were drawn from the model's accesses, in one query, and\n"
        "print the outputs.",
        "elasticrec query model_repository/rm1 --protocol http --rows 4",
    )
    add_repository(parser)
    parser.add_argument("--protocol", choices=["grpc", "http"], default="grpc", help="(default: %(default)s)")
    parser.add_argument("--url", metavar="HOST:PORT", help="(default: port 8001 or 8000 of this machine)")
    parser.add_argument("--rows", type=bounded(int, 1, 256), default=8, metavar="N", help="(default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print the outputs as JSON")
    parser.set_defaults(run=_query)


def _query(args: argparse.Namespace) -> None:
    manifest = load_manifest(args.repository)
    address = args.url or ("127.0.0.1:8001" if args.protocol == "grpc" else "127.0.0.1:8000")
    outputs = serving.query(args.repository, address, protocol=args.protocol, rows=args.rows)
    if args.json:
        lists = {name: array.tolist() for name, array in outputs.items()}
        print(json.dumps({"model": manifest.name, "outputs": lists}))
        return
    rows = {tensor.name: outputs[tensor.name] for tensor in manifest.outputs if has_rows(tensor)}
    for name, array in outputs.items():
        if name not in rows:
            print(f"{name} {_text(array)}")
    for row in range(min(map(len, rows.values()), default=0)):
        print(f"row {row:<4d} {'  '.join(f'{name} {_text(array[row])}' for name, array in rows.items())}")


def _text(array: Array) -> str:
    """Its numbers side by side: of many the first and the last."""
    numbers = [f"{each:.6f}" if array.dtype.kind == "f" else str(each) for each in array.reshape(-1).tolist()]
    return " ".join(numbers if len(numbers) <= _SHOWN else [*numbers[: _SHOWN - 1], "...", numbers[-1]])
