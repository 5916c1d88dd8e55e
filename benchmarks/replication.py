"""Memory at equal traffic, sized two ways: replicas of the whole model, and a fleet with what it needs of each service.

Each server is measured alone, one replica on a core of its own; the load generator, and for a front end the shards that
it calls, have the others:

 capacity    The most queries per second within the SLA: what one replica is good for, and what services are scaled by.
             A service is asked as busy front ends ask it: a few calls at a time, of several queries each, which they
             join; the whole model and a front end by as many queries in flight as bring the most.
 light load  The CPU that a query takes which comes alone. Waking threads is most of it, whatever is gathered: what a
             monitor sees of a fleet with time on its hands.

The traffic is what so many replicas of the whole model carry, counted the same way as the services' replicas, which are
whole numbers. A replica of the whole model runs all the while, on the core of what is measured, and both are asked in
turns: what counts is a service's CPU by that of the whole model in the same turn, the median over the rounds, since a
machine is not as fast all the time. A capacity counts the server's CPU seconds a query, so that what others take of it
does not show; beside it stands the share of the core that the server had. Queries are the model's own, and those of
a service what the router sends it. Memory is a replica's as if it were alone on its machine, after the load; a server
holds every query that is in flight, so that no more are than bring something: what brings the most is looked for with
another replica, since one keeps memory of all that it was ever asked at once.

RM1 and RM3 are examples/deeprecsys. MLPerf's DLRMv2 is examples/mlperf, scaled: its cuts are those of the full size,
since containers are made smaller alike, and its memory is that of the full rows, computed from their bytes, and what
was measured beside. Give --python one whose environment has the extra zoo. Plans are those of `elasticrec plan` as it
stands: by the default profile, or one of --profile, with no option chosen by hand.

    python benchmarks/replication.py [--models rm1 rm1_int8 rm3 dlrm_v2] [--replicas 10 30] [--profile profile.json]
        [--scale 0.01] [--python PYTHON] [--sla-ms 400] [--seconds 1] [--rounds 3]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import yaml
from _contenders import front_end

import elasticrec
from repo_builder.access.load import load_hotness
from repo_builder.access.queries import draw_queries
from repo_builder.export.dlrm.source import open_source
from repo_builder.model.arrays import wired
from repo_builder.partition.cost import DEFAULT_PROFILE, Profile, load_profile, replicas_for
from repo_builder.partition.plan import Plan, Service
from repo_builder.partition.planner import model_wise_plan
from repo_builder.profiling import perf_analyzer
from repo_builder.profiling.call_load import CallLoad
from repo_builder.profiling.capacity import most_in_flight, on_cores, split_cores
from repo_builder.profiling.loads import Load, measure_loads
from repo_builder.profiling.points import CALLS, LoadFigures, ServiceLoad
from repo_builder.repository.build import build
from repo_builder.repository.wiring import model_name
from repo_builder.serving.install import Installation, installation
from repo_builder.serving.processes import memory_alone
from repo_builder.serving.server import Server, free_ports, running
from repo_builder.spec import Spec, parse_spec
from repo_builder.words import times_less
from triton_backends.router.router import Router

ROOT = Path(__file__).parent.parent
SPECS = {
    "rm1": "deeprecsys/rm1.yaml",
    "rm1_int8": "deeprecsys/rm1.yaml",  # rows of its cold tiers as INT8
    "rm3": "deeprecsys/rm3.yaml",
    "dlrm_v2": "mlperf/dlrm_v2.yaml",
}
GOALS = {("rm1", 10): 5.0, ("rm1_int8", 10): 10.0, ("rm3", 10): 8.0, ("dlrm_v2", 10): 8.0, ("dlrm_v2", 30): 20.0}
DLRM_V2_BYTES = 4 * 128 * 204_184_588  # all rows in full size
QUERIES, IN_FLIGHT = 64, 8
JOINED = (4, 16)  # queries of a busy front end's calls
PATIENCE = 20  # deadlines by the SLA
WHOLE, FRONT = "whole model", "frontend"


@dataclass(frozen=True, slots=True)
class Asked:
    """A server, and its loads: those of a busy one, of which the best counts, and a lone query."""

    server: Server
    model: str
    busy: Sequence[Load]
    alone: Load


@dataclass(frozen=True, slots=True)
class Turn:
    """One replica at its capacity, and the CPU of a query that comes alone; what the whole model's took just before."""

    capacity: LoadFigures
    light_s: float
    whole_capacity_s: float
    whole_light_s: float

    @property
    def share(self) -> float:
        """Its CPU a query by the whole model's, at capacity."""
        return self.capacity.cpu_s / self.whole_capacity_s

    @property
    def light_share(self) -> float:
        """The same of a lone query."""
        return self.light_s / self.whole_light_s


