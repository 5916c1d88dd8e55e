"""Whether a plan's queries per second come true: each tier alone on real Triton, beside the profile's prediction.

A round measures a short profile, then every tier under full load with the ids that the model's router sends it, so that
both see the machine in the same minute. As the fan-out router does it, some queries' ids go in one call. The cuts are
those of fixed service times at two targets, the same each run. Printed are medians over the rounds of predicted /
measured. Goal: within 20% for three tiers. Beside the prediction of a plan, which prices rows by their bytes and by
whether they are cached, stands one that prices all rows as the model's accesses take them in the mean.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from repo_builder.access.hotness import Hotness
from repo_builder.access.load import load_hotness
from repo_builder.access.queries import draw_ids
from repo_builder.export.dlrm.source import open_source
from repo_builder.partition.accesses import ModelAccesses, model_accesses
from repo_builder.partition.cost import DEFAULT_DENSE_TIME, Profile, ServiceTime
from repo_builder.partition.plan import Service
from repo_builder.partition.planner import make_plan
from repo_builder.partition.priced import PricedOrder
from repo_builder.profiling.call_load import CallLoad
from repo_builder.profiling.capacity import on_cores, split_cores
from repo_builder.profiling.fit import cached_rows, fit_measured
from repo_builder.profiling.loads import measure_loads
from repo_builder.profiling.measure import measure
from repo_builder.profiling.points import CALLS, Effort, ProfileOptions
from repo_builder.repository.build import build
from repo_builder.repository.configs import ShardBackend
from repo_builder.repository.wiring import model_name
from repo_builder.serving.install import installation
from repo_builder.serving.server import free_ports, running
from repo_builder.spec import Spec, parse_spec
from triton_backends.router.router import Router

BATCH, QUERIES, JOINED = 32, 256, 16
TARGETS_QPS = (800.0, 4000.0)
CUTS = Profile("40 MB a service", ServiceTime(5e-4, 5e-8), 40_000_000, DEFAULT_DENSE_TIME)


@dataclass(frozen=True, slots=True)
class Tier:
    """A tier of the plan for `target_qps`, the rows (begin, end] of all: its model in a repository of its own, and its
    calls, of several queries each.
    """

    target_qps: float
    service: Service
    begin: int
    end: int
    model: str
    repository: Path
    calls: Sequence[Mapping[str, NDArray[np.int32]]]


@dataclass(frozen=True, slots=True)
class Round:
    """What one round says of a tier, in queries per second."""

    predicted: float
    predicted_alike: float
    measured: float
    queries: float


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2, help="for each point of a round")
    parser.add_argument("--shard-backend", choices=["python", "native"], default="python")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report(*rounds(Path(folder), args))


def rounds(folder: Path, args: argparse.Namespace) -> tuple[list[Tier], list[list[Round]]]:
    """The tiers of all plans, and what each round says of each."""
    tiers = [tier for target_qps in TARGETS_QPS for tier in build_tiers(target_qps, args.shard_backend, folder)]
    spec = parse_spec(document(TARGETS_QPS[0]), folder / "spec.yaml")
    accesses = model_accesses(spec, load_hotness(spec), keep=True)
    effort = Effort(args.seconds, 1, (32, 4096, 16384, 32768), (1, 4, JOINED), (1, 256), (1, 16))
    options = ProfileOptions("tiered", args.shard_backend, sum(table.rows for table in spec.dlrm.tables), effort)
    found = []
    for number in range(args.rounds):
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            measured = measure(spec, load_hotness(spec), options, Path(scratch))
        fits = fit_measured(measured)
        cache, levels = cached_rows(measured, fits, accesses)
        profile = replace(CUTS, service_time=fits.time, row_cache=cache, row_levels=levels)
        mean_row_s = fits.calls.per_gather_s
        print(
            f"round {number + 1}: {1e6 * fits.time.fixed_s:.0f} us a query, a row of 128 bytes "
            f"{1e9 * fits.time.rows_s(1, 128):.1f} ns, cached {1e9 * cache.rows_s(1, 128):.1f}, of hot services "
            f"{', '.join(f'{1e9 * level.rows_s(1, 128):.1f}' for level in levels)}, in the mean "
            f"{1e9 * mean_row_s:.1f}, RMS error of the fit {fits.calls.quality.relative_rms:.0%}",
            flush=True,
        )
        found.append([measure_tier(tier, profile, mean_row_s, accesses, args.seconds) for tier in tiers])
    return tiers, found


def measure_tier(tier: Tier, profile: Profile, mean_row_s: float, accesses: ModelAccesses, seconds: float) -> Round:
    """Serve a tier alone on a core of its own, as the profile's services are, and load it fully."""
    own, others = split_cores()
    with ExitStack() as stack:
        installed = stack.enter_context(installation())
        with on_cores(own):
            log = tier.repository.with_suffix(".log")
            server = stack.enter_context(running(installed, tier.repository, free_ports(), log))
        with on_cores(others):
            load = CallLoad(tier.calls, CALLS, JOINED)
            (found,) = measure_loads(server, tier.model, [load], 1, seconds, lambda: None)
    order = accesses.order(accesses.tables, profile.service_time)
    priced = PricedOrder(order, profile.cost_model(tier.target_qps))
    rows_s = float(priced.rows_s(np.array(tier.begin), np.array(tier.end)))
    fixed_s = profile.service_time.fixed_s
    alike_s = fixed_s + mean_row_s * tier.service.gathers
    return Round(1 / (fixed_s + rows_s), 1 / alike_s, found.core_qps, found.queries)


