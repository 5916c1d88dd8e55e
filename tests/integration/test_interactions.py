"""TorchRec's models with an interaction of its own, from their state dict to a server's scores."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
import tritonclient.grpc as grpcclient
import yaml

from elasticrec.cli import main
from repo_builder.model.interaction import Cross, Projection
from tests.export.dlrm.oracles import OracleTorchRec, bags_of, make_spec, random_indices, torchrec_oracle
from tests.servers import serving

pytestmark = pytest.mark.server

TRAINED = make_spec(rows=(3000, 517), dim=8, dense_features=5, pooling=4, modes=("sum", "mean"))
INTERACTIONS = {"dcn": Cross(layers=3, rank=5), "projection": Projection(branch1=(12, 16), branch2=(24,))}


@dataclass(frozen=True)
class Served:
    """A model, and where it is served: its spec lists the tables the other way round."""

    model: OracleTorchRec
    address: str


@pytest.fixture(scope="module", params=INTERACTIONS)
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp(request.param)
    torch.manual_seed(6)
    model = torchrec_oracle(replace(TRAINED, interaction=INTERACTIONS[request.param]))
    torch.save(model.saved(), folder / "ranker.pt")
    assert main(["init", str(folder / "ranker.pt"), "-o", str(folder / "first.yaml")]) == 0
    document = yaml.safe_load((folder / "first.yaml").read_text())
    for table, trained in zip(document["tables"], TRAINED.tables, strict=True):
        table |= {"pooling": trained.pooling, "mode": trained.mode}
    document["tables"].reverse()
    (folder / "spec.yaml").write_text(yaml.safe_dump(document))
    assert main(["build", str(folder / "spec.yaml"), "-o", str(folder / "repository")]) == 0
    with serving(folder / "repository", folder / "server.log") as server:
        yield Served(model, server.grpc)


@pytest.mark.parametrize("batch", [1, 33])
def test_served_scores_equal_torchrecs(served: Served, batch: int) -> None:
    dense, indices = torch.rand(batch, 5), random_indices(TRAINED, batch, seed=batch)
    expected = torch.sigmoid(served.model(dense, bags_of(TRAINED, indices))).detach().numpy()
    reversed_tables = torch.cat(indices.split(4, dim=1)[::-1], dim=1)
    inputs = []
    for name, values, datatype in (("dense", dense, "FP32"), ("indices", reversed_tables, "INT64")):
        inputs.append(grpcclient.InferInput(name, list(values.shape), datatype))
        inputs[-1].set_data_from_numpy(np.ascontiguousarray(values.numpy()))
    with grpcclient.InferenceServerClient(served.address) as client:
        scores = client.infer("ranker", inputs).as_numpy("score")
    np.testing.assert_allclose(scores, expected, atol=1e-5)
    assert batch == 1 or np.std(expected) > 1e-3
