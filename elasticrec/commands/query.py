"""`elasticrec query`."""

from __future__ import annotations

import argparse
import json

from elasticrec.commands.common import Commands, add_command, add_repository, bounded
from repo_builder.model.arrays import Array, from_wire, has_rows, wired
from repo_builder.repository.manifest import load_manifest, read_queries
from repo_builder.serving.client import infer

_SHOWN = 8  # numbers of an output in a row


def add(commands: Commands) -> None:
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
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Do what they ask for."""
    manifest = load_manifest(args.repository)
    inputs = read_queries(args.repository, args.rows)
    address = args.url or ("127.0.0.1:8001" if args.protocol == "grpc" else "127.0.0.1:8000")
    answer = infer(args.protocol, address, manifest.name, wired(inputs, manifest.inputs))
    outputs = {tensor.name: from_wire(answer[tensor.name], tensor) for tensor in manifest.outputs}
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
