"""The ensemble's latency beside plain PyTorch in one process, in turn in the same run; and where the time goes.

A query is 32 rows of 10 tables x 128 ids (RM1-like, 200,000 rows per table, dim 32), or one row; embedding services in
Python and native. Goal: p50 <= 1.3 x PyTorch + 1 ms. Then what one instance of a service takes of small queries.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from repo_builder.access.load import load_hotness
from repo_builder.access.queries import draw_ids
from repo_builder.access.query_file import QueryFile
from repo_builder.export.dlrm.source import WeightSource, open_source, open_weights
from repo_builder.partition.cost import DEFAULT_DENSE_TIME, Profile, ServiceTime
from repo_builder.partition.plan import Plan
from repo_builder.partition.planner import make_plan
from repo_builder.profiling import perf_analyzer
from repo_builder.profiling.call_load import CallLoad
from repo_builder.repository.build import build
from repo_builder.repository.configs import ShardBackend
from repo_builder.serving.client import ModelTimes, infer, times_by_model
from repo_builder.serving.install import installation
from repo_builder.serving.server import Server, free_ports, running
from repo_builder.spec import Spec, parse_spec

BATCHES, QUERIES, IN_FLIGHT = (32, 1), 16, 8
BACKENDS: tuple[ShardBackend, ...] = ("python", "native")
Latencies = Mapping[tuple[str, int], list[float]]  # p50 in ms of each round, by who answers and rows per query


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target-qps", type=float, default=800, help="more traffic makes more tiers")
    parser.add_argument("--s-max", type=int, default=4)
    parser.add_argument("--grouping", choices=["tiered", "per_table"], default="tiered")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder), args)


def measure(folder: Path, args: argparse.Namespace) -> None:
    """Build, serve, and take turns."""
    spec = parse_spec(document(args.target_qps), folder / "spec.yaml")
    weights, hotness = open_weights(spec.form), load_hotness(spec)
    profile = Profile("40 MB a service", ServiceTime(5e-4, 5e-8), 40_000_000, DEFAULT_DENSE_TIME)
    plan = make_plan(spec, hotness, profile, args.grouping, args.s_max)
    rng = np.random.default_rng(0)
    dense = rng.standard_normal((QUERIES * max(BATCHES), spec.dlrm.dense_features), np.float32)
    indices = np.hstack([draw_ids(hotness, table, (len(dense), table.pooling), rng) for table in spec.dlrm.tables])
    model = in_process(spec, weights)
    for batch in BATCHES:
        queries = QueryFile({"dense": dense[: QUERIES * batch], "indices": indices[: QUERIES * batch]})
        perf_analyzer.write_input_data(folder / f"{batch}.json", queries, spec.model.inputs, batch)
    with ExitStack() as stack:
        installed, servers = stack.enter_context(installation()), {}
        for backend in BACKENDS:
            build(spec, plan, hotness, open_source(spec), folder / backend, shard_backend=backend)
            server = running(installed, folder / backend, free_ports(), folder / f"{backend}.log")
            servers[backend] = stack.enter_context(server)
            check(servers[backend], spec, model, dense, indices)
        before = {backend: times_by_model(server.http) for backend, server in servers.items()}
        taken: Latencies = defaultdict(list)
        for _ in range(args.rounds):
            for batch in BATCHES:
                rows = [slice(i, i + batch) for i in range(0, QUERIES * batch, batch)]
                cut = [(dense[each], indices[each]) for each in rows]
                taken["PyTorch", batch].append(p50_ms(lambda query: model(*map(torch.from_numpy, query)), cut))
                for backend, server in servers.items():
                    found = perf_analyzer.run(spec.name, server.grpc, folder / f"{batch}.json", 1, 3)
                    taken[backend, batch].append(found.p50_ms)
        report(taken, len(plan.embedding_services))
        for backend, server in servers.items():
            where(backend, before[backend], times_by_model(server.http))
        instance_rate(plan, servers, args.rounds)


def check(
    server: Server,
    spec: Spec,
    model: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    dense: NDArray[np.float32],
    indices: NDArray[np.int64],
) -> None:
    """Both must give the same scores."""
    direct = model(torch.from_numpy(dense), torch.from_numpy(indices)).numpy()
    answer = infer("grpc", server.grpc, spec.name, {"dense": dense, "indices": indices})
    assert np.abs(answer["score"] - direct).max() < 1e-5


def report(taken: Latencies, services: int) -> None:
    """The comparison, by the best rounds: what else runs on a shared machine only ever adds."""
    print(f"p50 ms of a query, the least of the rounds (and the median); {services} embedding services")
    for (who, batch), values in taken.items():
        goal = 1.3 * min(taken["PyTorch", batch]) + 1
        verdict = f"   goal {goal:.2f}: {'met' if min(values) <= goal else 'missed'}" if who in BACKENDS else ""
        print(f"  {batch:>2} rows  {who:<8} {min(values):6.2f}   ({np.median(values):.2f}){verdict}")


def where(backend: str, before: Mapping[str, ModelTimes], after: Mapping[str, ModelTimes]) -> None:
    """Triton's mean times a request, of the run."""
    print(f"in the server with {backend} shards, mean ms a request (they run side by side):")
    for name, times in after.items():
        if times.requests > before[name].requests:
            print(f"  {name:<18} queue {times.queue_ms:5.2f}   compute {times.compute_ms:5.2f}")