def build_tiers(target_qps: float, backend: ShardBackend, folder: Path) -> list[Tier]:
    """Build the plan for a target, one instance a service, and give each tier a repository and queries of its own."""
    folder = folder / f"{target_qps:g}"
    folder.mkdir()
    spec = parse_spec(document(target_qps), folder / "spec.yaml")
    hotness = load_hotness(spec)
    plan = make_plan(spec, hotness, CUTS, "tiered", 4)
    plan = replace(plan, services=tuple(replace(service, replicas=1, added=0) for service in plan.services))
    build(spec, plan, hotness, open_source(spec), folder / "whole", shard_backend=backend, layout="fleet")
    routed = route(spec, hotness, folder / "whole" / "frontend" / model_name(spec, "router") / "1")
    tiers, end = [], 0
    for service in plan.embedding_services:
        begin, end = end, end + sum(shard.rows for shard in service.shards)
        name = model_name(spec, service.name)
        tier = Tier(target_qps, service, begin, end, name, folder / service.name, routed[service.name])
        tier.repository.mkdir()
        (folder / "whole" / service.name / name).rename(tier.repository / name)
        tiers.append(tier)
    return tiers


def route(spec: Spec, hotness: Hotness, router: Path) -> dict[str, list[Mapping[str, NDArray[np.int32]]]]:
    """What the model's router sends each service for queries of the spec's accesses, joined."""
    rng = np.random.default_rng(0)
    rows = QUERIES * BATCH
    indices = np.hstack([draw_ids(hotness, table, (rows, table.pooling), rng) for table in spec.dlrm.tables])
    opened = Router.open(router)
    names = [service.name for service in opened.routing.services]
    routed: dict[str, list[Mapping[str, NDArray[np.int32]]]] = {name: [] for name in names}
    for begin in range(0, rows, JOINED * BATCH):
        query = opened.route({"indices": indices[begin : begin + JOINED * BATCH]}).tensors
        for name in names:
            routed[name].append({kind: query[f"{name}_{kind}"][0] for kind in ("ids", "lengths")})
    return routed


def report(tiers: list[Tier], found: list[list[Round]]) -> None:
    """A line a tier."""
    print("tier        rows    gathers  queries/call  measured q/s   predicted/measured (spread)    all rows alike")
    within = 0
    for tier, own in zip(tiers, zip(*found, strict=True), strict=True):
        ratios = [each.predicted / each.measured for each in own]
        alike = statistics.median(each.predicted_alike / each.measured for each in own)
        ratio = statistics.median(ratios)
        within += 0.8 <= ratio <= 1.2
        rows = sum(shard.rows for shard in tier.service.shards)
        print(
            f"{tier.target_qps:<8g}{tier.service.name:<7}{rows:>9,}{tier.service.gathers:>11,.0f}"
            f"{statistics.median(each.queries for each in own):>14.1f}"
            f"{statistics.median(each.measured for each in own):>14,.0f}"
            f"{ratio:>21.2f} ({min(ratios):.2f} to {max(ratios):.2f}){alike:>19.2f}"
        )
    print(f"goal: three tiers within 20%: {within} of {len(tiers)}, {'met' if within >= 3 else 'missed'}")


def document(target_qps: float) -> dict[str, object]:
    """The model: RM1-like."""
    return {
        "name": "rm1",
        "dense_features": 13,
        "bottom_mlp": [256, 128, 32],
        "top_mlp": [256, 64, 1],
        "tables": [{"name": "C", "rows": 200_000, "dim": 32, "pooling": 128, "count": 10}],
        "weights": {"source": "random"},
        "access": {"source": "powerlaw", "locality": 0.9},
        "serving": {"target_qps": target_qps, "batch": BATCH},
    }


if __name__ == "__main__":
    main()
