"""A small DLRM that is built and served for the tests, and PyTorch's own forward of it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from repo_builder.access.load import load_hotness
from repo_builder.export.dlrm.source import open_source
from repo_builder.export.examples import write_example_checkpoint
from repo_builder.partition.cost import Profile, ServiceTime
from repo_builder.partition.plan import Plan
from repo_builder.partition.planner import make_plan
from repo_builder.repository.build import build
from repo_builder.repository.configs import ShardBackend
from repo_builder.serving.client import Protocol, infer
from repo_builder.spec import Spec, parse_spec
from tests.partition.helpers import DENSE_TIME

# services cost next to nothing here, so that the optimum has several
CHEAP = Profile("tests", ServiceTime(fixed_s=1e-5, per_row_s=1e-4), 2_000, DENSE_TIME)


def document(index_dtype: str = "int64") -> dict:
    """A spec with tables of different sizes and pooling, summed and averaged, one of a single row."""
    return {
        "name": "small",
        "dense_features": 5,
        "bottom_mlp": [16, 8],
        "top_mlp": [16, 1],
        "tables": [
            {"name": "users", "rows": 3000, "dim": 8, "pooling": 4},
            {"name": "items", "rows": 517, "dim": 8, "pooling": 9, "count": 2, "mode": "mean"},
            {"name": "flag", "rows": 1, "dim": 8, "pooling": 1},
        ],
        "index_dtype": index_dtype,
        "weights": {"source": "dlrm", "path": "small.pt"},
        "access": {"source": "powerlaw", "locality": 0.8},
        "serving": {"target_qps": 400, "batch": 8},
    }


def make_spec(folder: Path, index_dtype: str = "int64") -> Spec:
    """The spec, its checkpoint written in `folder`; embeddings large enough for one wrong id to show in a score."""
    spec = parse_spec(document(index_dtype), folder / "small.yaml")
    path = folder / "small.pt"
    write_example_checkpoint(spec.form, path)
    state = torch.load(path, weights_only=True)
    rng = torch.Generator().manual_seed(3)
    for key in state:
        if key.startswith("emb_l"):
            state[key] = 0.3 * torch.randn(state[key].shape, generator=rng)
    torch.save(state, path)
    return spec


def make_repository(
    folder: Path, grouping: str, index_dtype: str = "int64", shard_backend: ShardBackend = "python"
) -> tuple[Spec, Plan]:
    """Build the spec into `folder / "repository"`, one instance a service."""
    spec = make_spec(folder, index_dtype)
    hotness = load_hotness(spec)
    planned = make_plan(spec, hotness, CHEAP, grouping, 4)
    plan = replace(planned, services=tuple(replace(service, replicas=1, added=0) for service in planned.services))
    build(spec, plan, hotness, open_source(spec), folder / "repository", shard_backend=shard_backend)
    return spec, plan


def score(
    protocol: Protocol, address: str, model: str, dense: np.ndarray, indices: np.ndarray, timeout_s: float = 60
) -> np.ndarray:
    """The scores (B, 1) that a served DLRM gives."""
    return infer(protocol, address, model, {"dense": dense, "indices": indices}, timeout_s)["score"]


def random_query(spec: Spec, batch: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Dense features and ids, with padding here and there and ids that come twice."""
    rng = np.random.default_rng(seed)
    dense = rng.standard_normal((batch, spec.dlrm.dense_features)).astype(np.float32)
    columns = []
    for table in spec.dlrm.tables:
        ids = rng.integers(0, table.rows, (batch, table.pooling))
        ids[rng.random(ids.shape) < 0.2] = -1
        if table.pooling > 1:
            ids[:, 1] = ids[:, 0]
        columns.append(ids)
    return dense, np.hstack(columns).astype(spec.dlrm.index_dtype)


def beside_candidates(
    spec: Spec, query: tuple[np.ndarray, np.ndarray], tables: int = 2
) -> tuple[np.ndarray, np.ndarray]:
    """The query as one user's beside candidates: the bags of the first tables are its first row's in all."""
    dense, indices = query[0], query[1].copy()
    columns = sum(table.pooling for table in spec.dlrm.tables[:tables])
    indices[:, :columns] = indices[:1, :columns]
    return dense, indices


def pytorch_scores(spec: Spec, dense: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """The open-source DLRM's forward in plain PyTorch, from the checkpoint."""
    state = torch.load(spec.dlrm.weights.path, weights_only=True)
    x = torch.from_numpy(dense)
    for k in range(len(spec.dlrm.bottom_mlp)):
        x = torch.relu(torch.nn.functional.linear(x, state[f"bot_l.{2 * k}.weight"], state[f"bot_l.{2 * k}.bias"]))
    features = [x]
    begin = 0
    for i, table in enumerate(spec.dlrm.tables):
        bag = torch.nn.EmbeddingBag.from_pretrained(state[f"emb_l.{i}.weight"], mode=table.mode)
        column = indices[:, begin : begin + table.pooling].astype(np.int64)
        begin += table.pooling
        used = column >= 0
        offsets = np.concatenate([[0], np.cumsum(used.sum(1))[:-1]])
        features.append(bag(torch.from_numpy(column[used]), torch.from_numpy(offsets)))
    dots = [(features[i] * features[j]).sum(1, keepdim=True) for i in range(len(features)) for j in range(i)]
    y = torch.cat([x, *dots], 1)
    for k in range(len(spec.dlrm.top_mlp)):
        y = torch.nn.functional.linear(y, state[f"top_l.{2 * k}.weight"], state[f"top_l.{2 * k}.bias"])
        y = torch.relu(y) if k + 1 < len(spec.dlrm.top_mlp) else torch.sigmoid(y)
    return y.numpy()
