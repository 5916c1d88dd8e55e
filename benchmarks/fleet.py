"""What a fleet costs beside a single server: the same shards in one server, in a `tiered` and in a `per_table` fleet.

All three run at once on this machine and take short turns, as it is not equally fast all the time: what the tiered
fleet adds at p50 is the median over the rounds of its turn's p50 less the single server's of the same round. CPU is
that of all processes by what they do, from /proc, a query; the shards of a fleet would be other machines'. `calls` is
the part of a front end's server in the router's thread: it takes the answers and hands them on. Triton's own thread
has routed the ids, and sends the calls too where the router's thread sleeps, as it does with one query after another.

    python benchmarks/fleet.py [--rounds 20] [--seconds 1] [--target-qps 800]
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import psutil
import tritonclient.grpc as grpcclient
from latency import document
from numpy.typing import NDArray

from repo_builder.access.load import load_hotness
from repo_builder.access.queries import draw_ids
from repo_builder.export.dlrm.source import open_source
from repo_builder.partition.cost import DEFAULT_DENSE_TIME, Profile, ServiceTime
from repo_builder.partition.plan import Plan
from repo_builder.partition.planner import make_plan
from repo_builder.repository.build import build
from repo_builder.serving.install import Installation, installation
from repo_builder.serving.server import Server, free_ports, running, stubs
from repo_builder.spec import parse_spec

QUERIES = 64
THREAD = "elasticrec-fan"  # of the router, as the kernel has its name
CALLS = "calls"
GOAL_MS = {"python": 1.5, "native": 0.25}  # more at p50 than the single layout, by the shards' backend
GOAL_CPU = 0.25  # of per_table's CPU in the front end


@dataclass
class Layout:
    """A served layout: whom to ask, all its servers by name, and what was measured."""

    name: str
    services: int
    asked: Server
    servers: Mapping[str, Server]
    turns_ms: list[list[float]] = field(default_factory=list)  # latencies of a turn's queries
    cpu_s: dict[str, float] = field(default_factory=dict)

    def p50_ms(self) -> NDArray[np.float64]:
        """Of each turn."""
        return np.array([np.median(spent_ms) for spent_ms in self.turns_ms])


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=1, help="a layout's turn")
    parser.add_argument("--target-qps", type=float, default=800, help="more traffic makes more tiers")
    parser.add_argument("--shard-backend", choices=["python", "native"], default="python")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        layouts, queries = start(Path(folder), args, stack)
        for layout in layouts:
            turn(layout, queries, 2)
            layout.turns_ms.clear()
            layout.cpu_s.clear()
        for _ in range(args.rounds):
            for layout in layouts:
                turn(layout, queries, args.seconds)
        report(layouts, GOAL_MS[args.shard_backend])


def start(
    folder: Path, args: argparse.Namespace, stack: ExitStack
) -> tuple[list[Layout], list[tuple[NDArray[np.float32], NDArray[np.int64]]]]:
    """Build and serve the layouts; returns them and the queries."""
    spec = parse_spec(document(args.target_qps), folder / "spec.yaml")
    weights, hotness = open_source(spec), load_hotness(spec)
    profile = Profile("40 MB a service", ServiceTime(5e-4, 5e-8), 40_000_000, DEFAULT_DENSE_TIME)
    tiered = make_plan(spec, hotness, profile, "tiered", 4)
    plans = {"tiered": tiered, "per_table": ungrouped(tiered)}
    build(spec, plans["tiered"], hotness, weights, folder / "single", shard_backend=args.shard_backend)
    for grouping, plan in plans.items():
        build(spec, plan, hotness, weights, folder / grouping, shard_backend=args.shard_backend, layout="fleet")
    installed = stack.enter_context(installation())
    log = folder / "single.log"
    single = stack.enter_context(running(installed, folder / "single", free_ports(), log))
    layouts = [Layout("single", len(plans["tiered"].embedding_services), single, {"single": single})]
    for grouping, plan in plans.items():
        servers = stack.enter_context(fleet(installed, folder / grouping, plan))
        layouts.append(Layout(f"fleet {grouping}", len(servers) - 1, servers["frontend"], servers))
    rng = np.random.default_rng(0)
    queries = []
    for _ in range(QUERIES):
        ids = np.hstack(
            [draw_ids(hotness, table, (spec.serving.batch, table.pooling), rng) for table in spec.dlrm.tables]
        )
        queries.append(
            (rng.standard_normal((spec.serving.batch, spec.dlrm.dense_features), np.float32), ids.astype(np.int64))
        )
    return layouts, queries


def ungrouped(tiered: Plan) -> Plan:
    """The same shards, each a service of its own, as the paper groups them."""
    embedding = tuple(
        replace(service, name=f"{shard.table}_{service.name}", shards=(shard,))
        for service in tiered.embedding_services
        for shard in service.shards
    )
    dense = tuple(service for service in tiered.services if service.kind == "dense")
    return replace(tiered, grouping="per_table", services=(*dense, *embedding))


@contextmanager
def fleet(installed: Installation, folder: Path, plan: Plan) -> Iterator[Mapping[str, Server]]:
    """One server of each service, and the front end."""
    with ExitStack() as stack:
        servers = {}
        for name in (service.name for service in plan.embedding_services):
            log = folder.with_name(f"{folder.name}-{name}.log")
            servers[name] = stack.enter_context(running(installed, folder / name, free_ports(), log))
        addresses = folder.with_name(f"{folder.name}.json")
        addresses.write_text(json.dumps({name: [server.calls] for name, server in servers.items()}))
        log = folder.with_name(f"{folder.name}-frontend.log")
        environment = {"ELASTICREC_ADDRESSES": str(addresses)}
        frontend = running(installed, folder / "frontend", free_ports(), log, environment=environment)
        yield {"frontend": stack.enter_context(frontend), **servers}


def turn(layout: Layout, queries: list[tuple[NDArray[np.float32], NDArray[np.int64]]], seconds: float) -> None:
    """Ask a layout one query after another."""
    before, spent_ms = cpu_s(layout.servers), []
    with grpcclient.InferenceServerClient(layout.asked.grpc) as client:
        end = time.perf_counter() + seconds
        while (start := time.perf_counter()) < end:
            dense, indices = queries[len(spent_ms) % QUERIES]
            inputs = [grpcclient.InferInput("dense", dense.shape, "FP32")]
            inputs.append(grpcclient.InferInput("indices", indices.shape, "INT64"))
            inputs[0].set_data_from_numpy(dense)
            inputs[1].set_data_from_numpy(indices)
            client.infer("rm1", inputs)
            spent_ms.append(1000 * (time.perf_counter() - start))
    layout.turns_ms.append(spent_ms)
    for part, spent_s in cpu_s(layout.servers).items():
        layout.cpu_s[part] = layout.cpu_s.get(part, 0) + spent_s - before[part]


def cpu_s(servers: Mapping[str, Server]) -> dict[str, float]:
    """CPU seconds so far: of the asked server, of each of its Python models, and of all shards together."""
    (first, asked), *shards = servers.items()
    process = psutil.Process(asked.process.pid)
    found = {f"{first} server": _cpu_s(process), CALLS: _thread_cpu_s(process, THREAD)}
    for stub in stubs(asked):
        model = Path(stub.cmdline()[1]).parent.parent.name
        found[model] = found.get(model, 0) + _cpu_s(stub)
    found["shards"] = 0.0
    for _, shard in shards:
        found["shards"] += _cpu_s(psutil.Process(shard.process.pid)) + sum(_cpu_s(stub) for stub in stubs(shard))
    return found


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _thread_cpu_s(process: psutil.Process, name: str) -> float:
    spent_s = 0.0
    for thread in process.threads():
        with suppress(FileNotFoundError, ProcessLookupError):  # it has ended since
            if Path(f"/proc/{process.pid}/task/{thread.id}/comm").read_text().strip() == name:
                spent_s += thread.user_time + thread.system_time
    return spent_s


def report(layouts: list[Layout], goal_ms: float) -> None:
    """The comparison."""
    single, tiered, per_table = layouts
    for layout in layouts:
        p50, p99 = np.percentile(np.concatenate(layout.turns_ms), [50, 99])
        print(f"{layout.name:<16} {layout.services:3d} embedding services   p50 {p50:6.2f} ms   p99 {p99:6.2f} ms")
        parts = {part: part_ms(layout, part) for part in layout.cpu_s}
        print("   CPU ms a query: " + ", ".join(f"{part} {ms:.2f}" for part, ms in parts.items() if ms >= 0.005))
    low_ms, added_ms, high_ms = np.percentile(tiered.p50_ms() - single.p50_ms(), [25, 50, 75])
    times = np.median(tiered.p50_ms() / single.p50_ms())
    print(
        f"tiered fleet adds {added_ms:.2f} ms at p50 ({times:.2f} times), half of the rounds {low_ms:.2f} to "
        f"{high_ms:.2f}; goal {goal_ms}: {verdict(added_ms <= goal_ms)}"
    )
    for part, what in ((CALLS, "CPU of the calls"), ("frontend server", "CPU of the whole front end")):
        ratio = part_ms(tiered, part) / part_ms(per_table, part)
        print(f"{what}, tiered / per_table: {ratio:.2f}; goal {GOAL_CPU}: {verdict(ratio <= GOAL_CPU)}")


def verdict(met: bool) -> str:
    """In words."""
    return "met" if met else "missed"


def part_ms(layout: Layout, part: str) -> float:
    """CPU a query of a part."""
    return 1000 * layout.cpu_s[part] / sum(map(len, layout.turns_ms))


if __name__ == "__main__":
    main()
