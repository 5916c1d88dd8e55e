"""Rows of un-pooled look-ups between front end and embedding services of a fleet: as they are, or as partial sums.

The model scores items by the last 50 of a user, as DIN does: 51 look-ups per row of a table of dim 64, whole or in
three tiers; its dense part is small, so that what is measured is the way of the rows. Both fleets are built of one
plan and take turns in one run: a lone client's p50, queries per second with eight in flight, and bytes between the
servers of a query. Queries: 32 users, their items by the table's hotness or all alike (hardly any id comes twice),
and one user beside 200 candidates.

    python benchmarks/unpooled.py [--rounds 3] [--seconds 3] [--rows 200000]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import tritonclient.grpc as triton
from _contenders import Contender, front_end, load, served_fleet
from _wire import counting
from numpy.typing import NDArray
from torch import nn
from tritonclient.utils import np_to_triton_dtype

from repo_builder.access.load import load_hotness
from repo_builder.access.queries import draw_queries
from repo_builder.export.dlrm.source import open_source
from repo_builder.partition.cost import DEFAULT_DENSE_TIME, Profile, ServiceTime
from repo_builder.partition.plan import Plan
from repo_builder.partition.planner import make_plan
from repo_builder.profiling import perf_analyzer
from repo_builder.repository import design
from repo_builder.repository.build import build
from repo_builder.serving.install import Installation, installation
from repo_builder.spec import parse_spec

NAME, HISTORY, DIM, QUERIES, IN_FLIGHT = "items", 50, 64, 16, 8
USERS, CANDIDATES = 32, 200
CUTS = {1: (), 3: (2_000, 20_000)}  # where a table's hotness order is cut
SUMS, ROWS = "partial sums", "rows as they are"

Queries = Sequence[Mapping[str, NDArray]]


class Items(nn.Module):
    """A candidate against a user's history, each item's weight by its likeness."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.items = nn.Embedding(rows, DIM)
        self.score = nn.Linear(2 * DIM, 1)

    def forward(self, history: torch.Tensor, candidate: torch.Tensor) -> torch.Tensor:
        """(B, 50) and (B, 1) int64 -> (B, 1)."""
        seen, target = self.items(history), self.items(candidate)
        weights = (seen * target).sum(-1, keepdim=True).softmax(1)
        return self.score(torch.cat([(weights * seen).sum(1), target.squeeze(1)], -1))


@dataclass(frozen=True, slots=True)
class Seen:
    """Medians over rounds."""

    p50_ms: float
    qps: float


