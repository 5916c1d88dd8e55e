"""From a cluster with GPUs to manifests by the command line, on a machine that needs none; no server is started.

That Triton serves what stands here needs a GPU and is not tested.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from elasticrec.cli import main
from repo_builder.local_fleet import fleet as local_fleet
from repo_builder.serving import install
from tests.integration.models import document, make_spec

GPU, CPU = pb.ModelInstanceGroup.KIND_GPU, pb.ModelInstanceGroup.KIND_CPU
TIMES = {
    "service_time": {"fixed_s": 1e-3, "per_row_s": 1e-6},
    "dense_service_time": {"fixed_s": 1e-3, "per_flop_s": 0},
}
FAST = {"service_time": {"fixed_s": 1e-6, "per_row_s": 0}, "dense_service_time": {"fixed_s": 1e-6, "per_flop_s": 0}}
POOL = {"name": "gpu", "count": 50, "cores": 2, "memory_gb": 30, "gpus": 2, "gpu_memory_gb": 16, "price_per_hour": 1.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A spec, a cluster whose nodes have GPUs, a profile whose GPUs are fast, and the plan and the fleet of these."""
    folder = tmp_path_factory.mktemp("gpus")
    make_spec(folder)
    spec = {**document(), "serving": {"target_qps": 4000, "batch": 8}}
    (folder / "small.yaml").write_text(yaml.safe_dump(spec))
    (folder / "gpus.yaml").write_text(yaml.safe_dump({"name": "gpus", "pools": [POOL]}))
    (folder / "profile.json").write_text(json.dumps({**TIMES, "min_memory_bytes": 1000, "gpu": FAST}))
    run = ("plan", folder / "small.yaml", "--cluster", folder / "gpus.yaml", "--profile", folder / "profile.json")
    assert command(*run, "--grouping", "tiered", "-o", folder / "plan.json") == 0
    assert build(folder, "fleet") == 0
    return folder


def command(*words: object) -> int:
    return main([str(word) for word in words])


def build(folder: Path, name: str, *more: object) -> int:
    words = ("build", folder / "small.yaml", "--plan", folder / "plan.json", "--layout", "fleet")
    return command(*words, "-o", folder / name, *more)


def services_of(folder: Path) -> dict[str, Any]:
    return {each["name"]: each for each in json.loads((folder / "plan.json").read_text())["services"]}


def groups_of(repository: Path) -> dict[str, list[tuple[int, list[int]]]]:
    """Kinds and GPUs by model."""
    configs = [
        text_format.Parse(path.read_text(), pb.ModelConfig()) for path in sorted(repository.glob("*/*/config.pbtxt"))
    ]
    return {each.name: [(group.kind, list(group.gpus)) for group in each.instance_group] for each in configs}


def objects_of(folder: Path, kind: str) -> dict[str, Any]:
    found = [yaml.safe_load(path.read_text()) for path in folder.glob("*.yaml")]
    return {each["metadata"]["name"]: each for each in found if each["kind"] == kind}


def test_what_a_plan_places_on_gpus_stands_so_in_configs_and_pods(folder: Path, tmp_path: Path) -> None:
    planned = services_of(folder)
    assert {each["device"] for each in planned.values()} == {"gpu"}
    assert groups_of(folder / "fleet") == {
        "small": [],
        "small_router": [(CPU, [])],
        **{f"small_{name}": [(GPU, [0])] for name in planned},
    }
    assert command("k8s", folder / "fleet", "-o", tmp_path / "k8s") == 0
    pods = {name: each["spec"]["template"]["spec"] for name, each in objects_of(tmp_path / "k8s", "Deployment").items()}
    assert len(pods) == len(planned)
    for pod in pods.values():
        (container,) = pod["containers"]
        assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
        assert "nvidia.com/gpu" not in container["resources"]["requests"]  # Kubernetes wants them in limits alone
        assert pod["nodeSelector"]["nvidia.com/gpu.present"] == "true"
        assert [each["key"] for each in pod["tolerations"]] == ["nvidia.com/gpu"]


def test_serving_it_without_a_gpu_is_refused_and_cpu_only_takes_it_back(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    without = partial(install.check_gpus, devices=tmp_path)
    monkeypatch.setattr(install, "check_gpus", without)
    monkeypatch.setattr(local_fleet, "check_gpus", without)
    embedding = next(name for name, each in services_of(folder).items() if each["kind"] == "embedding")
    for words in (("serve", folder / "fleet" / embedding), ("up", folder / "fleet")):
        assert command(*words) == 2
        told = capsys.readouterr().err
        assert "is placed on GPU 0, but this machine has none; build it for the CPU: elasticrec build SPEC" in told
    assert build(folder, "cpu", "--cpu-only") == 0
    kinds = {kind for groups in groups_of(folder / "cpu").values() for kind, _ in groups}
    assert kinds == {CPU}
