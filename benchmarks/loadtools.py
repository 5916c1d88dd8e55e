"""The two load generators beside each other: do they measure the same latency of the same server?

Locust (its open loop) and perf_analyzer send the same queries at the same light rate, Poisson arrivals, one after the
other, in turns. perf_analyzer counts a query's latency from its call, locust from when it was due, which is the same
where nothing waits. Goal: locust's median within 15% of perf_analyzer's, over gRPC and HTTP.

    python benchmarks/loadtools.py [--rows 200000] [--qps 50] [--seconds 5] [--rounds 5] [--shard-backend python]
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from _contenders import drawn, write_input_data
from latency import document

from loadtest.clients import Protocol
from loadtest.perf_run import Load
from loadtest.target import LoadTarget
from repo_builder.access.load import load_hotness
from repo_builder.export.dlrm.source import open_source
from repo_builder.partition.cost import DEFAULT_DENSE_TIME, Profile, ServiceTime
from repo_builder.partition.planner import make_plan
from repo_builder.repository.build import build
from repo_builder.serving.install import installation
from repo_builder.serving.server import Server, free_ports, running
from repo_builder.spec import parse_spec

LOCUSTFILE = Path(__file__).parents[1] / "loadtest" / "locustfile.py"
QUERIES, GOAL = 64, 0.15
PROTOCOLS: tuple[Protocol, ...] = ("grpc", "http")
USERS = {"grpc": "GrpcUser", "http": "HttpUser"}


def main() -> None:
    """Parse the command line, build, serve, take turns, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000, help="of each of the ten tables")
    parser.add_argument("--qps", type=int, default=50, help="queries/s of 32 rows")
    parser.add_argument("--seconds", type=float, default=5, help="a turn")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--shard-backend", choices=["python", "native"], default="python")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder), args)


def measure(folder: Path, args: argparse.Namespace) -> None:
    """The same queries by both tools."""
    spec = parse_spec(document(800, args.rows), folder / "spec.yaml")
    hotness = load_hotness(spec)
    profile = Profile("40 MB a service", ServiceTime(5e-4, 5e-8), 40_000_000, DEFAULT_DENSE_TIME)
    plan = make_plan(spec, hotness, profile, "tiered", 4)
    build(spec, plan, hotness, open_source(spec), folder / "single", shard_backend=args.shard_backend)
    queries = drawn(spec, hotness, QUERIES)
    data = write_input_data(folder / "queries.json", queries)
    dense, indices = (np.concatenate(arrays) for arrays in zip(*queries, strict=True))
    np.savez(folder / "workload.npz", dense=dense, indices=indices)
    with installation() as installed, running(installed, folder / "single", free_ports(), folder / "log") as server:
        for protocol in PROTOCOLS:
            address = server.grpc if protocol == "grpc" else server.http
            target = LoadTarget(spec.name, protocol, address, data, args.seconds, 95)
            rounds = []
            for _ in range(args.rounds):
                seen = target.measure(Load("request_rate", args.qps))
                rounds.append((seen.p50_ms, seen.mean_ms, *locust(folder, server, protocol, args)))
            report(protocol, np.array(rounds))


def locust(folder: Path, server: Server, protocol: Protocol, args: argparse.Namespace) -> tuple[float, float]:
    """The median and the mean that locust measures, ms; its users start at once."""
    record = folder / "locust.csv"
    words = ["-f", str(LOCUSTFILE), "--headless", "--only-summary", "--repository", str(folder / "single")]
    words += ["--workload", str(folder / "workload.npz"), "--record", str(record), f"--{protocol}-url"]
    words += [server.grpc if protocol == "grpc" else server.http, "--queries-per-user", str(args.qps)]
    words += ["-u", "1", "-r", "1", "-t", f"{args.seconds:g}s", USERS[protocol]]
    subprocess.run([sys.executable, "-m", "locust", *words], check=True, capture_output=True)
    with record.open(newline="") as file:
        latency_ms = [float(line["latency_ms"]) for line in csv.DictReader(file)]
    return float(np.median(latency_ms)), float(np.mean(latency_ms))


def report(protocol: Protocol, rounds: np.ndarray) -> None:
    """Medians of the rounds; the ratio is that of the same round's medians."""
    perf_ms, perf_mean_ms, locust_ms, locust_mean_ms = np.median(rounds, axis=0)
    ratio = float(np.median(rounds[:, 2] / rounds[:, 0]))
    print(
        f"{protocol}: p50 perf_analyzer {perf_ms:.2f} ms, locust {locust_ms:.2f} ms, locust / perf_analyzer {ratio:.2f}"
    )
    print(f"{protocol}: mean perf_analyzer {perf_mean_ms:.2f} ms, locust {locust_mean_ms:.2f} ms")
    print(f"{protocol}: goal within {GOAL:.0%}: {'met' if abs(ratio - 1) <= GOAL else 'missed'}")


if __name__ == "__main__":
    main()
