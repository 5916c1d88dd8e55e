"""Building a repository: what is in it, and that it appears whole or not at all."""

import ast
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from repo_builder.access.load import load_hotness
from repo_builder.errors import CheckpointError, PlanError, RepositoryError
from repo_builder.export.dlrm.source import open_source
from repo_builder.partition.plan import Plan, on_cpu
from repo_builder.repository.build import build
from repo_builder.repository.manifest import files_in, load_manifest, read_queries, verify
from repo_builder.spec import Spec
from tests.integration.models import document, make_repository, make_spec


@pytest.fixture(scope="module", params=["tiered", "per_table"])
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Spec, Plan]:
    folder = tmp_path_factory.mktemp(request.param)
    spec, plan = make_repository(folder, request.param)
    return folder / "repository", spec, plan


def configs(repository: Path) -> dict[str, pb.ModelConfig]:
    """Every config, read back by Triton's own parser."""
    return {
        path.parent.name: text_format.Parse(path.read_text(), pb.ModelConfig())
        for path in repository.glob("*/config.pbtxt")
    }


def test_every_file_is_in_the_manifest(built: tuple[Path, Spec, Plan]) -> None:
    repository, spec, _ = built
    manifest = verify(repository)
    assert {entry.path for entry in manifest.files} | {"manifest.json"} == set(files_in(repository))
    assert manifest.tables == spec.model.tables and manifest.lookups == spec.model.lookups


def test_every_row_is_written_once_where_the_router_looks(built: tuple[Path, Spec, Plan]) -> None:
    """Follow each id by hand: id map -> row of a weight file -> the checkpoint's row."""
    repository, spec, plan = built
    state = torch.load(spec.dlrm.weights.path, weights_only=True)
    hotness = load_hotness(spec)
    router = json.loads((repository / "small_router/1/router.json").read_text())
    matrices = [
        np.fromfile(repository / f"small_{service.name}/1/weights.bin", np.float32).reshape(-1, spec.dlrm.dim)
        for service in plan.embedding_services
    ]
    assert sum(len(matrix) for matrix in matrices) == sum(table.rows for table in spec.dlrm.tables)
    for i, (table, routed) in enumerate(zip(spec.dlrm.tables, router["lookups"], strict=True)):
        weight = state[f"emb_l.{i}.weight"].numpy()
        order = hotness.order(table)
        shards = sorted(
            (shard.begin, shard.end, k)
            for k, service in enumerate(plan.embedding_services)
            for shard in service.shards
            if shard.table == table.name
        )
        for (begin, end, k), placed in zip(shards, routed["shards"], strict=True):
            assert router["units"][placed["unit"]]["service"] == k
            ids = np.sort(order[begin:end])
            np.testing.assert_array_equal(matrices[k][placed["base"] : placed["base"] + len(ids)], weight[ids])


def test_configs_follow_the_plan(built: tuple[Path, Spec, Plan]) -> None:
    repository, _, plan = built
    found = configs(repository)
    assert set(found) == {"small", "small_router", *(f"small_{service.name}" for service in plan.services)}
    for name, config in found.items():
        assert config.name == name
        assert config.version_policy.latest.num_versions == 1
        assert config.parameters["elasticrec.plan_sha256"].string_value == load_manifest(repository).plan_sha256
    ensemble = found["small"]
    assert [(item.name, item.data_type, list(item.dims)) for item in ensemble.input] == [
        ("dense", pb.TYPE_FP32, [-1, 5]),
        ("indices", pb.TYPE_INT64, [-1, 23]),
    ]
    assert [(item.name, item.data_type, list(item.dims)) for item in ensemble.output] == [
        ("score", pb.TYPE_FP32, [-1, 1])
    ]
    assert len(ensemble.ensemble_scheduling.step) == 2 + len(plan.embedding_services)


def test_nothing_of_the_building_machine_is_in_it(built: tuple[Path, Spec, Plan]) -> None:
    repository, spec, _ = built
    for name in files_in(repository):
        content = (repository / name).read_bytes()
        for path in (str(repository.parent), str(Path(__file__).parent.parent.parent), str(spec.dlrm.weights.path)):
            assert path.encode() not in content, name


