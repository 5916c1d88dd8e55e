"""The command line: parses, calls, prints and exits; nothing else in the packages does the last two."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from repo_builder import tables
from repo_builder.access.load import load_hotness
from repo_builder.access.progress import progress_bar
from repo_builder.arguments import parse_arguments
from repo_builder.errors import ElasticRecError, InputError
from repo_builder.partition.check import check_plan
from repo_builder.partition.cost import DEFAULT_PROFILE, load_profile
from repo_builder.partition.plan import Plan, load_plan, on_cpu, plan_to_json
from repo_builder.partition.planner import make_plan
from repo_builder.repository.manifest import load_manifest, read_queries, verify
from repo_builder.serving.client import score
from repo_builder.serving.gpus import check_gpus
from repo_builder.serving.install import installation
from repo_builder.serving.server import Ports, running, wait
from repo_builder.spec import Spec, load_spec

out = Console(highlight=False, emoji=False, width=None if sys.stdout.isatty() else 160)
err = Console(stderr=True, highlight=False, emoji=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code: 0 done, 2 bad input, 1 anything else."""
    args = parse_arguments(arguments)
    for ending in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, signal.default_int_handler)  # what is under way is undone, as on Ctrl-C
    try:
        _COMMANDS[args.command](args)
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


def _plan(args: argparse.Namespace) -> None:
    spec = load_spec(args.spec)
    plan = _make_plan(args, spec)
    if args.output:
        _write_text(args.output, plan_to_json(plan))
    if args.json:
        print(plan_to_json(plan), end="")
    else:
        out.print(tables.plan_table(plan))
        out.print(tables.plan_summary(plan, spec), markup=False, soft_wrap=True)


def _make_plan(args: argparse.Namespace, spec: Spec) -> Plan:
    profile = load_profile(args.profile) if args.profile else DEFAULT_PROFILE
    with progress_bar(err, "reading accesses") as progress:
        hotness = load_hotness(spec, progress)
    if args.plot:
        from repo_builder.access.plot import plot_hotness  # matplotlib is slow to import and rarely wanted

        plot_hotness(spec, hotness, args.plot)
    return make_plan(spec, hotness, profile, args.grouping, args.s_max)


def _build(args: argparse.Namespace) -> None:
    from repo_builder.export.weights import open_weights  # torch is slow to import: only where it is needed
    from repo_builder.repository.build import build

    spec = load_spec(args.spec)
    given = load_plan(args.plan) if args.plan else None
    if given:
        check_plan(given, spec, str(args.plan))
    weights = open_weights(spec)
    with progress_bar(err, "reading accesses") as progress:
        hotness = load_hotness(spec, progress)
    plan = given or make_plan(spec, hotness, DEFAULT_PROFILE, "tiered", args.s_max)
    if args.cpu_only:
        plan = on_cpu(plan)
    target = args.output or Path("model_repository") / spec.name
    with progress_bar(err, "building") as progress:
        manifest = build(spec, plan, hotness, weights, target, progress)
    total_bytes = sum(entry.size_bytes for entry in manifest.files)
    out.print(
        f"built {target}: {len(plan.services)} services, {len(manifest.files)} files, {tables.size(total_bytes)}; "
        f"next: elasticrec serve {target}",
        markup=False,
        soft_wrap=True,
    )


def _verify(args: argparse.Namespace) -> None:
    manifest = verify(args.repository)
    out.print(
        f"{args.repository}: {len(manifest.files)} files as built (plan {manifest.plan_sha256[:12]})", markup=False
    )


def _serve(args: argparse.Namespace) -> None:
    manifest = load_manifest(args.repository)
    check_gpus(args.repository)
    repository = args.repository.resolve()
    log = args.log_file or repository.with_name(f"{repository.name}.log")
    ports = Ports(args.http_port, args.grpc_port, args.metrics_port)
    if len({ports.http, ports.grpc, ports.metrics}) < 3:
        raise InputError(f"ports: expected three different ones, got {ports.http}, {ports.grpc} and {ports.metrics}")
    with installation() as installed, running(installed, args.repository, ports, log, host=args.host) as server:
        print(f"model    {manifest.name}")
        print(f"http     {server.http}")
        print(f"grpc     {server.grpc}")
        print(f"metrics  {server.metrics}")
        print(f"log      {log}")
        print("ready", flush=True)
        try:
            wait(server)
        except KeyboardInterrupt:
            print("stopping", flush=True)


def _query(args: argparse.Namespace) -> None:
    manifest = load_manifest(args.repository)
    dense, indices = read_queries(args.repository, args.rows)
    address = args.url or ("127.0.0.1:8001" if args.protocol == "grpc" else "127.0.0.1:8000")
    scores = score(args.protocol, address, manifest.name, dense, indices)
    if args.json:
        print(json.dumps({"model": manifest.name, "scores": scores[:, 0].tolist()}))
    else:
        for row, value in enumerate(scores[:, 0]):
            print(f"row {row:<4d} score {value:.6f}")


def _demo(args: argparse.Namespace) -> None:
    from repo_builder.demo import Options, run_demo

    with tempfile.TemporaryDirectory(prefix="elasticrec-demo-") as scratch:
        folder = args.output or Path(scratch)
        report = run_demo(
            Options(folder, args.rows, args.queries, args.seconds),
            lambda line: out.print(line, markup=False, soft_wrap=True),
        )
    out.print(tables.demo_table(report))
    out.print(tables.demo_summary(report), markup=False, soft_wrap=True)


def _write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    part = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        if path.exists() and not path.is_file():
            path.write_text(text, encoding="utf-8")  # /dev/stdout and its kind
            return
        try:
            part.write_text(text, encoding="utf-8")
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as exc:
        raise InputError(f"{path}: cannot be written: {exc.strerror}; choose another file with -o") from exc


_COMMANDS: dict[str, Callable[[argparse.Namespace], None]] = {
    "plan": _plan,
    "build": _build,
    "verify": _verify,
    "serve": _serve,
    "query": _query,
    "demo": _demo,
}

if __name__ == "__main__":
    sys.exit(main())
