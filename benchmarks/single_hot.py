"""Bags of one id between front end and embedding services of a fleet: as rows, each once, or as partial sums.

A model as Criteo's: 26 tables, one id of each in a row, their bags' mode sum. All rows in one service, or in three
tiers. Both fleets are built of one plan and take turns in one run: a lone client's p50, queries per second and CPU with
eight in flight, and bytes between the servers of a query. Queries: users by the tables' hotness, users all alike
(hardly any id comes twice), and one user, of whom the first 13 tables are, beside as many candidates.

    python benchmarks/single_hot.py [--rounds 3] [--seconds 3] [--batch 64]
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
from _contenders import served_fleet
from numpy.typing import NDArray
from unpooled import NAME, QUERIES, ROWS, SUMS, answer, compare, rows_as_they_are, tell

from repo_builder.access.load import load_hotness
from repo_builder.access.queries import draw_queries
from repo_builder.export.dlrm.source import open_source
from repo_builder.partition.cost import DEFAULT_DENSE_TIME, DEFAULT_PROFILE, Profile
from repo_builder.partition.plan import Plan, Shard
from repo_builder.partition.planner import make_plan
from repo_builder.repository.build import build
from repo_builder.serving.install import Installation, installation
from repo_builder.spec import parse_spec

USER_TABLES = 13
CUTS = {1: (), 3: (0.01, 0.1)}  # where tables' hotness order is cut
ROWS_OF = {"L": (200_000, 6), "M": (20_000, 10), "S": (500, 10)}


def main() -> None:
    """Measure the tables in one service, then in three."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3, help="a measurement")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--shard-backend", choices=["python", "native"], default="native")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, installation() as installed:
        for shards in CUTS:
            measure(Path(folder), shards, installed, args)


def measure(folder: Path, shards: int, installed: Installation, args: argparse.Namespace) -> None:
    """Both ways, served at once, in turns; a line a kind of queries."""
    spec = parse_spec(document(args.batch), folder / "spec.yaml")
    hotness, source = load_hotness(spec), open_source(spec)
    profile = Profile("80 MB a service", DEFAULT_PROFILE.service_time, 80_000_000, DEFAULT_DENSE_TIME)
    plan = in_tiers(make_plan(spec, hotness, profile, "tiered", 1), CUTS[shards])
    services = [service.name for service in plan.embedding_services]
    with ExitStack() as stack:
        contenders = []
        for name, unpooled in ((SUMS, False), (ROWS, True)):
            repository = folder / f"{len(services)}-{unpooled}"
            with rows_as_they_are(unpooled):
                build(spec, plan, hotness, source, repository, shard_backend=args.shard_backend, layout="fleet")
            contenders.append(stack.enter_context(served_fleet(installed, name, repository, services)))
        drawn = draw_queries(spec.model, hotness, QUERIES, args.batch, 0)
        hot = [drawn.query(k, args.batch) for k in range(QUERIES)]
        kinds = {
            f"{args.batch} users by hotness": hot,
            f"{args.batch} users all alike": [alike(query, seed) for seed, query in enumerate(hot)],
            f"a user beside {args.batch} candidates": [beside(query) for query in hot],
        }
        for kind, queries in kinds.items():
            compare([answer(each.asked.grpc, queries[0]) for each in contenders])
            tell(kind, len(services), contenders, queries, folder, installed, args)


def document(batch: int) -> dict[str, object]:
    """The model, its largest tables last."""
    return {
        "name": NAME,
        "dense_features": 13,
        "bottom_mlp": [64, 32],
        "top_mlp": [64, 1],
        "tables": [
            {"name": name, "rows": rows, "dim": 32, "pooling": 1, "count": count}
            for name, (rows, count) in ROWS_OF.items()
        ],
        "weights": {"source": "random"},
        "access": {"source": "powerlaw", "locality": 0.9},
        "serving": {"target_qps": 400, "batch": batch, "sla_ms": 5000},  # a loaded machine stalls
    }


def in_tiers(plan: Plan, shares: Sequence[float]) -> Plan:
    """The one embedding service's tables, each cut at these shares of its rows; a replica of each."""
    (whole,) = plan.embedding_services
    dense = [replace(service, replicas=1, added=0) for service in plan.services if service.kind == "dense"]
    tiers = []
    for k, (begin, end) in enumerate(pairwise((0.0, *shares, 1.0))):
        cut = tuple(Shard(s.table, int(begin * s.end), int(end * s.end)) for s in whole.shards)
        tiers.append(replace(whole, name=f"tier{k}", shards=cut, replicas=1, added=0))
    return replace(plan, services=(*dense, *tiers))


def alike(query: Mapping[str, NDArray], seed: int) -> Mapping[str, NDArray]:
    """Ids drawn from all alike."""
    rng = np.random.default_rng(seed)
    rows = np.repeat(*np.array(list(ROWS_OF.values())).T)
    return {**query, "indices": rng.integers(0, rows, query["indices"].shape)}


def beside(query: Mapping[str, NDArray]) -> Mapping[str, NDArray]:
    """The first user's features beside those of all as candidates."""
    indices, dense = query["indices"].copy(), query["dense"].copy()
    indices[:, :USER_TABLES] = indices[:1, :USER_TABLES]
    dense[:] = dense[:1]
    return {**query, "indices": indices, "dense": dense}


if __name__ == "__main__":
    main()
