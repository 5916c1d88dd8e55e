"""Memory at equal traffic: the whole model replicated, and a fleet, as many replicas of each service as it needs.

One replica of everything runs here, and what decides is measured: the CPU seconds that a query takes in each server
(its process and its Python stubs), and the memory of each server. A replica has one core and uses a share of it, the
same for all; the traffic is what so many whole models hold. From there on it is arithmetic: replicas of a service =
traffic x CPU seconds a query / share, rounded up. CPU seconds are counted rather than queries/s because two cores
cannot carry ten replicas and their clients at once, and since other programs' load hardly moves them.

A server's memory is what it would take alone on its machine: its mapped weights and its libraries in full. Replicas
on one machine share these pages, so that PSS would flatter both sides, the whole model's ten copies most.

    python benchmarks/replication.py [--rows 1000000] [--replicas 10] [--seconds 4] [--shard-backend native]
"""

from __future__ import annotations

import argparse
import math
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from _contenders import Contender, Load, drawn, load, served, served_fleet, write_input_data
from latency import document

from repo_builder.access.load import load_hotness
from repo_builder.export.weights import open_weights
from repo_builder.partition.cost import DEFAULT_DENSE_TIME, Profile, ServiceTime
from repo_builder.partition.planner import make_plan
from repo_builder.repository.fleet import build_fleet
from repo_builder.repository.model_wise import build_model_wise, model_wise_plan
from repo_builder.serving.footprint import memory_alone
from repo_builder.serving.install import installation
from repo_builder.spec import parse_spec

QUERIES, IN_FLIGHT, GOAL = 64, 4, 3.3
CALL = ServiceTime(fixed_s=3e-4, per_gather_s=1 / 40e6)  # of one embedding server; it places the cuts, no more


@dataclass(frozen=True, slots=True)
class Replicated:
    """A server's measured figures, and how many of it the traffic needs."""

    name: str
    cpu_s: float
    memory_bytes: int
    replicas: int

    @property
    def all_bytes(self) -> int:
        """Memory of all replicas."""
        return self.replicas * self.memory_bytes


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000, help="of each of the ten tables, 128 bytes a row")
    parser.add_argument("--replicas", type=int, default=10, help="the traffic: what so many whole models hold")
    parser.add_argument("--share", type=float, default=0.7, help="of a replica's core that its queries may use")
    parser.add_argument("--seconds", type=float, default=4, help="a measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--shard-backend", choices=["python", "native"], default="native")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        measure(Path(folder), args, stack)


def measure(folder: Path, args: argparse.Namespace, stack: ExitStack) -> None:
    """First the whole model, whose capacity is the unit of the traffic; then the fleet that is planned for it."""
    spec = parse_spec(document(100, args.rows), folder / "spec.yaml")
    weights, hotness, backend = open_weights(spec), load_hotness(spec), args.shard_backend
    data = write_input_data(folder / "queries.json", drawn(spec, hotness, QUERIES))
    installed = stack.enter_context(installation())
    profile = Profile("calls", CALL, 0, DEFAULT_DENSE_TIME)
    build_model_wise(
        spec, model_wise_plan(spec, hotness, profile), hotness, weights, folder / "whole", shard_backend=backend
    )
    with served(installed, "model-wise", folder / "whole") as contender:
        whole_load = typical([load(contender, spec.name, data, IN_FLIGHT, args.seconds) for _ in range(args.rounds)])
        whole_qps = args.replicas * args.share / whole_load.cpu_s["server"]
        whole = replicated(contender, whole_load, whole_qps, args.share)
    table_bytes = sum(table.rows * table.row_bytes for table in spec.tables)
    profile = Profile("calls", CALL, max(0, whole[0].memory_bytes - table_bytes), DEFAULT_DENSE_TIME)
    spec = parse_spec(document(whole_qps, args.rows), folder / "spec.yaml")
    plan = make_plan(spec, hotness, profile, "tiered", 4, args.share)
    build_fleet(spec, plan, hotness, weights, folder / "fleet", shard_backend=backend)
    services = [service.name for service in plan.embedding_services]
    with served_fleet(installed, "fleet", folder / "fleet", services) as contender:
        fleet_load = typical([load(contender, spec.name, data, IN_FLIGHT, args.seconds) for _ in range(args.rounds)])
        parts = replicated(contender, fleet_load, whole_qps, args.share)
    report(whole_qps, (whole_load, whole), (fleet_load, parts))


def typical(loads: list[Load]) -> Load:
    """The one with the median CPU time."""
    return sorted(loads, key=lambda each: sum(each.cpu_s.values()))[len(loads) // 2]


def replicated(contender: Contender, measured: Load, qps: float, share: float) -> list[Replicated]:
    """How many replicas of each server the traffic needs (to a relative 1e-9, as in the cost model)."""
    found = []
    for name, server in contender.servers.items():
        cpu_s = measured.cpu_s[name]
        replicas = max(1, math.ceil(qps * cpu_s / share * (1 - 1e-9)))
        found.append(Replicated(name, cpu_s, memory_alone(server), replicas))
    return found


def report(qps: float, *layouts: tuple[Load, list[Replicated]]) -> None:
    """Both, and the goal."""
    totals = []
    for name, (measured, servers) in zip(("model-wise", "fleet"), layouts, strict=True):
        seen = measured.seen
        print(f"{name} at {qps:,.0f} queries/s (one replica here, {IN_FLIGHT} in flight: p95 {seen.p95_ms:.1f} ms)")
        for each in servers:
            print(
                f"  {each.name:<10} {1000 * each.cpu_s:6.2f} CPU ms a query  {each.replicas:3d} replicas of "
                f"{each.memory_bytes / 2**20:8,.0f} MiB = {each.all_bytes / 2**20:9,.0f} MiB"
            )
        totals.append(sum(each.all_bytes for each in servers))
    ratio = totals[0] / totals[1]
    print(f"memory {totals[0] / 2**30:.1f} GiB against {totals[1] / 2**30:.1f} GiB: {ratio:.2f} times less")
    print(f"goal {GOAL}: {'met' if ratio >= GOAL else 'missed'}")


if __name__ == "__main__":
    main()
