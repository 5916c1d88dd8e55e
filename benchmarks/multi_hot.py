"""Bags of several ids that repeat from row to row: a fleet's router of before, and this one, which asks for each once.

26 tables, bags of 20 to 50 ids, their mode sum, all rows in one service or in three tiers. Two front ends, whose
routers are of two builds, take turns before the same shards: a lone client's p50, queries per second and CPU with eight
in flight, and bytes between the servers of a query. Queries: users by the tables' hotness, users all alike (no bag
repeats), and one user, of whom the first 13 tables are, beside as many candidates.

    python benchmarks/multi_hot.py [--before OLD/libtriton_elasticrec_fanout.so] [--rounds 3] [--seconds 3] [--batch 64]
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from _contenders import Contender, front_end
from numpy.typing import NDArray
from single_hot import CUTS, USER_TABLES, in_tiers
from unpooled import NAME, QUERIES, answer, compare, tell

from repo_builder.access.load import load_hotness
from repo_builder.access.queries import draw_queries
from repo_builder.export.dlrm.source import open_source
from repo_builder.partition.cost import DEFAULT_DENSE_TIME, DEFAULT_PROFILE, Profile
from repo_builder.partition.planner import make_plan
from repo_builder.repository.build import build
from repo_builder.serving.install import Installation, installation
from repo_builder.serving.server import free_ports, running
from repo_builder.spec import parse_spec

TABLES, LEAST_IDS, MOST_IDS = 26, 20, 50
POOLINGS = np.linspace(LEAST_IDS, MOST_IDS, TABLES).astype(int).reshape(-1, 2).T.reshape(-1)  # a user's, candidates'
ROWS = 50_000
LIBRARY = "libtriton_elasticrec_fanout.so"


def main() -> None:
    """Measure the tables in one service, then in three."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, help="the router's library of a build before; else this one alone")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3, help="a measurement")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--shard-backend", choices=["python", "native"], default="native")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, installation() as installed:
        for shards in CUTS:
            measure(Path(folder), shards, installed, args)


def measure(folder: Path, shards: int, installed: Installation, args: argparse.Namespace) -> None:
    """Both routers, served at once, in turns; a line a kind of queries."""
    spec = parse_spec(document(args.batch), folder / "spec.yaml")
    hotness, source = load_hotness(spec), open_source(spec)
    profile = Profile("80 MB a service", DEFAULT_PROFILE.service_time, 80_000_000, DEFAULT_DENSE_TIME)
    plan = in_tiers(make_plan(spec, hotness, profile, "tiered", 1), CUTS[shards])
    services = [service.name for service in plan.embedding_services]
    repository = folder / f"{len(services)}"
    build(spec, plan, hotness, source, repository, shard_backend=args.shard_backend, layout="fleet")
    with ExitStack() as stack:
        servers = {
            name: stack.enter_context(running(installed, repository / name, free_ports(), folder / f"{name}.log"))
            for name in services
        }
        addresses = {name: [server.calls] for name, server in servers.items()}
        contenders = []
        fronts = {"before": with_library(repository, args.before)} if args.before else {}
        for name, front in {**fronts, "each once": repository}.items():
            asked = stack.enter_context(front_end(installed, front, addresses))
            contenders.append(Contender(name, front, asked, {"frontend": asked, **servers}))
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


def with_library(repository: Path, library: Path) -> Path:
    """The front end with another build's router, which knows no dims of bags."""
    copied = repository.with_name(f"{repository.name}-before")
    shutil.copytree(repository / "frontend", copied / "frontend")
    (place,) = copied.rglob(LIBRARY)
    shutil.copyfile(library, place)
    (settings,) = copied.rglob("fanout.json")
    known = json.loads(settings.read_text())
    for service in known["services"]:
        for group in service["groups"]:
            del group["dims"]
    settings.write_text(json.dumps(known))
    return copied


def document(batch: int) -> dict[str, object]:
    """The model."""
    return {
        "name": NAME,
        "dense_features": 13,
        "bottom_mlp": [64, 32],
        "top_mlp": [64, 1],
        "tables": [
            {"name": f"t{t}", "rows": ROWS, "dim": 32, "pooling": int(pooling)} for t, pooling in enumerate(POOLINGS)
        ],
        "weights": {"source": "random"},
        "access": {"source": "powerlaw", "locality": 0.9},
        "serving": {"target_qps": 400, "batch": batch, "sla_ms": 5000},  # a loaded machine stalls
    }


def alike(query: Mapping[str, NDArray], seed: int) -> Mapping[str, NDArray]:
    """Ids drawn from all alike."""
    return {**query, "indices": np.random.default_rng(seed).integers(0, ROWS, query["indices"].shape)}


def beside(query: Mapping[str, NDArray]) -> Mapping[str, NDArray]:
    """The first user's features beside those of all as candidates."""
    indices, dense = query["indices"].copy(), query["dense"].copy()
    columns = int(POOLINGS[:USER_TABLES].sum())
    indices[:, :columns] = indices[:1, :columns]
    dense[:] = dense[:1]
    return {**query, "indices": indices, "dense": dense}


if __name__ == "__main__":
    main()