@dataclass(frozen=True, slots=True)
class Seen:
    """One replica: all turns, its bytes, and of these its rows'."""

    turns: Sequence[Turn]
    memory_bytes: int
    rows_bytes: int

    @property
    def capacity(self) -> LoadFigures:
        """Of the turn whose share is the median."""
        return sorted(self.turns, key=lambda turn: turn.share)[len(self.turns) // 2].capacity

    @property
    def light_s(self) -> float:
        """The CPU of a lone query, of the turn whose share is the median."""
        return sorted(self.turns, key=lambda turn: turn.light_share)[len(self.turns) // 2].light_s

    def full_bytes(self, scale: float) -> float:
        """Its memory with all rows, of which it has a share of `scale`."""
        return self.memory_bytes + self.rows_bytes * (1 / scale - 1)


class Bench:
    """What a model is measured with: its queries, written once, the cores, and a running replica of the whole model."""

    def __init__(self, installed: Installation, folder: Path, spec: Spec, args: argparse.Namespace) -> None:
        self.installed, self.folder, self.spec, self.args = installed, folder, spec, args
        self.own, self.others = split_cores()
        self.hotness, self.source = load_hotness(spec), open_source(spec)
        drawn = draw_queries(spec.model, self.hotness, QUERIES, spec.serving.batch, 0, self.source.samples())
        self.queries = [drawn.query(number, spec.serving.batch) for number in range(QUERIES)]
        self.reference: Asked | None = None

    @contextmanager
    def whole(self) -> Iterator[Seen]:
        """A replica of the whole model, which all is compared with while the block runs."""
        repository = self.folder / "whole"
        plan = model_wise_plan(self.spec, self.hotness, DEFAULT_PROFILE)
        self._build(plan, repository, "model-wise")
        with self._server(repository) as searched:
            in_flight = self._most_in_flight(searched)
        with self._server(repository) as server:
            self.reference = self._model(server, in_flight)
            yield self._seen(self.reference, self.spec.model.size_bytes)

    def fleet(self, plan: Plan, repository: Path) -> dict[str, Seen]:
        """A replica of each service of the plan."""
        self._build(plan, repository, "fleet")
        routed = self._routed(repository)
        found = {FRONT: self._front_end(plan, repository)}
        for service in plan.embedding_services:
            with self._server(repository / service.name) as server:
                found[service.name] = self._seen(self._service(server, service, routed), self._rows_bytes(service))
        return found

    def _service(self, server: Server, service: Service, routed: Sequence[Mapping[str, np.ndarray]]) -> Asked:
        """Asked as front ends ask it: one query at a time, and calls of several queries."""
        mine = [own(query, f"{service.name}_") for query in routed]
        busy = [CallLoad(joined(mine, n), CALLS, n) for n in JOINED]
        alone = CallLoad(mine, 1)
        return Asked(server, model_name(self.spec, service.name), busy, alone)

    def _front_end(self, plan: Plan, repository: Path) -> Seen:
        """It has a core of its own; all shards share the others with the load generator."""
        with ExitStack() as stack:
            servers = {
                service.name: stack.enter_context(self._server(repository / service.name, self.others))
                for service in plan.embedding_services
            }
            addresses = {name: [server.calls] for name, server in servers.items()}
            with on_cores(self.own), front_end(self.installed, repository, addresses) as searched:
                in_flight = self._most_in_flight(searched)
            with on_cores(self.own):
                server = stack.enter_context(front_end(self.installed, repository, addresses))
            return self._seen(self._model(server, in_flight), 0)

    def _most_in_flight(self, server: Server) -> int:
        """The queries in flight that bring the most; the server was asked with more, and is not to be measured."""
        queries = self._own_queries()

        @cache
        def ask(in_flight: int) -> LoadFigures:
            load = ServiceLoad(queries, in_flight)
            return self._figures(server, self.spec.name, load, self.args.rounds)

        in_flight = most_in_flight(ask, IN_FLIGHT, self.spec.serving.sla_ms)
        assert in_flight is not None, f"{self.spec.name} misses the SLA"
        return in_flight

    def _model(self, server: Server, in_flight: int) -> Asked:
        """Asked the model's own queries, so many in flight; half, where a turn misses the SLA."""
        queries = self._own_queries()
        busy = [ServiceLoad(queries, n) for n in sorted({in_flight, max(1, in_flight // 2)})]
        return Asked(server, self.spec.name, busy, ServiceLoad(queries, 1))

    def _seen(self, asked: Asked, rows_bytes: int) -> Seen:
        """Turns; memory after the load."""
        turns = [self._turn(asked) for _ in range(self.args.rounds)]
        return Seen(turns, memory_alone(asked.server.process.pid), rows_bytes)

    def _turn(self, asked: Asked) -> Turn:
        """The whole model, then what is asked."""
        assert self.reference is not None
        whole = self._at_loads(self.reference)
        capacity, light_s = whole if asked is self.reference else self._at_loads(asked)
        return Turn(capacity, light_s, whole[0].cpu_s, whole[1])

    def _at_loads(self, asked: Asked) -> tuple[LoadFigures, float]:
        """At its capacity, the best of its busy loads within the SLA, and the CPU of a lone query."""
        light_s = self._figures(asked.server, asked.model, asked.alone).cpu_s
        figures = [self._figures(asked.server, asked.model, load) for load in asked.busy]
        within = [each for each in figures if each.p95_ms <= self.spec.serving.sla_ms]
        assert within, f"{asked.model} misses the SLA"
        return max(within, key=lambda each: each.core_qps), light_s

    def _figures(self, server: Server, model: str, load: Load, rounds: int = 1) -> LoadFigures:
        with on_cores(self.others):
            return measure_loads(server, model, [load], rounds, self.args.seconds, lambda: None)[0]

    @contextmanager
    def _server(self, repository: Path, cores: set[int] | None = None) -> Iterator[Server]:
        """A server on these cores, its own by default."""
        ports = free_ports()
        log = self.folder / f"{repository.name}-{ports.http}.log"
        with ExitStack() as stack:
            with on_cores(cores or self.own):
                server = stack.enter_context(running(self.installed, repository, ports, log))
            yield server

    def _build(self, plan: Plan, repository: Path, layout: Any) -> None:
        """A fleet that waits longer than the SLA for its shards: a load beyond the SLA is measured, and no error."""
        serving = replace(self.spec.serving, sla_ms=PATIENCE * self.spec.serving.sla_ms)
        build(
            replace(self.spec, serving=serving),
            plan,
            self.hotness,
            self.source,
            repository,
            shard_backend="native",
            layout=layout,
        )

    def _own_queries(self) -> Path:
        path = self.folder / "queries.json"
        if not path.exists():
            perf_analyzer.write_queries(path, (wired(query, self.spec.model.inputs) for query in self.queries))
        return path

    def _routed(self, repository: Path) -> list[Mapping[str, np.ndarray]]:
        """What the router sends the services for each of the model's queries."""
        router = Router.open(repository / "frontend" / model_name(self.spec, "router") / "1")
        return [router.route({**query, **self.source.ids(query)}).tensors for query in self.queries]

    def _rows_bytes(self, service: Service) -> int:
        dtypes = {table.name: table.format.stored_as(service.row_dtype) for table in self.spec.model.tables}
        return sum(shard.rows * dtypes[shard.table].row_bytes for shard in service.shards)


def own(query: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """A service's tensors of a routed query, without the axis that joins queries."""
    return {name.removeprefix(prefix): array[0] for name, array in query.items() if name.startswith(prefix)}


def joined(queries: Sequence[Mapping[str, np.ndarray]], number: int) -> list[dict[str, np.ndarray]]:
    """So many queries in a call."""
    calls = [queries[i : i + number] for i in range(0, len(queries), number)]
    return [{name: np.concatenate([query[name] for query in call]) for name in call[0]} for call in calls]


def main() -> None:
    """Measure the models one after another."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=SPECS, default=list(SPECS))
    parser.add_argument("--replicas", nargs="+", type=int, default=[10, 30], help="of the whole model")
    parser.add_argument("--scale", type=float, default=0.01, help="of DLRMv2's tables")
    parser.add_argument("--python", default=sys.executable, help="with torchrec, to export DLRMv2")
    parser.add_argument("--profile", type=load_profile_of, default=DEFAULT_PROFILE, help="what plans go by")
    parser.add_argument("--sla-ms", type=float, help="instead of the example's, where others use this machine")
    parser.add_argument("--seconds", type=float, default=1, help="a measurement")
    parser.add_argument("--rounds", type=int, default=3, help="of turns with the whole model")
    args = parser.parse_args()
    for name in args.models:
        with tempfile.TemporaryDirectory() as folder, installation() as installed:
            bench = Bench(installed, Path(folder), described(name, Path(folder), args), args)
            with bench.whole() as seen:
                compare(bench, name, seen, args)


def load_profile_of(path: str) -> Profile:
    """The argument of --profile."""
    return load_profile(Path(path))


def described(name: str, folder: Path, args: argparse.Namespace) -> Spec:
    """The example's spec, DLRMv2 with a program of its own."""
    document = yaml.safe_load((ROOT / "examples" / SPECS[name]).read_text())
    if name == "dlrm_v2":
        words = ("examples/mlperf/export.py", "--scale", str(args.scale), "-o", str(folder / "dlrm_v2.pt2"))
        subprocess.run([args.python, "-W", "ignore", *words], cwd=ROOT, check=True, capture_output=True)
    document["serving"]["sla_ms"] = args.sla_ms or document["serving"]["sla_ms"]
    if name == "rm1_int8":
        document["rows"] = {"hot": "fp32", "cold": "int8"}
    return parse_spec(document, folder / "spec.yaml")


def compare(bench: Bench, name: str, seen: Seen, args: argparse.Namespace) -> None:
    """The whole model, and a fleet planned for the traffic of each number of its replicas."""
    spec = bench.spec
    scale = spec.model.size_bytes / DLRM_V2_BYTES if name == "dlrm_v2" else 1.0
    cuts = replace(args.profile, min_memory_bytes=round(args.profile.min_memory_bytes * scale))
    tables = spec.model.size_bytes / scale / 2**30
    print(
        f"\n{name}: {tables:,.1f} GiB of tables, queries of {spec.serving.batch} rows, SLA {spec.serving.sla_ms:g} ms"
    )
    for replicas in args.replicas:
        target_qps = replicas * seen.capacity.core_qps
        planned = replace(spec, serving=replace(spec.serving, target_qps=target_qps))
        plan = elasticrec.plan(planned, bench.hotness, profile=cuts)
        if plan.grouping == "model_wise":
            print(f"{replicas} replicas of the whole model: the plan is not to cut it", flush=True)
            continue
        found = {WHOLE: seen, **bench.fleet(plan, bench.folder / f"fleet-{replicas}")}
        tell(found, plan, replicas, scale)
        for way, counts in sized(found, replicas).items():
            whole, *parts = (counts[each] * found[each].full_bytes(scale) for each in found)
            goal = GOALS.get((name, replicas)) if way == "capacity" else None
            met = "" if goal is None else f"; goal {goal:g}: {'met' if whole / sum(parts) >= goal else 'missed'}"
            print(
                f"  by {way:<11}{whole / 2**30:9,.1f} GiB against {sum(parts) / 2**30:7,.1f}: "
                f"{times_less(whole / sum(parts))}{met}"
            )


def sized(found: Mapping[str, Seen], replicas: int) -> dict[str, dict[str, int]]:
    """The replicas of all that carry the traffic of so many of the whole model, counted both ways."""
    shares = {
        "capacity": {name: median(turn.share for turn in each.turns) for name, each in found.items()},
        "light load": {name: median(turn.light_share for turn in each.turns) for name, each in found.items()},
    }
    return {way: {name: replicas_for(replicas * share) for name, share in of.items()} for way, of in shares.items()}


def tell(found: Mapping[str, Seen], plan: Plan, replicas: int, scale: float) -> None:
    """A line a service."""
    gathers = {service.name: service.gathers for service in plan.services}
    counts = sized(found, replicas)
    print(f"{replicas} replicas of the whole model")
    print(
        f"  {'':12}{'gathers':>9}{'capacity q/s':>14}{'of whole':>10}{'joined':>8}{'core':>6}{'p95 ms':>8}"
        f"{'replicas':>10}{'alone, CPU us':>15}{'replicas':>10}{'MiB each':>12}"
    )
    for name, each in found.items():
        at = each.capacity
        print(
            f"  {name:12}{gathers.get(name, 0):9,.0f}{at.core_qps:14,.0f}"
            f"{median(turn.share for turn in each.turns):10.3f}{at.queries:8.1f}"
            f"{at.qps * at.cpu_s:6.0%}{at.p95_ms:8.1f}{counts['capacity'][name]:10}"
            f"{1e6 * each.light_s:15,.0f}{counts['light load'][name]:10}{each.full_bytes(scale) / 2**20:12,.0f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
