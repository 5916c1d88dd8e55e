"""Building the fleet layout: what lies where, what the configs say, and what is refused."""

import json
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from k8s.options import RepositorySource
from repo_builder.access.load import load_hotness
from repo_builder.errors import PlanError, SpecError
from repo_builder.export.dlrm.source import open_source
from repo_builder.partition.plan import Plan
from repo_builder.partition.planner import make_plan
from repo_builder.repository.build import build
from repo_builder.repository.manifest import load_manifest, verify
from repo_builder.repository.service_names import service_names
from repo_builder.spec import FleetSettings, Spec, parse_spec
from tests.integration.models import CHEAP, document
from triton_backends.router.router import Router


def make(folder: Path, seed: int = 0, plan: Plan | None = None, **fleet: object) -> tuple[Spec, Plan]:
    spec = parse_spec({**document(), "weights": {"source": "random", "seed": seed}}, folder / "spec.yaml")
    spec = replace(spec, fleet=FleetSettings(**fleet))
    hotness = load_hotness(spec)
    plan = plan or make_plan(spec, hotness, CHEAP, "tiered", 2)
    build(spec, plan, hotness, open_source(spec), folder, layout="fleet")
    return spec, plan


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Spec, Plan]:
    folder = tmp_path_factory.mktemp("fleet") / "small"
    return folder, *make(folder)


def config(folder: Path, path: str) -> pb.ModelConfig:
    return text_format.Parse((folder / path / "config.pbtxt").read_text(), pb.ModelConfig())


def version(folder: Path, service: str) -> str:
    (found,) = [path for path in (folder / service / f"small_{service}").iterdir() if path.name.isdigit()]
    return found.name


def test_each_service_has_a_repository_of_its_own(built: tuple[Path, Spec, Plan]) -> None:
    folder, _, plan = built
    assert verify(folder).layout == load_manifest(folder).layout == "fleet"
    services = {service.name for service in plan.embedding_services}
    assert {path.name for path in folder.iterdir()} == {
        "manifest.json",
        "plan.json",
        "queries.npz",
        "frontend",
        *services,
    }
    assert {path.name for path in (folder / "frontend").iterdir()} == {
        "small",
        "small_router",
        "small_dense",
        "SHA256SUMS",
    }
    for service in services:
        assert {path.name for path in (folder / service).iterdir()} == {f"small_{service}", "SHA256SUMS"}


@pytest.mark.parametrize(
    "source", [RepositorySource("claim", "models/rm1"), RepositorySource("image", "registry/rm1:1")]
)
def test_a_pod_refuses_what_is_not_as_it_was_built(
    built: tuple[Path, Spec, Plan], tmp_path: Path, source: RepositorySource
) -> None:
    """The rendered command, run in each server's folder: good as built; not with a bit flipped, nor a file short."""
    for server in ("frontend", *(service.name for service in built[2].embedding_services)):
        folder = shutil.copytree(built[0] / server, tmp_path / server)
        check = source.init_containers(server, "triton:1", {}, {})[-1]
        assert check["image"] == "triton:1" and check["volumeMounts"][0]["mountPath"] == check["workingDir"]

        def told(check: Mapping[str, Any] = check, folder: Path = folder) -> tuple[int, str]:
            done = subprocess.run(check["command"], cwd=folder, capture_output=True, text=True, check=False)
            return done.returncode, done.stdout + done.stderr

        assert told() == (0, "")
        files = [path for path in folder.rglob("*") if path.is_file() and path.name != "SHA256SUMS"]
        assert len((folder / "SHA256SUMS").read_text().splitlines()) == len(files)
        for path in files:
            content = path.read_bytes()
            path.write_bytes(bytes([content[0] ^ 1]) + content[1:] if content else b"1")
            code, text = told()
            assert code == 1 and f"{path.relative_to(folder)}: FAILED" in text
            path.unlink()
            assert told()[0] == 1
            path.write_bytes(content)
        assert told() == (0, "")


def test_the_ensemble_keeps_the_contract(built: tuple[Path, Spec, Plan]) -> None:
    ensemble = config(built[0], "frontend/small")
    assert [(item.name, item.data_type, list(item.dims)) for item in ensemble.input] == [
        ("dense", pb.TYPE_FP32, [-1, 5]),
        ("indices", pb.TYPE_INT64, [-1, 23]),
    ]
    assert [(item.name, list(item.dims)) for item in ensemble.output] == [("score", [-1, 1])]
    assert [step.model_name for step in ensemble.ensemble_scheduling.step] == ["small_router", "small_dense"]


def test_a_replica_is_a_server_and_no_instance(built: tuple[Path, Spec, Plan]) -> None:
    """The plan wants several replicas of the hot tier; one server runs the plan's instances of it."""
    folder, _, plan = built
    hot = plan.embedding_services[0]
    assert hot.replicas > 1
    assert config(folder, f"{hot.name}/small_{hot.name}").instance_group[0].count == hot.instances
    assert config(folder, "frontend/small_dense").instance_group[0].count == 1


