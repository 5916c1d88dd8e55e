"""Models of other libraries with their rows in every format: built, served, and asked for about their own answers."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc
from numpy.typing import NDArray

from repo_builder.access.load import load_hotness
from repo_builder.export.dlrm.source import open_source
from repo_builder.model.types import RowDtype
from repo_builder.repository.build import build
from repo_builder.repository.configs import ShardBackend
from repo_builder.repository.manifest import Layout
from tests.zoo.hosts import Hosts
from tests.zoo.test_zoo import File, planned, read_query, tensor

pytestmark = [pytest.mark.zoo, pytest.mark.slow, pytest.mark.server, pytest.mark.timeout(900)]


def sigmoid(logits: NDArray) -> NDArray:
    return 1 / (1 + np.exp(-logits))


SCORES: dict[str, Callable[[NDArray], NDArray]] = {"din": np.asarray, "bags": np.asarray, "dlrm_dcn": sigmoid}
"""Histories, weighted bags of several dims, and TorchRec's DLRM, which gives logits."""
WITHIN: dict[RowDtype, float] = {"fp16": 1e-4, "bf16": 2e-3, "int8": 1e-3, "int8_half": 1e-3, "int4": 3e-2}


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize(
    ("dtype", "layout", "backend"),
    [
        ("fp16", "single", "python"),
        ("bf16", "fleet", "native"),
        ("int8", "single", "native"),
        ("int8", "fleet", "python"),
        ("int8_half", "single", "native"),
        ("int8_half", "fleet", "python"),
        ("int4", "single", "native"),
    ],
)
def test_scores_stay_near_the_models(
    name: str,
    dtype: RowDtype,
    layout: Layout,
    backend: ShardBackend,
    zoo_file: File,
    zoo_hosts: Hosts,
    tmp_path: Path,
) -> None:
    file = zoo_file(name, "exported")
    spec, plan = planned(name, "exported", file)
    stored = [replace(each, row_dtype=dtype) if each.kind == "embedding" else each for each in plan.services]
    plan = replace(plan, services=tuple(stored))
    build(spec, plan, load_hotness(spec), open_source(spec), tmp_path / "built", shard_backend=backend, layout=layout)
    query = read_query(file, 33)
    with ExitStack() as stack:
        if layout == "fleet":
            for service in plan.embedding_services:
                stack.enter_context(zoo_hosts.shards.serving(tmp_path / "built" / service.name))
            stack.enter_context(zoo_hosts.front.serving(tmp_path / "built" / "frontend"))
        else:
            stack.enter_context(zoo_hosts.single.serving(tmp_path / "built"))
        server = zoo_hosts.front.server if layout == "fleet" else zoo_hosts.single.server
        client = stack.enter_context(tritonclient.grpc.InferenceServerClient(server.grpc))
        answer = client.infer(spec.name, [tensor(tritonclient.grpc, *item) for item in query.inputs.items()])
    for output, expected in zip(spec.model.outputs, query.outputs, strict=True):
        found = SCORES[name](answer.as_numpy(output.name))
        apart = np.abs(found - SCORES[name](expected)).max()
        assert 0 < apart <= WITHIN[dtype], f"{output.name}: {apart}"
