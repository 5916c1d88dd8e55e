"""The model-wise layout: the whole model in one server, with the scores and the contract of the single layout."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from elasticrec.cli import main
from repo_builder.access.load import load_hotness
from repo_builder.errors import PlanError
from repo_builder.export.dlrm.source import open_source
from repo_builder.partition.cost import DEFAULT_PROFILE
from repo_builder.partition.plan import load_plan
from repo_builder.partition.planner import make_plan, model_wise_plan
from repo_builder.repository.build import build
from repo_builder.repository.manifest import load_manifest, read_queries
from repo_builder.serving.server import Server, remove_caches
from repo_builder.spec import Spec, load_spec
from tests.integration.conftest import Served
from tests.integration.models import document, make_spec, pytorch_scores, random_query, score
from tests.servers import serving


def write_spec(folder: Path) -> Path:
    make_spec(folder)
    path = folder / "small.json"
    path.write_text(json.dumps(document()))
    return path


@pytest.fixture(scope="module", params=["python", "native"])
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Spec, Path]:
    """A repository from the command line, by either shard backend."""
    folder = tmp_path_factory.mktemp(request.param)
    spec = write_spec(folder)
    words = ["build", str(spec), "-o", str(folder / "repository"), "--layout", "model-wise"]
    assert main([*words, "--shard-backend", request.param]) == 0
    return load_spec(spec), folder / "repository"


@dataclass(frozen=True)
class Whole:
    """The served baseline."""

    spec: Spec
    repository: Path
    server: Server


@pytest.fixture(scope="module")
def whole(built: tuple[Spec, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Whole]:
    spec, repository = built
    log = tmp_path_factory.mktemp("log") / "server.log"
    with serving(repository, log) as server:
        yield Whole(spec, repository, server)


def test_the_manifest_and_the_plan_say_what_it_is(built: tuple[Spec, Path]) -> None:
    _, repository = built
    remove_caches(repository)  # it is being served, by Python
    assert main(["verify", str(repository)]) == 0
    assert load_manifest(repository).layout == "model-wise"
    assert load_plan(repository / "plan.json").grouping == "model_wise"


def test_every_table_is_whole_in_the_checkpoints_order(built: tuple[Spec, Path]) -> None:
    """No cut anywhere: the one weight file is the tables as they are, and no id needs a map."""
    spec, repository = built
    rows = np.fromfile(repository / "small_tables/1/weights.bin", np.float32).reshape(-1, spec.dlrm.dim)
    weights = open_source(spec)
    expected = np.concatenate([chunk for table in spec.model.tables for chunk in weights.table_chunks(table)])
    np.testing.assert_array_equal(rows, expected)
    assert (repository / "small_router/1/idmap.bin").stat().st_size == 0
    assert {path.parent.name for path in repository.glob("*/config.pbtxt")} == {
        "small",
        "small_router",
        "small_tables",
        "small_dense",
    }


@pytest.mark.parametrize("target_qps", [1, 1_000_000])
def test_the_plan_has_one_instance_of_each_whatever_the_traffic(tmp_path: Path, target_qps: float) -> None:
    write_spec(tmp_path)
    text = {**document(), "serving": {"target_qps": target_qps, "batch": 8}}
    (tmp_path / "small.json").write_text(json.dumps(text))
    spec = load_spec(tmp_path / "small.json")
    plan = model_wise_plan(spec, load_hotness(spec), DEFAULT_PROFILE)
    assert [(service.name, service.instances, service.deployed) for service in plan.services] == [
        ("dense", 1, 1),
        ("tables", 1, 1),
    ]
    tables = plan.services[1]
    assert [(shard.table, shard.begin, shard.end) for shard in tables.shards] == [
        (table.name, 0, table.rows) for table in spec.dlrm.tables
    ]
    assert tables.gathers == pytest.approx(8 * (4 + 9 + 9 + 1))
    assert tables.memory_bytes == (3000 + 517 + 517 + 1) * 8 * 4 + DEFAULT_PROFILE.min_memory_bytes


def test_a_plan_of_ones_own_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec, plan = write_spec(tmp_path), tmp_path / "plan.json"
    assert main(["plan", str(spec), "--grouping", "tiered", "-o", str(plan)]) == 0
    words = ["build", str(spec), "-o", str(tmp_path / "out"), "--layout", "model-wise", "--plan", str(plan)]
    assert main(words) == 2
    assert "--plan: expected none with --layout model-wise" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_cut_plan_cannot_be_built_as_the_whole_model(tmp_path: Path) -> None:
    spec = make_spec(tmp_path)
    hotness = load_hotness(spec)
    cut = make_plan(spec, hotness, DEFAULT_PROFILE, "tiered", 4)
    with pytest.raises(PlanError, match="expected model_wise for the layout model-wise, got tiered"):
        build(spec, cut, hotness, open_source(spec), tmp_path / "out", layout="model-wise")
    assert not (tmp_path / "out").exists()


@pytest.mark.server
@pytest.mark.parametrize("protocol", ["grpc", "http"])
@pytest.mark.parametrize("batch", [1, 33])
def test_scores_equal_pytorchs(whole: Whole, protocol: str, batch: int) -> None:
    dense, indices = random_query(whole.spec, batch, seed=batch)
    address = whole.server.grpc if protocol == "grpc" else whole.server.http
    scores = score(protocol, address, "small", dense, indices)
    np.testing.assert_allclose(scores, pytorch_scores(whole.spec, dense, indices), atol=1e-5)


@pytest.mark.server
def test_scores_equal_the_single_layouts(whole: Whole, served: Served) -> None:
    """Equal up to the order of sums: the cut model adds partial sums."""
    dense, indices = random_query(served.spec, 50, seed=3)
    scores = score("grpc", whole.server.grpc, "small", dense, indices.astype(whole.spec.dlrm.index_dtype))
    np.testing.assert_allclose(scores, score("grpc", served.server.grpc, "small", dense, indices), atol=1e-5)


@pytest.mark.server
def test_the_query_command_gets_pytorchs_scores(whole: Whole, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["query", str(whole.repository), "--url", whole.server.grpc, "--rows", "4", "--json"]) == 0
    expected = pytorch_scores(whole.spec, **read_queries(whole.repository, 4))
    np.testing.assert_allclose(json.loads(capsys.readouterr().out)["outputs"]["score"], expected, atol=1e-5)