def instance_rate(plan: Plan, servers: Mapping[str, Server], rounds: int) -> None:
    """What one instance serves of queries of one row with one id a table: the fixed time of a call."""
    service = plan.embedding_services[0]
    name, tables = f"{plan.spec}_{service.name}", len(service.shards)
    query = {"ids": np.zeros(tables, np.int32), "lengths": np.ones(tables, np.int32)}
    load = CallLoad([query], IN_FLIGHT)
    rates: dict[str, list[float]] = {backend: [] for backend in servers}
    before = {backend: times_by_model(server.http)[name] for backend, server in servers.items()}
    for _ in range(rounds):
        for backend, server in servers.items():
            rates[backend].append(load.run(server, name, 3).throughput_qps)
    print(f"one instance of a service, {tables} ids per query, {IN_FLIGHT} in flight; most (and median) of the rounds:")
    for backend, values in rates.items():
        first, last = before[backend], times_by_model(servers[backend].http)[name]
        spent_ms = last.compute_ms * last.requests - first.compute_ms * first.requests
        compute_us = 1000 * spent_ms / (last.requests - first.requests)
        rate = f"{max(values):8,.0f} queries/s ({np.median(values):,.0f})"
        print(f"  {backend:<8} {rate}, {compute_us:,.0f} us inside")


Query = tuple[NDArray[np.float32], NDArray[np.int64]]


def p50_ms(work: Callable[[Query], object], queries: list[Query], seconds: float = 3) -> float:
    """The median time of a query."""
    return float(np.median(spent_ms(work, queries, seconds)[5:]))


def spent_ms(work: Callable[[Query], object], queries: list[Query], seconds: float) -> list[float]:
    """The time of each query, one after another for some seconds."""
    spent: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        work(queries[len(spent) % len(queries)])
        spent.append(1000 * (time.perf_counter() - start))
    return spent


def in_process(spec: Spec, weights: WeightSource) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """The DLRM as one writes it in PyTorch."""
    layers = weights.dense()
    bottom = [(torch.from_numpy(w), torch.from_numpy(b)) for w, b in layers.bottom]
    top = [(torch.from_numpy(w), torch.from_numpy(b)) for w, b in layers.top]
    tables = [torch.from_numpy(np.concatenate(list(weights.table_chunks(table)))) for table in spec.dlrm.tables]
    pooling = [table.pooling for table in spec.dlrm.tables]
    i, j = torch.tril_indices(len(tables) + 1, len(tables) + 1, -1)

    @torch.inference_mode()
    def forward(dense: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        x = dense
        for weight, bias in bottom:
            x = torch.relu(torch.nn.functional.linear(x, weight, bias))
        bags = [
            torch.nn.functional.embedding_bag(ids, table, mode="sum")
            for ids, table in zip(indices.split(pooling, 1), tables, strict=True)
        ]
        features = torch.stack([x, *bags], 1)
        y = torch.cat([x, torch.bmm(features, features.transpose(1, 2))[:, i, j]], 1)
        for weight, bias in top[:-1]:
            y = torch.relu(torch.nn.functional.linear(y, weight, bias))
        return torch.sigmoid(torch.nn.functional.linear(y, *top[-1]))

    return forward


def document(target_qps: float, rows: int = 200_000) -> dict[str, object]:
    """The model."""
    return {
        "name": "rm1",
        "dense_features": 13,
        "bottom_mlp": [256, 128, 32],
        "top_mlp": [256, 64, 1],
        "tables": [{"name": "C", "rows": rows, "dim": 32, "pooling": 128, "count": 10}],
        "weights": {"source": "random"},
        "access": {"source": "powerlaw", "locality": 0.9},
        "serving": {"target_qps": target_qps, "batch": max(BATCHES)},
    }


if __name__ == "__main__":
    main()
