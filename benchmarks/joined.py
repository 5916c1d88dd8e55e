"""What joining calls gives: fan-out routers of several builds before the same shards, in turns, at several loads.

Of a fleet of three tiers, and of one of a service a table and tier. CPU is that of all shards and of the front end,
from /proc, per query; `calls` the part of it in the router's thread, which sends a part of them (`fleet.py`).
`joined` is how many queries a call was made for. The library `before` is one from before calls were joined.

    python benchmarks/joined.py --library before=OLD/libtriton_elasticrec_fanout.so [--shard-backend native]
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from fleet import CALLS, cpu_s, ungrouped
from latency import document
from single_hot import in_tiers

from repo_builder.access.load import load_hotness
from repo_builder.access.queries import draw_queries
from repo_builder.export.dlrm.source import open_source
from repo_builder.local_fleet.status import metric, metrics_text
from repo_builder.partition.cost import DEFAULT_DENSE_TIME, DEFAULT_PROFILE, Profile
from repo_builder.partition.planner import make_plan
from repo_builder.profiling import perf_analyzer
from repo_builder.repository.build import build
from repo_builder.serving.install import installation
from repo_builder.serving.server import Server, free_ports, running
from repo_builder.spec import parse_spec

CONCURRENCIES = (1, 8, 32)
QUERIES = 64
TIERS = (0.01, 0.1)  # where tables' hotness order is cut
HERE = Path(__file__).parents[1] / "triton_backends/native/libtriton_elasticrec_fanout.so"


@dataclass
class Router:
    """A front end with a router of some build, its servers by name, and what was measured by concurrency."""

    name: str
    servers: Mapping[str, Server]
    qps: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))
    p50_ms: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))
    cpu_ms: dict[int, list[dict[str, float]]] = field(default_factory=lambda: defaultdict(list))
    joined: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--library", action="append", default=[], help="NAME=PATH of another build's router")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3, help="a router's turn")
    parser.add_argument("--shard-backend", choices=["python", "native"], default="python")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--grouping", action="append", choices=["tiered", "per_table"])
    args = parser.parse_args()
    libraries = dict(each.split("=", 1) for each in args.library) | {"this": str(HERE)}
    for grouping in args.grouping or ["tiered", "per_table"]:
        with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
            measure(Path(folder), grouping, libraries, args, stack)


def measure(
    folder: Path, grouping: str, libraries: Mapping[str, str], args: argparse.Namespace, stack: ExitStack
) -> None:
    """One fleet, and all routers before it."""
    described = document(800)
    described["serving"] = {"target_qps": 800, "batch": args.batch, "sla_ms": 5000}  # a loaded machine stalls
    spec = parse_spec(described, folder / "spec.yaml")
    weights, hotness = open_source(spec), load_hotness(spec)
    profile = Profile("40 MB a service", DEFAULT_PROFILE.service_time, 40_000_000, DEFAULT_DENSE_TIME)
    plan = in_tiers(make_plan(spec, hotness, profile, "tiered", 1), TIERS)
    plan = plan if grouping == "tiered" else ungrouped(plan)
    build(spec, plan, hotness, weights, folder / "fleet", shard_backend=args.shard_backend, layout="fleet")
    queries = draw_queries(spec.model, hotness, QUERIES, spec.serving.batch, seed=0)
    perf_analyzer.write_input_data(folder / "queries.json", queries, spec.model.inputs, spec.serving.batch)
    installed = stack.enter_context(installation())

    def serve(name: str, repository: Path, **environment: str) -> Server:
        log = folder / f"{name}.log"
        return stack.enter_context(running(installed, repository, free_ports(), log, environment=environment))

    shards = {s.name: serve(s.name, folder / "fleet" / s.name) for s in plan.embedding_services}
    (folder / "addresses.json").write_text(json.dumps({name: [shard.calls] for name, shard in shards.items()}))
    routers = []
    for name, library in libraries.items():
        shutil.copytree(folder / "fleet/frontend", folder / name)
        for copied in (folder / name).rglob(HERE.name):
            shutil.copyfile(library, copied)
        for settings in (folder / name).rglob("fanout.json") if name == "before" else ():
            known = json.loads(settings.read_text())
            for service in known["services"]:
                del service["instances"]  # which it does not know
                for group in service["groups"]:
                    del group["dims"]  # likewise
            settings.write_text(json.dumps(known))
        asked = serve(f"frontend-{name}", folder / name, ELASTICREC_ADDRESSES=str(folder / "addresses.json"))
        routers.append(Router(name, {"frontend": asked, **shards}))
    for number in range(args.rounds):
        for concurrency in CONCURRENCIES:
            for router in routers if number % 2 == 0 else routers[::-1]:
                turn(router, spec.name, folder / "queries.json", concurrency, args.seconds)
    report(f"{grouping}, {len(shards)} embedding services, {args.shard_backend} shards", routers)


def turn(router: Router, model: str, queries: Path, concurrency: int, seconds: float) -> None:
    """Ask a router with so many queries under way."""
    asked = router.servers["frontend"]
    before, counted = cpu_s(router.servers), counts(asked, model)
    seen = perf_analyzer.run(model, asked.grpc, queries, concurrency, seconds)
    spent_s, (answered, calls, parts) = cpu_s(router.servers), counts(asked, model)
    answered -= counted[0]
    router.qps[concurrency].append(seen.throughput_qps)
    router.p50_ms[concurrency].append(seen.p50_ms)
    cpu_ms = {part: 1000 * (spent_s[part] - before[part]) / answered for part in before}
    router.cpu_ms[concurrency].append(cpu_ms)
    router.joined[concurrency].append((parts - counted[2]) / (calls - counted[1]) if parts else np.nan)


def counts(server: Server, model: str) -> tuple[float, float, float]:
    """So far: queries answered; calls of embedding services, and the queries that these were made for."""
    text = metrics_text(server)
    routed = metric(text, "nv_inference_request_success", model=f"{model}_router")
    calls, queries = metric(text, "elasticrec_remote_calls_total"), metric(text, "elasticrec_remote_queries_total")
    return sum(routed), sum(calls), sum(queries)


def report(title: str, routers: list[Router]) -> None:
    """The medians."""
    print(title)
    for concurrency in CONCURRENCIES:
        for router in routers:
            cpu_ms = {
                part: float(np.median([each[part] for each in router.cpu_ms[concurrency]]))
                for part in ("frontend server", CALLS, "shards")
            }
            print(
                f"  {concurrency:3d} under way  {router.name:<10} {np.median(router.qps[concurrency]):7.0f} queries/s  "
                f"p50 {np.median(router.p50_ms[concurrency]):7.2f} ms  "
                f"joined {np.median(router.joined[concurrency]):5.2f}  "
                "CPU ms a query: " + ", ".join(f"{part} {ms:.3f}" for part, ms in cpu_ms.items()),
                flush=True,
            )


if __name__ == "__main__":
    main()
