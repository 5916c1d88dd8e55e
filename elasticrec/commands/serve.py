"""`elasticrec serve`."""

from __future__ import annotations

import argparse
from pathlib import Path

from elasticrec.commands.common import Commands, add_command, add_repository, bounded, warn
from repo_builder.errors import InputError
from repo_builder.repository.manifest import MANIFEST, load_manifest, verify
from repo_builder.serving import faults
from repo_builder.serving.install import check_gpus, installation
from repo_builder.serving.server import Ports, remove_caches, running, wait


def add(commands: Commands) -> None:
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
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on (default: %(default)s)")
    parser.add_argument("--log-file", type=Path, metavar="FILE", help="the server's log (default: DIR-PORT.log)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Do what they ask for."""
    ports = Ports(args.http_port, args.grpc_port, args.metrics_port)
    if len({ports.http, ports.grpc, ports.metrics}) < 3:
        raise InputError(f"ports: expected three different ones, got {ports.http}, {ports.grpc} and {ports.metrics}")
    whole = _servable(args.repository.resolve())
    service = args.repository.resolve().relative_to(whole).as_posix().removeprefix(".")
    check_gpus(args.repository)
    remove_caches(args.repository)  # of a server that was killed
    manifest = verify(whole, service)  # a flipped bit in a weight would make no error but wrong scores
    served = f"{whole.name}-{service}" if service else whole.name
    log = args.log_file or whole.with_name(f"{served}-{ports.http}.log")  # several may serve it
    with installation() as installed, running(installed, args.repository, ports, log, host=args.host) as server:
        try:
            print(f"model    {manifest.name}")
            print(f"http     {server.http}")
            print(f"grpc     {server.grpc}")
            print(f"metrics  {server.metrics}")
            print(f"log      {log}")
            print("ready", flush=True)
            if told := faults.warning(faults.version_of(server.http) or ""):
                warn(told)
            wait(server)
        except KeyboardInterrupt:
            print("stopping", flush=True)


def _servable(repository: Path) -> Path:
    """The folder with the manifest of what one server can serve: for a service of a fleet that is the fleet's."""
    if not (repository / MANIFEST).is_file() and (repository.parent / MANIFEST).is_file():
        manifest = load_manifest(repository.parent)
        if manifest.layout == "fleet" and any(repository.glob("*/config.pbtxt")):
            return repository.parent
    manifest = load_manifest(repository)
    if manifest.layout == "fleet":
        raise InputError(
            f"{repository}: expected the repository of one server, got a fleet; run all of it with "
            f"elasticrec up {repository}, or one of its services, such as {repository / 'frontend'}"
        )
    return repository