def main() -> None:
    """Measure a table in one service, then in three."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3, help="a measurement")
    parser.add_argument("--rows", type=int, default=200_000)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as place, installation() as installed:
        folder = Path(place)
        batch = torch.export.Dim("batch", min=1, max=4096)
        example = torch.zeros(2, HISTORY, dtype=torch.int64), torch.zeros(2, 1, dtype=torch.int64)
        program = torch.export.export(Items(args.rows).eval(), example, dynamic_shapes=({0: batch}, {0: batch}))
        torch.export.save(program, folder / "items.pt2")
        for shards in CUTS:
            measure(folder, shards, installed, args)


def measure(folder: Path, shards: int, installed: Installation, args: argparse.Namespace) -> None:
    """Both ways, served at once, in turns; a line a kind of queries."""
    document = {
        "name": NAME,
        "model": {"source": "exported", "path": str(folder / "items.pt2")},
        "access": {"source": "powerlaw", "locality": 0.9},
        "serving": {"target_qps": 400, "batch": USERS},
    }
    spec = parse_spec(document, folder / "spec.yaml")
    hotness, source = load_hotness(spec), open_source(spec)
    profile = Profile("80 MB a service", ServiceTime(5e-4, 5e-8), 80_000_000, DEFAULT_DENSE_TIME)
    plan = in_shards(make_plan(spec, hotness, profile, "tiered", 1), [0, *CUTS[shards], args.rows])
    services = [service.name for service in plan.embedding_services]
    with ExitStack() as stack:
        contenders = []
        for name, unpooled in ((SUMS, False), (ROWS, True)):
            repository = folder / f"{len(services)}-{unpooled}"
            with rows_as_they_are(unpooled):
                build(spec, plan, hotness, source, repository, shard_backend="native", layout="fleet")
            contenders.append(stack.enter_context(served_fleet(installed, name, repository, services)))
        drawn = draw_queries(spec.model, hotness, QUERIES, USERS, 0, source.samples())
        hot = [drawn.query(k, USERS) for k in range(QUERIES)]
        kinds = {
            f"{USERS} users, items by hotness": hot,
            f"{USERS} users, all items alike": alike(args.rows),
            f"a user beside {CANDIDATES} candidates": [beside(query) for query in hot],
        }
        for kind, queries in kinds.items():
            compare([answer(each.asked.grpc, queries[0]) for each in contenders])
            tell(kind, len(services), contenders, queries, folder, installed, args)


def in_shards(plan: Plan, ends: Sequence[int]) -> Plan:
    """The one embedding service, one per shard; a replica of each."""
    services = []
    for service in plan.services:
        one = replace(service, replicas=1, added=0)
        if service.kind == "dense":
            services.append(one)
            continue
        for k, (begin, end) in enumerate(pairwise(ends)):
            shard = replace(service.shards[0], begin=begin, end=end)
            services.append(replace(one, name=f"tier{k}", shards=(shard,)))
    return replace(plan, services=tuple(services))


@contextmanager
def rows_as_they_are(unpooled: bool) -> Iterator[None]:
    """A fleet is built so meanwhile."""
    arrangements = dict(design.LAYOUTS)
    mine = design.LAYOUTS
    assert isinstance(mine, dict)
    mine["fleet"] = replace(mine["fleet"], unpooled=unpooled)
    yield
    mine.update(arrangements)


def alike(rows: int) -> Queries:
    """Users whose items are drawn from all alike."""
    rng = np.random.default_rng(1)
    return [
        {"history": rng.integers(0, rows, (USERS, HISTORY)), "candidate": rng.integers(0, rows, (USERS, 1))}
        for _ in range(QUERIES)
    ]


def beside(query: Mapping[str, NDArray]) -> Mapping[str, NDArray]:
    """The first user's history beside candidates, which are other users' items."""
    candidates = np.resize(query["history"], (CANDIDATES, 1))
    return {"history": np.repeat(query["history"][:1], CANDIDATES, axis=0), "candidate": candidates}


def tell(
    kind: str,
    services: int,
    contenders: Sequence[Contender],
    queries: Queries,
    folder: Path,
    installed: Installation,
    args: argparse.Namespace,
) -> None:
    """A line of both ways, and their ratios to the first."""
    input_data = folder / "queries.json"
    perf_analyzer.write_queries(input_data, queries)
    alone: dict[str, list[float]] = {each.name: [] for each in contenders}
    busy: dict[str, list[float]] = {each.name: [] for each in contenders}
    cpu_ms: dict[str, list[tuple[float, float]]] = {each.name: [] for each in contenders}
    for _ in range(args.rounds):
        for each in contenders:
            alone[each.name].append(load(each, NAME, input_data, 1, args.seconds).seen.p50_ms)
            loaded = load(each, NAME, input_data, IN_FLIGHT, args.seconds)
            busy[each.name].append(loaded.seen.throughput_qps)
            front_s = loaded.cpu_s["frontend"]
            cpu_ms[each.name].append((1000 * front_s, 1000 * (sum(loaded.cpu_s.values()) - front_s)))
    found = {name: Seen(statistics.median(alone[name]), statistics.median(busy[name])) for name in alone}
    crossed = {each.name: between_servers(installed, each, queries) for each in contenders}
    first = contenders[0].name
    print(f"\n{kind}, {services} embedding service{'s' if services > 1 else ''}")
    for name, each in found.items():
        front_ms, shards_ms = (statistics.median(part) for part in zip(*cpu_ms[name], strict=True))
        print(
            f"  {name:18} p50 {each.p50_ms:6.2f} ms ({each.p50_ms / found[first].p50_ms:.2f}x)   "
            f"{each.qps:6.0f} queries/s ({each.qps / found[first].qps:.2f}x)   "
            f"{crossed[name] / 1000:7.0f} KB ({crossed[name] / crossed[first]:.2f}x)   "
            f"CPU ms a query: front end {front_ms:.3f}, services {shards_ms:.3f}",
            flush=True,
        )


def between_servers(installed: Installation, contender: Contender, queries: Queries) -> float:
    """Mean bytes of a query between the front end and the embedding services."""
    with ExitStack() as stack:
        wires = {
            service: stack.enter_context(counting(server.calls))
            for service, server in contender.servers.items()
            if server is not contender.asked
        }
        addresses = {service: [wire.address] for service, wire in wires.items()}
        front = stack.enter_context(front_end(installed, contender.repository, addresses))
        before = sum(wire.crossed_bytes for wire in wires.values())
        for query in queries:
            answer(front.grpc, query)
        return (sum(wire.crossed_bytes for wire in wires.values()) - before) / len(queries)


def answer(address: str, query: Mapping[str, NDArray]) -> NDArray:
    """The scores of a query."""
    inputs = []
    for name, array in query.items():
        tensor = triton.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
        tensor.set_data_from_numpy(np.ascontiguousarray(array))
        inputs.append(tensor)
    with triton.InferenceServerClient(address) as client:
        output = client.get_model_config(NAME).config.output[0].name
        return client.infer(NAME, inputs).as_numpy(output)


def compare(found: Sequence[NDArray]) -> None:
    """Both answer alike."""
    for each in found[1:]:
        np.testing.assert_allclose(each, found[0], rtol=1e-4, atol=1e-5)


if __name__ == "__main__":
    main()
