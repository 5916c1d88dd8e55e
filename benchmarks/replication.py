"""Memory at equal traffic, measured: replicas of the whole model, and a fleet with as many of each service as it needs.

Every replica runs, under the traffic. A replica's machine is a share of this one: what the traffic takes of CPU through
the replicas of the whole model, beyond what they take when idle, divided by their number. A service then gets so many
replicas that each stays within that share, under the same traffic; where one does not, the fleet runs again with more.
The traffic is what this machine carries through the fleet at 60% of its cores, client included; both layouts must hold
it within the SLA, with all their replicas running, and are asked by the same open loop, front ends in turn.

Memory is summed over all servers of a layout, each as if it were alone on its machine: its own pages, and what it maps
(weights, id maps, libraries) in full. Replicas on one machine share mapped pages, so that PSS would flatter both sides,
the whole model's copies most; it is printed beside. Tables can be as large as this machine's memory holds once.

    python benchmarks/replication.py [--rows 4000000] [--replicas 10] [--batch 32] [--seconds 10]
"""

from __future__ import annotations

import argparse
import math
import os
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
from _contenders import drawn, front_end
from latency import document

from loadtest.clients import SenderSettings
from loadtest.open_loop import Answer, send
from repo_builder.access.load import load_hotness
from repo_builder.export.dlrm.source import open_source
from repo_builder.partition.cost import DEFAULT_DENSE_TIME, Profile, ServiceTime
from repo_builder.partition.planner import make_plan, model_wise_plan
from repo_builder.repository.build import build
from repo_builder.serving.install import Installation, installation
from repo_builder.serving.processes import memory_alone, memory_by_model
from repo_builder.serving.server import Server, free_ports, running, stubs
from repo_builder.spec import Spec, parse_spec
from repo_builder.words import times_less

QUERIES, GOAL, SLA_MS, BUSY = 64, 3.3, 400.0, 0.6
CALL = ServiceTime(fixed_s=3e-4, per_gather_s=1 / 40e6)  # of one embedding server; it places the cuts, no more
PROBE_QPS, PROBE_S, IDLE_S = 30.0, 5.0, 3.0
FRONT, CLIENT = "frontend", "client"


@dataclass(frozen=True)
class Layout:
    """A layout's running servers by service; clients ask those of FRONT."""

    name: str
    servers: Mapping[str, Sequence[Server]]

    def cpu_s(self) -> Mapping[str, float]:
        """CPU seconds so far of all replicas of each service, their Python stubs' too."""
        found = {}
        for name, servers in self.servers.items():
            processes = [each for server in servers for each in (psutil.Process(server.process.pid), *stubs(server))]
            times = [process.cpu_times() for process in processes]
            found[name] = float(sum(each.user + each.system for each in times))
        return found


@dataclass(frozen=True)
class Carried:
    """What a layout did with some traffic: answers, and CPU seconds a query by service and of the client."""

    answers: Sequence[Answer]
    cpu_s: Mapping[str, float]

    @property
    def p95_ms(self) -> float:
        """The latency that the SLA bounds."""
        return float(np.percentile([answer.latency_ms for answer in self.answers], 95))

    def holds(self, qps: float, seconds: float) -> bool:
        """Whether every answer was right, all came, and the SLA was met."""
        enough = len(self.answers) >= qps * seconds - 4 * math.sqrt(qps * seconds)
        return enough and not any(answer.problem for answer in self.answers) and self.p95_ms <= SLA_MS


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=4_000_000, help="of each of the ten tables, 128 bytes per row")
    parser.add_argument("--replicas", type=int, default=10, help="of the whole model")
    parser.add_argument("--batch", type=int, default=32, help="rows per query")
    parser.add_argument("--seconds", type=float, default=10, help="under the traffic, each layout")
    parser.add_argument("--shard-backend", choices=["python", "native"], default="native")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder), args)


