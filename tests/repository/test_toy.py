"""Another kind of model goes through plan and build by its `Model` and `Source` alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from repo_builder.access.powerlaw import PowerLawHotness
from repo_builder.partition.cost import DEFAULT_PROFILE
from repo_builder.partition.plan import Plan
from repo_builder.partition.planner import make_plan, model_wise_plan
from repo_builder.repository.build import build
from repo_builder.repository.manifest import Layout, files_in, load_manifest, read_queries, verify
from repo_builder.repository.wiring import joined, pieces, wire
from repo_builder.spec import Spec
from tests.integration.models import CHEAP
from tests.toy_source import MODELS, toy_spec
from triton_backends.embedding_shard.shard import EmbeddingShard
from triton_backends.router.router import Router

HOTNESS = PowerLawHotness(0.8, 0)


def planned(spec: Spec, layout: Layout) -> Plan:
    if layout == "model-wise":
        return model_wise_plan(spec, HOTNESS, DEFAULT_PROFILE)
    return make_plan(spec, HOTNESS, CHEAP, "tiered", 3)


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("layout", ["single", "fleet", "model-wise"])
def test_it_is_built_in_every_layout(kind: str, layout: Layout, tmp_path: Path) -> None:
    spec, source = toy_spec(kind)
    plan = planned(spec, layout)
    assert len(plan.embedding_services) == (1 if layout == "model-wise" else 3 if kind == "toy" else 2)
    built = build(spec, plan, HOTNESS, source, tmp_path / "out", layout=layout)
    assert built == verify(tmp_path / "out") == load_manifest(tmp_path / "out")
    assert (built.layout, built.inputs, built.outputs) == (layout, spec.model.inputs, spec.model.outputs)
    front = "frontend/" if layout == "fleet" else ""
    assert (f"{front}toy_ids/1/model.onnx" in set(files_in(tmp_path / "out"))) == (kind == "ids")
    query = read_queries(tmp_path / "out", 5)
    assert set(query) == {tensor.name for tensor in spec.model.inputs}
    assert source.answers(query)["click"].shape[0] >= 1


def test_every_row_of_mixed_dims_is_written_once_where_the_router_looks(tmp_path: Path) -> None:
    """Ask the router for each row of each table alone, and the services for it."""
    spec, source = toy_spec("toy")
    plan = planned(spec, "single")
    build(spec, plan, HOTNESS, source, tmp_path, layout="single")
    router = Router.open(tmp_path / "toy_router/1")
    shards = {each.name: EmbeddingShard.open(tmp_path / f"toy_{each.name}/1") for each in plan.embedding_services}
    assert any(len(shard.matrices) > 1 for shard in shards.values())
    for begin in range(0, 500, 100):
        ids = np.arange(begin, begin + 100)
        query = {
            "item": ids,
            "history": np.full((100, 5), -1, np.int32),
            "tags": ids % 40,
            "tag_ends": np.arange(101),
            "tag_weights": np.ones(100, np.float32),
            "user": np.array([[begin % 90, begin // 100]]),
        }
        routed = router.route(query).tensors
        found = np.zeros((100, 20), np.float32), np.zeros((1, 32), np.float32)
        for held in wire(spec.model, plan):
            prefix = f"{held.name}_"
            asked = {key.removeprefix(prefix): each for key, each in routed.items() if key.startswith(prefix)}
            sums = shards[held.name].answer(asked)
            for share in held.shares:
                whole = joined(spec.model)[share.group]
                for start, end, columns in pieces(spec.model, share, whole):
                    found[share.group][:, end : end + columns] += sums[whole.name][:, start : start + columns]
        total, users = found
        np.testing.assert_array_equal(total[:, :8], source.tables[0][ids])
        np.testing.assert_array_equal(total[:, 8:16], 0)
        np.testing.assert_array_equal(total[:, 16:], source.tables[1][ids % 40])
        np.testing.assert_array_equal(users.reshape(2, 16), source.tables[2][query["user"][0]])


def test_two_builds_are_the_same_bytes(tmp_path: Path) -> None:
    """A fleet's version folders too."""
    spec, source = toy_spec("toy")
    first, again = (
        build(spec, planned(spec, "fleet"), HOTNESS, source, tmp_path / name, layout="fleet") for name in "ab"
    )
    assert first == again and (tmp_path / "a/manifest.json").read_bytes() == (tmp_path / "b/manifest.json").read_bytes()
