"""Averaged bags, served: a TorchRec model with tables of either mode, in another order than the spec's.

The oracle is TorchRec's published forward on torch's own EmbeddingBag(mode="mean").
"""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from repo_builder.access.load import load_hotness
from repo_builder.export.dlrm.source import open_source
from repo_builder.model.dlrm import Dlrm, DlrmTable, Weights
from repo_builder.partition.cost import DEFAULT_PROFILE
from repo_builder.partition.plan import Plan
from repo_builder.partition.planner import model_wise_plan
from repo_builder.repository.build import build
from repo_builder.serving.server import Server
from repo_builder.spec import Access, Serving, Spec
from tests.export.dlrm.oracles import OracleTorchRec, bags_of
from tests.integration.fleets import Running, make_fleet, plan_for
from tests.integration.models import random_query, score
from tests.servers import serving

pytestmark = pytest.mark.server

TABLES = (
    DlrmTable("t-cat-0", 3000, 8, 4, "mean"),
    DlrmTable("t_cat_0", 517, 8, 9, "sum"),
    DlrmTable("2nd", 700, 8, 6, "mean"),
    DlrmTable("flag", 1, 8, 1, "mean"),
)
ORDER = (2, 0, 3, 1)  # of the EmbeddingBagCollection
KEY = "sparse_arch.embedding_bag_collection.embedding_bags"


@dataclass(frozen=True)
class Means:
    """The model, and whoever serves it."""

    spec: Spec
    trained: Spec
    model: OracleTorchRec
    server: Server

    def expected(self, dense: np.ndarray, indices: np.ndarray) -> np.ndarray:
        columns = np.split(indices, np.cumsum([table.pooling for table in TABLES])[:-1], axis=1)
        own = torch.from_numpy(np.hstack([columns[i] for i in ORDER]).astype(np.int64))
        with torch.no_grad():
            return torch.sigmoid(self.model(torch.from_numpy(dense), bags_of(self.trained, own))).numpy()


def make(folder: Path) -> tuple[Spec, Spec, OracleTorchRec]:
    weights, access = Weights("torchrec", folder / "m.pt"), Access("powerlaw", None, 0.8)
    form = Dlrm(5, (16, 8), (16, 1), TABLES, "int64", weights)
    spec = Spec.of_dlrm("small", form, access, Serving(400.0, 8))
    trained = replace(form, tables=tuple(replace(TABLES[i], name=f"t{i}") for i in ORDER))
    torch.manual_seed(4)
    model = OracleTorchRec(trained)
    state = {}
    for key, value in model.saved().items():
        for i, table in enumerate(TABLES):
            key = key.replace(f"{KEY}.t{i}.weight", f"{KEY}.{table.name}.weight")
        state[key] = value
    for name, table in model.tables.items():
        table.weight.data = 0.5 * torch.randn(table.weight.shape)
        state[f"{KEY}.{TABLES[int(name[1:])].name}.weight"] = table.weight.data
    torch.save(state, spec.dlrm.weights.path)
    return spec, trained, model


def written(layout: str, folder: Path, spec: Spec, stack: ExitStack) -> Server:
    hotness, weights = load_hotness(spec), open_source(spec)
    if layout == "model-wise":
        plan = model_wise_plan(spec, hotness, DEFAULT_PROFILE)
        build(spec, plan, hotness, weights, folder / "r", layout=layout)
    elif layout in {"python", "native"}:
        plan: Plan = plan_for(spec, "per_table" if layout == "python" else "tiered", 3)
        assert len(plan.embedding_services) >= 2
        build(spec, plan, hotness, weights, folder / "r", shard_backend=layout)
    else:
        plan = plan_for(spec, "tiered", 2)
        make_fleet(folder / "fleet", plan, spec, sums_dtype="fp16" if layout == "fleet-fp16" else "fp32")
        fleet = Running(spec, plan, folder / "fleet", folder / "addresses.json", stack)
        for service in plan.embedding_services:
            fleet.start_shard(service.name)
        fleet.write_addresses()
        return fleet.start_frontend()
    return stack.enter_context(serving(folder / "r", folder / "server.log"))


@pytest.fixture(scope="module", params=["python", "native", "model-wise", "fleet", "fleet-fp16"])
def means(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Means]:
    folder = tmp_path_factory.mktemp(request.param)
    spec, trained, model = make(folder)
    with ExitStack() as stack:
        yield Means(spec, trained, model, written(request.param, folder, spec, stack))


@pytest.mark.parametrize("batch", [1, 33, 512])
def test_served_means_equal_torchs(means: Means, batch: int, request: pytest.FixtureRequest) -> None:
    dense, indices = random_query(means.spec, batch, seed=batch)
    indices[: batch // 3, :4] = -1  # bags of the first table without ids
    scores = score("grpc", means.server.grpc, "small", dense, indices)
    tolerance = 2e-3 if "fp16" in request.node.name else 1e-5
    np.testing.assert_allclose(scores, means.expected(dense, indices), atol=tolerance)


def test_the_comparison_can_tell_a_sum_from_a_mean(means: Means) -> None:
    dense, indices = random_query(means.spec, 64, seed=5)
    sums = replace(means.trained, tables=tuple(replace(table, mode="sum") for table in means.trained.tables))
    other = OracleTorchRec(sums)
    other.load_state_dict(means.model.state_dict())
    as_sums = replace(means, model=other).expected(dense, indices)
    assert np.abs(as_sums - means.expected(dense, indices)).max() > 0.02