def measure(folder: Path, args: argparse.Namespace) -> None:
    """One replica of everything, to know what a query takes; then all replicas, one layout after the other."""
    spec = parse_spec(described(args, 100), folder / "spec.yaml")
    hotness, weights = load_hotness(spec), open_source(spec)
    workload = write_workload(folder / "workload.npz", spec)
    with installation() as installed:
        whole_plan = model_wise_plan(spec, hotness, Profile("calls", CALL, 0, DEFAULT_DENSE_TIME))
        build(
            spec, whole_plan, hotness, weights, folder / "whole", shard_backend=args.shard_backend, layout="model-wise"
        )
        with whole_model(installed, folder / "whole", 1) as layout:
            whole = carry(layout, spec, workload, PROBE_QPS, PROBE_S)
            whole_bytes = memory_alone(layout.servers[FRONT][0].process.pid)
        spec, services = build_planned(spec, whole_bytes, whole.cpu_s[FRONT], folder / "fleet", args)
        with fleet(installed, folder / "fleet", dict.fromkeys(services, 1)) as layout:
            parts = carry(layout, spec, workload, PROBE_QPS, PROBE_S)
            qps = BUSY * (os.cpu_count() or 1) / sum(parts.cpu_s.values())
            parts = carry(layout, spec, workload, qps, PROBE_S)
        print(
            f"{qps:,.0f} queries/s of {args.batch} rows; ten tables of {args.rows:,} rows; {args.shard_backend} shards"
        )
        with whole_model(installed, folder / "whole", args.replicas) as layout:
            whole = carry(layout, spec, workload, qps, args.seconds)
            whole_bytes = tell(layout, whole, qps, args.seconds)
        share_s = whole.cpu_s[FRONT] / args.replicas  # of CPU that a replica gives each query of the whole traffic
        replicas: Counter[str] = Counter()
        while (more := replicas | needed(parts, services, share_s)) != replicas:  # the greater number of each
            replicas = more
            with fleet(installed, folder / "fleet", replicas) as layout:
                parts = carry(layout, spec, workload, qps, args.seconds)
                fleet_bytes = tell(layout, parts, qps, args.seconds)
    ratio = whole_bytes / fleet_bytes
    print(f"memory {whole_bytes / 2**30:.1f} GiB against {fleet_bytes / 2**30:.1f} GiB: {times_less(ratio)}")
    print(f"goal {GOAL}: {'met' if ratio >= GOAL else 'missed'}")


def needed(parts: Carried, services: Sequence[str], share_s: float) -> Counter[str]:
    """How many replicas of each service stay within their share."""
    return Counter({name: max(1, math.ceil(parts.cpu_s[name] / share_s * (1 - 1e-9))) for name in services})


def described(args: argparse.Namespace, target_qps: float) -> dict[str, object]:
    """The model, for so much traffic."""
    serving = {"target_qps": target_qps, "batch": args.batch, "sla_ms": SLA_MS}
    return {**document(target_qps, args.rows), "serving": serving}


def write_workload(path: Path, spec: Spec) -> Path:
    """Queries drawn from the model's accesses, as the open loop reads them."""
    dense, indices = (np.concatenate(arrays) for arrays in zip(*drawn(spec, load_hotness(spec), QUERIES), strict=True))
    np.savez(path, dense=dense, indices=indices)
    return path


def build_planned(
    spec: Spec, whole_bytes: int, whole_s: float, target: Path, args: argparse.Namespace
) -> tuple[Spec, list[str]]:
    """Build the fleet that is planned for the traffic of so many whole models, a core each; returns its services."""
    table_bytes = spec.model.size_bytes
    profile = Profile("calls", CALL, max(0, whole_bytes - table_bytes), DEFAULT_DENSE_TIME)
    spec = parse_spec(described(args, args.replicas / whole_s), target.with_suffix(".yaml"))
    hotness = load_hotness(spec)
    plan = make_plan(spec, hotness, profile, "tiered", 4)
    build(spec, plan, hotness, open_source(spec), target, shard_backend=args.shard_backend, layout="fleet")
    return spec, [FRONT, *(service.name for service in plan.embedding_services)]