def test_a_python_model_needs_numpy_alone(tmp_path: Path) -> None:
    """What it imports beside the standard library and the package shipped with it."""
    make_repository(tmp_path, "tiered")
    version = tmp_path / "repository/small_tier0/1"
    program = f"""
import sys
sys.path.insert(0, {str(version)!r})
import triton_backends.embedding_shard.shard as logic
assert logic.__file__.startswith({str(version)!r})
logic.EmbeddingShard.open(__import__("pathlib").Path({str(version)!r}))
ours = {{name.partition(".")[0] for name in sys.modules}} - sys.stdlib_module_names
print(sorted(name for name in ours if not name.startswith("_")))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert set(ast.literal_eval(done.stdout)) <= {"numpy", "cython_runtime", "triton_backends"}  # the second is numpy's


def test_native_shards_are_for_the_cpu_alone(tmp_path: Path) -> None:
    """A native model is its library, beside its config, and its data; a GPU's stays in Python."""
    spec, plan = make_repository(tmp_path, "tiered")
    first, second = plan.embedding_services[:2]
    services = tuple(replace(s, device="gpu", gpus=(0,)) if s == second else s for s in plan.services)
    target = tmp_path / "native"
    build(
        spec,
        replace(plan, services=services),
        load_hotness(spec),
        open_source(spec),
        target,
        shard_backend="native",
    )
    found = configs(target)
    assert found["small_router"].backend == "elasticrec_router"
    assert found[f"small_{first.name}"].backend == "elasticrec_shard"
    assert found[f"small_{second.name}"].backend == "python"
    assert set(files_in(target / "small_router")) == {
        "config.pbtxt", "libtriton_elasticrec_router.so", "1/idmap.bin", "1/router.json"
    }  # fmt: skip
    assert set(files_in(target / f"small_{first.name}")) == {
        "config.pbtxt", "libtriton_elasticrec_shard.so", "warmup/lengths", "1/weights.bin", "1/shard.json"
    }  # fmt: skip
    verify(target)


def test_two_builds_are_the_same_bytes(built: tuple[Path, Spec, Plan], tmp_path: Path) -> None:
    repository, spec, plan = built
    build(spec, plan, load_hotness(spec), open_source(spec), tmp_path / "again")
    assert (tmp_path / "again/manifest.json").read_bytes() == (repository / "manifest.json").read_bytes()


def test_sample_queries_follow_the_contract(built: tuple[Path, Spec, Plan]) -> None:
    repository, spec, _ = built
    queries = read_queries(repository, 7)
    dense, indices = queries["dense"], queries["indices"]
    assert dense.shape == (7, 5) and dense.dtype == np.float32
    assert indices.shape == (7, 23) and indices.dtype == np.int64
    begin = 0
    for table in spec.dlrm.tables:
        column = indices[:, begin : begin + table.pooling]
        assert (column >= 0).all() and (column < table.rows).all()
        begin += table.pooling


@pytest.mark.parametrize("damage", ["change", "truncate", "remove", "add"])
def test_verify_names_what_is_wrong(damage: str, tmp_path: Path) -> None:
    make_repository(tmp_path, "tiered")
    repository = tmp_path / "repository"
    target = repository / "small_router/1/idmap.bin"
    content = target.read_bytes()
    if damage == "change":
        target.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    elif damage == "truncate":
        target.write_bytes(content[:-1])
    elif damage == "remove":
        target.unlink()
    else:
        target = repository / "small/1/extra"
        target.write_bytes(b"")
    with pytest.raises(RepositoryError) as caught:
        verify(repository)
    assert len(caught.value.problems) == 1
    assert str(target) in caught.value.problems[0]


def test_a_gpu_plan_builds_anywhere(tmp_path: Path) -> None:
    """Instance groups name the GPUs; `on_cpu` takes them back."""
    spec, plan = make_repository(tmp_path, "tiered")
    services = tuple(replace(service, device="gpu", gpus=(0, 1), instances=2) for service in plan.services)
    gpu_plan = replace(plan, services=services)
    hotness, weights = load_hotness(spec), open_source(spec)
    build(spec, gpu_plan, hotness, weights, tmp_path / "gpu")
    for name, config in configs(tmp_path / "gpu").items():
        groups = [(group.kind, group.count, list(group.gpus)) for group in config.instance_group]
        expected = [] if name == "small" else [(pb.ModelInstanceGroup.KIND_GPU, 2, [0, 1])]
        if name == "small_router":
            expected = [(pb.ModelInstanceGroup.KIND_CPU, 2, [])]
        assert groups == expected, name
    build(spec, on_cpu(gpu_plan), hotness, weights, tmp_path / "cpu")
    kinds = {group.kind for config in configs(tmp_path / "cpu").values() for group in config.instance_group}
    assert kinds == {pb.ModelInstanceGroup.KIND_CPU}


