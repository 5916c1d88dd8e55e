"""Rows in every format, served: PyTorch's forward on tables with what the format leaves of them is the oracle."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from repo_builder.access.load import load_hotness
from repo_builder.export.dlrm.source import open_source
from repo_builder.model.row_rule import RowRule
from repo_builder.model.types import RowDtype
from repo_builder.partition.plan import Plan
from repo_builder.repository.build import build
from repo_builder.repository.configs import ShardBackend
from repo_builder.repository.manifest import Layout
from repo_builder.spec import Spec
from tests.integration.fleets import plan_for
from tests.integration.models import beside_candidates, make_spec, pytorch_scores, random_query, score
from tests.zoo.hosts import SERVICES, Host, host
from triton_backends.kernels.row_formats import decode_rows, encode_rows

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def own_host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """One server for all: a fleet's front end finds the embedding services on the server that it runs on."""
    folder = tmp_path_factory.mktemp("row_formats")
    addresses = folder / "addresses.json"
    addresses.write_text("{}")
    with host(folder / "models", ELASTICREC_ADDRESSES=str(addresses)) as found:
        addresses.write_text(json.dumps({service: [found.server.calls] for service in SERVICES}))
        yield found


def left_of(dtype: RowDtype, spec: Spec, path: Path) -> Spec:
    """The model with tables of what the format leaves of their numbers."""
    state = torch.load(spec.dlrm.weights.path, weights_only=True)
    for key in (key for key in state if key.startswith("emb_l")):
        rows = state[key].numpy()
        state[key] = torch.from_numpy(decode_rows(encode_rows(rows, dtype), rows.shape[1], dtype))
    torch.save(state, path)
    return replace(spec, form=replace(spec.dlrm, weights=replace(spec.dlrm.weights, path=path)))


def written(folder: Path, spec: Spec, layout: Layout, backend: ShardBackend) -> Plan:
    plan = plan_for(spec, "tiered", 3)
    assert len(plan.embedding_services) > 1
    build(spec, plan, load_hotness(spec), open_source(spec), folder, shard_backend=backend, layout=layout)
    return plan


@pytest.mark.parametrize(
    ("dtype", "backend"),
    [
        ("fp16", "native"),
        ("bf16", "python"),
        ("int8", "native"),
        ("int8", "python"),
        ("int8_half", "native"),
        ("int4", "native"),
    ],
)
def test_scores_are_those_of_what_a_format_leaves_of_rows(
    dtype: RowDtype, backend: ShardBackend, own_host: Host, tmp_path: Path
) -> None:
    """To float32's own noise; and the format shows."""
    spec = replace(make_spec(tmp_path), rows=RowRule(dtype, dtype))
    written(tmp_path / "built", spec, "single", backend)
    with own_host.serving(tmp_path / "built"):
        query = random_query(spec, 64, seed=1)
        scores = score("grpc", own_host.server.grpc, "small", *query)
    np.testing.assert_allclose(scores, pytorch_scores(left_of(dtype, spec, tmp_path / "left.pt"), *query), atol=1e-5)
    apart = np.abs(scores - pytorch_scores(spec, *query)).max()
    assert 1e-5 < apart < {"fp16": 1e-3, "bf16": 1e-2, "int8": 1e-2, "int8_half": 1e-2, "int4": 0.2}[dtype]


@pytest.mark.parametrize("backend", ["native", "python"])
def test_hot_rows_in_float32_and_cold_ones_in_bytes_make_one_score(
    backend: ShardBackend, own_host: Host, tmp_path: Path
) -> None:
    """In a fleet, by its router: what is changed is about what bytes alone would change, or less."""
    spec = replace(make_spec(tmp_path), rows=RowRule("fp32", "int8"))
    plan = written(tmp_path / "built", spec, "fleet", backend)
    assert [service.row_dtype for service in plan.embedding_services][:2] == ["fp32", "int8"]
    with ExitStack() as stack:
        for part in (*(service.name for service in plan.embedding_services), "frontend"):
            stack.enter_context(own_host.serving(tmp_path / "built" / part))
        query = random_query(spec, 64, seed=1)
        scores = score("grpc", own_host.server.grpc, "small", *query)
        repeating = beside_candidates(spec, random_query(spec, 12, seed=2))
        rows = [(repeating[0][k : k + 1], repeating[1][k : k + 1]) for k in range(12)]
        together, alone = (
            np.concatenate([score("grpc", own_host.server.grpc, "small", *each) for each in queries])
            for queries in ([repeating], rows)
        )
    np.testing.assert_allclose(together, alone, atol=1e-6)
    whole, bytes_alone = (pytorch_scores(each, *query) for each in (spec, left_of("int8", spec, tmp_path / "left.pt")))
    assert 1e-6 < np.abs(scores - whole).max() < 2 * np.abs(bytes_alone - whole).max()
