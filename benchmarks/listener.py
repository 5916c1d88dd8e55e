"""What a call of a native shard costs by its own listener, and by Triton's gRPC server: the same server, in turns.

The shard is alone on a core, the router's gRPC client in C on the others, each call on a connection of its own as of so
many front ends; CPU is that of the shard's whole process.

    python benchmarks/listener.py [--rounds 5] [--seconds 2]
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
from latency import document

from repo_builder.access.load import load_hotness
from repo_builder.export.dlrm.source import open_source
from repo_builder.partition.cost import DEFAULT_DENSE_TIME, Profile, ServiceTime
from repo_builder.partition.planner import make_plan
from repo_builder.profiling.call_load import run
from repo_builder.profiling.capacity import split_cores
from repo_builder.profiling.loads import serving
from repo_builder.profiling.perf_analyzer import Measurement
from repo_builder.repository.build import build
from repo_builder.serving.client import times_by_model
from repo_builder.serving.install import installation
from repo_builder.serving.processes import cpu_seconds
from repo_builder.serving.server import Server
from repo_builder.spec import parse_spec

ROWS = 32  # of a query
QUERIES = 32
IN_FLIGHT = (1, 4, 16)
IDS = (1, 10)  # a bag


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2, help="a measurement")
    args = parser.parse_args()
    own, _ = split_cores()
    with tempfile.TemporaryDirectory() as name, installation() as installed:
        folder = Path(name)
        service, tables, rows = make_shard(folder)
        with serving(installed, folder / "fleet" / service, own) as server:
            for ids in IDS:
                queries = draw(tables, rows, ids)
                for in_flight in IN_FLIGHT:
                    compare(server, f"rm1_{service}", queries, in_flight, args)


def make_shard(folder: Path) -> tuple[str, int, int]:
    """Build a fleet; its hottest service, how many tables that has, and the least rows of any of them."""
    spec = parse_spec(document(800), folder / "spec.yaml")
    hotness = load_hotness(spec)
    profile = Profile("40 MB a service", ServiceTime(5e-4, 5e-8), 40_000_000, DEFAULT_DENSE_TIME)
    plan = make_plan(spec, hotness, profile, "tiered", 4)
    build(spec, plan, hotness, open_source(spec), folder / "fleet", shard_backend="native", layout="fleet")
    service = plan.embedding_services[0]
    return service.name, len(service.shards), min(shard.rows for shard in service.shards)


def draw(tables: int, rows: int, ids: int) -> list[dict[str, np.ndarray]]:
    """Queries with so many ids in each bag."""
    rng = np.random.default_rng(ids)
    lengths = np.full(ROWS * tables, ids, np.int32)
    return [{"ids": rng.integers(0, rows, lengths.sum(), np.int32), "lengths": lengths} for _ in range(QUERIES)]


def compare(
    server: Server, model: str, queries: list[dict[str, np.ndarray]], in_flight: int, args: argparse.Namespace
) -> None:
    """Both ports in turns; medians of the rounds, and of the ratios within a round."""
    found: dict[str, list[tuple[float, float, float]]] = {}
    for _ in range(args.rounds):
        for name, address in (("Triton's gRPC", server.grpc), ("listener", server.calls)):
            ask = partial(run, address, model, "", queries, in_flight, args.seconds)
            found.setdefault(name, []).append(figures(server, model, ask))
    ids = queries[0]["ids"].size
    for name, rounds in found.items():
        cpu_us, rate, p50_us = (median(values) for values in zip(*rounds, strict=True))
        print(f"{ids:6d} ids, {in_flight:2d} in flight, {name:<14} {cpu_us:6.1f} us of CPU a call", end="")
        print(f"  {rate:7.0f} calls/s  p50 {p50_us:5.0f} us")
    pairs = list(zip(found["listener"], found["Triton's gRPC"], strict=True))
    cpu, rate, p50 = (median(ours[i] / tritons[i] for ours, tritons in pairs) for i in range(3))
    print(f"       listener / Triton's gRPC: CPU {cpu:.2f}, calls/s {rate:.2f}, p50 {p50:.2f}", flush=True)


def figures(server: Server, model: str, ask: Callable[[], Measurement]) -> tuple[float, float, float]:
    """CPU of the server in us a call, calls per second, and the median latency in us."""
    calls, cpu_s = times_by_model(server.http)[model].requests, cpu_seconds(server.process.pid)
    seen = ask()
    calls = times_by_model(server.http)[model].requests - calls
    return 1e6 * (cpu_seconds(server.process.pid) - cpu_s) / calls, seen.throughput_qps, 1000 * seen.p50_ms


if __name__ == "__main__":
    main()