@contextmanager
def whole_model(installed: Installation, repository: Path, replicas: int) -> Iterator[Layout]:
    """So many servers of the whole model."""
    with ExitStack() as stack:
        yield Layout("model-wise", {FRONT: [start(stack, installed, repository) for _ in range(replicas)]})


@contextmanager
def fleet(installed: Installation, repository: Path, replicas: Mapping[str, int]) -> Iterator[Layout]:
    """So many servers of each service; the front ends know all of the others."""
    with ExitStack() as stack:
        shards = {
            service: [start(stack, installed, repository / service) for _ in range(count)]
            for service, count in replicas.items()
            if service != FRONT
        }
        addresses = {service: [server.grpc for server in servers] for service, servers in shards.items()}
        fronts = [stack.enter_context(front_end(installed, repository, addresses)) for _ in range(replicas[FRONT])]
        yield Layout("fleet", {FRONT: fronts, **shards})


def start(stack: ExitStack, installed: Installation, repository: Path) -> Server:
    """One server more."""
    ports = free_ports()
    log = repository.parent / f"{repository.name}-{ports.http}.log"
    return stack.enter_context(running(installed, repository, ports, log))


def carry(layout: Layout, spec: Spec, workload: Path, qps: float, seconds: float) -> Carried:
    """Send the traffic, and count what it takes more than idle servers do; the first second is not measured."""
    addresses = ",".join(server.grpc for server in layout.servers[FRONT])
    tensors = (spec.model.inputs, spec.model.outputs)
    load = SenderSettings("grpc", addresses, spec.name, str(workload), spec.serving.batch, 10, 0, *tensors)
    send(load, qps, 1)
    resting, own_s, began_s = layout.cpu_s(), children_s(), time.monotonic()
    time.sleep(IDLE_S)
    before, idle_s, begun_s = layout.cpu_s(), time.monotonic() - began_s, time.monotonic()
    answers = send(load, qps, seconds)
    times_idle = (time.monotonic() - begun_s) / idle_s
    spent = {
        name: max(0.0, spent_s - before[name] - times_idle * (before[name] - resting[name]))
        for name, spent_s in layout.cpu_s().items()
    }
    spent[CLIENT] = children_s() - own_s
    return Carried(answers, {name: spent_s / len(answers) for name, spent_s in spent.items()})


def children_s() -> float:
    """CPU seconds of this process's children that have ended: of senders."""
    times = os.times()
    return times.children_user + times.children_system


def tell(layout: Layout, carried: Carried, qps: float, seconds: float) -> int:
    """Print what a layout did and holds; returns its memory in bytes, each server as if alone."""
    held = "held" if carried.holds(qps, seconds) else "NOT HELD"
    problems = sum(bool(answer.problem) for answer in carried.answers)
    print(f"{layout.name}: {held}, p95 {carried.p95_ms:.1f} ms within {SLA_MS:g}, {problems} errors")
    total_bytes = 0
    for name, servers in layout.servers.items():
        alone_bytes = [memory_alone(server.process.pid) for server in servers]
        total_bytes += sum(alone_bytes)
        print(
            f"  {name:<10} {1000 * carried.cpu_s[name]:6.2f} CPU ms a query  {len(servers):3d} replicas of "
            f"{max(alone_bytes) / 2**20:8,.0f} MiB = {sum(alone_bytes) / 2**20:9,.0f} MiB"
        )
    pss_bytes = sum(
        sum(memory_by_model(server.process.pid).values()) for servers in layout.servers.values() for server in servers
    )
    print(
        f"  in all {total_bytes / 2**20:,.0f} MiB; PSS here, where replicas share pages, {pss_bytes / 2**20:,.0f} MiB"
    )
    return total_bytes


if __name__ == "__main__":
    main()