def test_no_model_has_a_queue_policy(built: tuple[Path, Spec, Plan]) -> None:
    """With one, Triton's dynamic batcher leaves requests lying for half a second: `fleet_configs.py` has numbers."""
    for path in built[0].glob("*/*/config.pbtxt"):
        batching = text_format.Parse(path.read_text(), pb.ModelConfig()).dynamic_batching
        assert not batching.HasField("default_queue_policy")


def test_the_router_knows_its_fleet(built: tuple[Path, Spec, Plan]) -> None:
    folder, _, plan = built
    settings = json.loads((folder / "frontend/small_router/1/fanout.json").read_text())
    assert settings == {
        "name": "small_router",
        "version": version(folder, "tier0"),
        "widths": [32],
        "deadline_us": 400_000,
        "hedge_quantile_ppm": 0,
        "max_in_flight": 256,
        "degrade": 0,
        "half_sums": 0,
        "services": [
            {
                "name": "tier0",
                "model": "small_tier0",
                "instances": 1,
                "groups": [{"group": 0, "width": 24, "dims": [8], "pieces": [{"from": 0, "to": 0, "columns": 24}]}],
            },
            {
                "name": "tier1",
                "model": "small_tier1",
                "instances": 1,
                "groups": [{"group": 0, "width": 24, "dims": [8], "pieces": [{"from": 0, "to": 0, "columns": 24}]}],
            },
        ],
        "rows": [{"lookup": 3, "to": 24, "dim": 8}],  # of bags of one id
    }
    assert all(version(folder, service.name) == settings["version"] for service in plan.embedding_services)
    addresses = json.loads((folder / "frontend/small_router/1/fleet.json").read_text())
    assert addresses == {name: f"dns:///small-{name}:8001" for name in ("tier0", "tier1")}
    router = Router.open(folder / "frontend/small_router/1")
    assert [service.name for service in router.routing.services] == ["tier0", "tier1"]
    routed = router.route({"indices": np.zeros((2, 23), np.int64)}).tensors
    assert sum(routed[f"{name}_ids"].size for name in ("tier0", "tier1")) == 2 * 22 + 1  # one id twice, asked for once


def test_the_version_tells_builds_apart(built: tuple[Path, Spec, Plan], tmp_path: Path) -> None:
    """The same weights and cuts give the same number, others another; the fleet options do not matter."""
    folder, _, plan = built
    make(tmp_path / "same", missing_shard="degrade")
    make(tmp_path / "weights", seed=1)
    first, second = plan.embedding_services
    shard, after = first.shards[0], second.shards[0]
    moved = replace(shard, end=shard.end + 1), replace(after, begin=after.begin + 1)
    services = tuple(
        replace(service, shards=(part, *service.shards[1:]))
        for service, part in zip((first, second), moved, strict=True)
    )
    make(tmp_path / "cuts", plan=replace(plan, services=(plan.services[0], *services)))
    assert version(tmp_path / "same", "tier0") == version(folder, "tier0")
    assert len({version(each, "tier0") for each in (folder, tmp_path / "weights", tmp_path / "cuts")}) == 3


def test_the_options_reach_the_configs(tmp_path: Path) -> None:
    make(
        tmp_path / "small",
        missing_shard="degrade",
        sums_dtype="fp16",
        hedge_quantile=0.95,
        max_in_flight=7,
    )
    ensemble = config(tmp_path / "small", "frontend/small")
    assert [(item.name, item.data_type) for item in ensemble.output] == [
        ("score", pb.TYPE_FP32),
        ("degraded", pb.TYPE_BOOL),
    ]
    assert config(tmp_path / "small", "tier0/small_tier0").output[0].data_type == pb.TYPE_FP16
    settings = json.loads((tmp_path / "small/frontend/small_router/1/fanout.json").read_text())
    assert (settings["hedge_quantile_ppm"], settings["max_in_flight"]) == (950_000, 7)
    assert (settings["degrade"], settings["half_sums"]) == (1, 1)


def test_a_service_may_not_take_the_front_ends_place(built: tuple[Path, Spec, Plan], tmp_path: Path) -> None:
    plan = built[2]
    renamed = (*plan.services[:-1], replace(plan.services[-1], name="frontend"))
    with pytest.raises(PlanError, match="no embedding service named frontend"):
        make(tmp_path / "small", plan=replace(plan, services=renamed))
    assert not (tmp_path / "small").exists()


def test_native_shards_send_no_half_precision(built: tuple[Path, Spec, Plan], tmp_path: Path) -> None:
    _, spec, plan = built
    half = replace(spec, fleet=FleetSettings(sums_dtype="fp16"))
    target = tmp_path / "small"
    with pytest.raises(SpecError, match=r"fleet.sums_dtype: expected fp32 for native shards"):
        build(half, plan, load_hotness(spec), open_source(spec), target, shard_backend="native", layout="fleet")
    assert not target.exists()


def test_names_in_a_cluster() -> None:
    spec = parse_spec({**document(), "name": "My_Model"}, Path("spec.yaml"))
    assert service_names(spec.name, ["tier_0"]) == {"tier_0": "my-model-tier-0"}
