"""The ensemble's latency beside plain PyTorch in one process, in turn in the same run; and where the time goes.

A query is 32 rows of 10 tables x 128 ids (RM1-like, 200,000 rows a table, dim 32). Goal: p50 <= 1.3 x PyTorch + 1 ms.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch

from loadtest import perf_analyzer
from repo_builder.access.draw import draw_ids
from repo_builder.access.load import load_hotness
from repo_builder.export.weights import WeightSource, open_weights
from repo_builder.partition.cost import DEFAULT_DENSE_TIME, DEFAULT_PROFILE, Profile
from repo_builder.partition.planner import make_plan
from repo_builder.repository.build import build
from repo_builder.serving.client import score
from repo_builder.serving.footprint import ModelTimes, times_by_model
from repo_builder.serving.install import installation
from repo_builder.serving.server import free_ports, running
from repo_builder.spec import Spec, parse_spec

BATCH, QUERIES = 32, 16


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
    weights, hotness = open_weights(spec), load_hotness(spec)
    profile = Profile("40 MB a service", DEFAULT_PROFILE.service_time, 40_000_000, DEFAULT_DENSE_TIME)
    plan = make_plan(spec, hotness, profile, args.grouping, args.s_max)
    build(spec, plan, hotness, weights, folder / "repository")
    rng = np.random.default_rng(0)
    dense = rng.standard_normal((QUERIES * BATCH, spec.dense_features), np.float32)
    indices = np.hstack([draw_ids(hotness, table, (len(dense), table.pooling), rng) for table in spec.tables])
    model = in_process(spec, weights)
    perf_analyzer.write_input_data(folder / "queries.json", dense, indices, BATCH)
    with installation() as installed, running(installed, folder / "repository", free_ports(), folder / "log") as server:
        direct = model(torch.from_numpy(dense), torch.from_numpy(indices)).numpy()
        assert np.abs(score("grpc", server.grpc, spec.name, dense, indices) - direct).max() < 1e-5
        before = times_by_model(server)
        theirs, ours, python = [], [], []
        for _ in range(args.rounds):
            theirs.append(p50_ms(lambda q: model(torch.from_numpy(dense[q]), torch.from_numpy(indices[q]))))
            found = perf_analyzer.run(spec.name, server.grpc, folder / "queries.json", 1, 4)
            ours.append(found.p50_ms)
            python.append(p50_ms(lambda q: score("grpc", server.grpc, spec.name, dense[q], indices[q])))
        after = times_by_model(server)
    report(theirs, ours, python, len(plan.embedding_services))
    where(before, after)


def report(theirs: list[float], ours: list[float], python: list[float], services: int) -> None:
    """The comparison."""
    base, served = float(np.median(theirs)), float(np.median(ours))
    print(f"p50 ms of a query, medians of {len(ours)} rounds; {services} embedding services")
    print(f"  PyTorch in process, {torch.get_num_threads()} threads      {base:6.2f}   ({spread(theirs)})")
    print(f"  ensemble, perf_analyzer over gRPC  {served:6.2f}   ({spread(ours)})")
    print(f"  ensemble, Python client over gRPC  {np.median(python):6.2f}   ({spread(python)})")
    goal = 1.3 * base + 1
    print(f"  goal 1.3 x PyTorch + 1 ms          {goal:6.2f}   {'met' if served <= goal else 'missed'}")


def spread(values: list[float]) -> str:
    """Least to most."""
    return f"{min(values):.2f} to {max(values):.2f}"


def where(before: Mapping[str, ModelTimes], after: Mapping[str, ModelTimes]) -> None:
    """Triton's mean times a request, all of the run."""
    print("in the server, mean ms a request (embedding services run side by side):")
    for name, times in after.items():
        if times.requests > before[name].requests:
            print(f"  {name:<18} queue {times.queue_ms:5.2f}   compute {times.compute_ms:5.2f}")


def p50_ms(work: Callable[[slice], object], seconds: float = 4) -> float:
    """The median time of a query, one after another for some seconds."""
    spent: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        work(slice(len(spent) % QUERIES * BATCH, (len(spent) % QUERIES + 1) * BATCH))
        spent.append(time.perf_counter() - start)
    return 1000 * float(np.median(spent[5:]))


def in_process(spec: Spec, weights: WeightSource) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """The DLRM as one writes it in PyTorch."""
    layers = weights.dense()
    bottom = [(torch.from_numpy(w), torch.from_numpy(b)) for w, b in layers.bottom]
    top = [(torch.from_numpy(w), torch.from_numpy(b)) for w, b in layers.top]
    tables = [torch.from_numpy(np.concatenate(list(weights.table_chunks(table)))) for table in spec.tables]
    pooling = [table.pooling for table in spec.tables]
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


def document(target_qps: float) -> dict[str, object]:
    """The model."""
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
