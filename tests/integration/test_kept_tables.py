"""A DLRM some of whose tables stay in the dense graph, served in every layout: PyTorch's forward is the oracle."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from repo_builder.access.load import load_hotness
from repo_builder.errors import ServerError
from repo_builder.export.dlrm.source import open_source
from repo_builder.model.row_rule import RowRule
from repo_builder.partition.cost import DEFAULT_PROFILE
from repo_builder.partition.planner import model_wise_plan
from repo_builder.repository.build import build
from repo_builder.repository.manifest import Layout, load_manifest, read_queries
from repo_builder.spec import Spec
from tests.integration.fleets import plan_for
from tests.integration.models import make_spec, pytorch_scores, random_query, score
from tests.zoo.hosts import SERVICES, Host, host

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def own_host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """One server for all: a fleet's front end finds the embedding services on the server that it runs on."""
    folder = tmp_path_factory.mktemp("kept")
    addresses = folder / "addresses.json"
    addresses.write_text("{}")
    with host(folder / "models", ELASTICREC_ADDRESSES=str(addresses)) as found:
        addresses.write_text(json.dumps({service: [found.server.calls] for service in SERVICES}))
        yield found


def keeping(folder: Path, *names: str, index_dtype: str = "int64") -> Spec:
    """The model with these tables in its dense graph."""
    spec = make_spec(folder, index_dtype)
    tables = tuple(replace(each, keep="dense" if each.name in names else "shard") for each in spec.dlrm.tables)
    return Spec.of_dlrm(spec.name, replace(spec.dlrm, tables=tables), spec.access, spec.serving)


def written(folder: Path, spec: Spec, layout: Layout) -> Path:
    hotness = load_hotness(spec)
    plan = model_wise_plan(spec, hotness, DEFAULT_PROFILE) if layout == "model-wise" else plan_for(spec, "tiered", 3)
    assert layout == "model-wise" or len(plan.embedding_services) > 1
    build(spec, plan, hotness, open_source(spec), folder, shard_backend="native", layout=layout)
    return folder


@pytest.mark.parametrize("layout", ["single", "fleet", "model-wise"])
@pytest.mark.parametrize("names", [("flag",), ("items_0", "flag")])
def test_scores_are_pytorchs(layout: Layout, names: tuple[str, ...], own_host: Host, tmp_path: Path) -> None:
    """Averaged bags that stay and averaged ones that are cut, ids of both in one tensor; wrong ids fail by name."""
    spec = keeping(tmp_path, *names, index_dtype="int64" if len(names) == 1 else "int32")
    folder = written(tmp_path / "built", spec, layout)
    parts = sorted(path.parent for path in folder.glob("*/SHA256SUMS")) or [folder]  # a fleet's repositories
    with ExitStack() as stack:
        for part in sorted(parts, key=lambda part: part.name == "frontend"):
            stack.enter_context(own_host.serving(part))
        for batch in (1, 33):
            dense, indices = random_query(spec, batch, seed=batch)
            scores = score("grpc", own_host.server.grpc, "small", dense, indices)
            np.testing.assert_allclose(scores, pytorch_scores(spec, dense, indices), atol=1e-5)
        wrong = indices.copy()
        wrong[7, -1] = 1  # flag has one row
        told = (
            "table flag: id 1 in row 7, column 22 of indices is out of range; expected 0 to 0, or -1 for an empty slot"
        )
        with pytest.raises(ServerError, match=told):
            score("grpc", own_host.server.grpc, "small", dense, wrong)
        np.testing.assert_allclose(score("grpc", own_host.server.grpc, "small", dense, indices), scores, atol=0)


def test_what_stays_is_float32_whatever_rows_says(own_host: Host, tmp_path: Path) -> None:
    spec = replace(keeping(tmp_path, "items_0"), rows=RowRule("int8", "int8"))
    folder = written(tmp_path / "built", spec, "single")
    manifest = load_manifest(folder)
    assert manifest.proof and manifest.proof.score_error and 0 < manifest.proof.score_error.max < 1e-2
    with own_host.serving(folder):
        dense, indices = random_query(spec, 9, seed=1)
        scores = score("grpc", own_host.server.grpc, "small", dense, indices)
    np.testing.assert_allclose(scores, pytorch_scores(spec, dense, indices), atol=1e-2)


def test_queries_are_drawn_for_all_tables(tmp_path: Path) -> None:
    """Those of a repository, and those of the same model that is cut whole, are the same."""
    kept, cut = keeping(tmp_path, "users", "flag"), keeping(tmp_path)
    folders = [written(tmp_path / name, spec, "model-wise") for name, spec in (("kept", kept), ("cut", cut))]
    one, other = (load_manifest(folder) for folder in folders)
    assert (one.tables, one.lookups, one.inputs) == (other.tables, other.lookups, other.inputs)
    queries = [read_queries(folder, 64) for folder in folders]
    np.testing.assert_array_equal(queries[0]["indices"], queries[1]["indices"])
    assert np.unique(queries[0]["indices"][:, :4]).size > 50