def test_a_former_repository_is_replaced(tmp_path: Path) -> None:
    spec, plan = make_repository(tmp_path, "tiered")
    (cache,) = (tmp_path / "repository").glob("small_tier0/1/")
    (cache / "__pycache__").mkdir()
    (cache / "__pycache__/model.cpython-311.pyc").write_text("written by a server that was killed")
    build(spec, plan, load_hotness(spec), open_source(spec), tmp_path / "repository")
    verify(tmp_path / "repository")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["repository", "small.pt"]


def test_more_processes_than_a_server_takes_are_refused(tmp_path: Path) -> None:
    spec, plan = make_repository(tmp_path, "tiered")
    services = (plan.services[0], *(replace(service, replicas=65) for service in plan.services[1:]))
    with pytest.raises(PlanError, match=r"services\[1\]\.replicas: expected at most 64 instances of tier0 .* got 65"):
        build(spec, replace(plan, services=services), load_hotness(spec), open_source(spec), tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_building_over_the_working_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`-o ../repository` from inside it would move the ground from under its own feet."""
    spec, plan = make_repository(tmp_path, "tiered")
    monkeypatch.chdir(tmp_path / "repository" / "small")
    for target in (Path("../../repository"), Path("..")):
        with pytest.raises(RepositoryError, match="another folder than the working folder"):
            build(spec, plan, load_hotness(spec), open_source(spec), target)
    verify(tmp_path / "repository")


def test_a_folder_that_is_no_repository_is_left_alone(tmp_path: Path) -> None:
    spec, plan = make_repository(tmp_path, "tiered")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/notes").write_text("mine")
    with pytest.raises(RepositoryError, match=r"expected a former repository .* choose another folder"):
        build(spec, plan, load_hotness(spec), open_source(spec), tmp_path / "other")
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["notes"]


def test_a_bad_weight_found_half_way_leaves_the_former_repository(tmp_path: Path) -> None:
    """NaN shows only while a table streams: by then much is written, and all of it goes."""
    spec, plan = make_repository(tmp_path, "tiered")
    before = (tmp_path / "repository/manifest.json").read_bytes()
    state = torch.load(spec.dlrm.weights.path, weights_only=True)
    state["emb_l.2.weight"][5, 3] = float("nan")
    torch.save(state, spec.dlrm.weights.path)
    with pytest.raises(CheckpointError, match=r"emb_l\.2\.weight"):
        build(spec, plan, load_hotness(spec), open_source(spec), tmp_path / "repository")
    assert (tmp_path / "repository/manifest.json").read_bytes() == before
    verify(tmp_path / "repository")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["repository", "small.pt"]


def test_a_plan_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    spec, plan = make_repository(tmp_path, "tiered")
    other = replace(plan, services=plan.services[:-1])
    with pytest.raises(PlanError, match="users"):
        build(spec, other, load_hotness(spec), open_source(spec), tmp_path / "other")
    assert not (tmp_path / "other").exists()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 128 KiB."""
    mount = tmp_path / "disk"
    mount.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(mount)], check=True)
    yield mount
    subprocess.run(["umount", str(mount)], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small tmpfs needs root")
def test_a_full_disk_leaves_nothing_behind(small_disk: Path, tmp_path: Path) -> None:
    spec, plan = make_repository(tmp_path, "tiered")
    with pytest.raises(RepositoryError, match="No space left on device; nothing was changed there"):
        build(spec, plan, load_hotness(spec), open_source(spec), small_disk / "repository")
    assert list(small_disk.iterdir()) == []


class Evil:
    """A pickle that would run code."""

    def __reduce__(self) -> tuple[object, ...]:
        return (os.system, ("touch pwned",))


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    spec = make_spec(tmp_path)
    state = torch.load(spec.dlrm.weights.path, weights_only=True)
    torch.save({"state_dict": state, "extra": Evil()}, spec.dlrm.weights.path)
    with pytest.raises(CheckpointError):
        open_source(spec)
    (tmp_path / "small.pt").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(CheckpointError):
        open_source(spec)
    assert not (tmp_path / "pwned").exists()


def test_document_is_the_spec_under_test() -> None:
    """The wire's width that the tests count on."""
    assert sum(table["pooling"] * table.get("count", 1) for table in document()["tables"]) == 23
