"""Building the fleet layout: a Triton model repository for each service, to be served by servers of their own.

    DIR/manifest.json  plan.json  queries.npz               what it is, why it is so, and rows to try it with
    DIR/frontend/NAME/  NAME_router/  NAME_dense/           the ensemble that clients call; its router calls the others
    DIR/<service>/NAME_<service>/VERSION/                   an embedding service
    DIR/frontend/SHA256SUMS  DIR/<service>/SHA256SUMS       what a pod checks before its server starts

VERSION is a number made of the build's weights and cuts. The router asks for it by name, so that a front end and a
shard of two builds, as they meet in a rolling update, never make a score together: it is an error, and the router
looks for a replica of its own build.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib import metadata
from pathlib import Path

from repo_builder.access.hotness import Hotness
from repo_builder.access.progress import Progress, silent
from repo_builder.errors import PlanError, SpecError
from repo_builder.export.layers import Partial
from repo_builder.export.weights import WeightSource
from repo_builder.partition.check import check_plan
from repo_builder.partition.plan import Plan, plan_sha256, plan_to_json
from repo_builder.repository import configs, fleet_configs
from repo_builder.repository.build import embedding_files, library_file, sample_queries
from repo_builder.repository.embeddings import write_bytes
from repo_builder.repository.files import new_folder
from repo_builder.repository.manifest import CHECKSUMS, MANIFEST, PLAN, QUERIES, FileEntry, Manifest, describe
from repo_builder.repository.weights import write_weights
from repo_builder.spec import Spec

FRONTEND = "frontend"
_MAX_VERSION = 2**31 - 1


def build_fleet(
    spec: Spec,
    plan: Plan,
    hotness: Hotness,
    weights: WeightSource,
    target: Path,
    progress: Progress = silent,
    shard_backend: configs.ShardBackend = "python",
) -> Manifest:
    """Write the repositories of the `fleet` layout to `target`, as `build` does those of the single layout.

    Raises what `build` raises, and SpecError where the native shard backend is to send FP16.
    """
    check_plan(plan, spec)
    _check(spec, plan, shard_backend)
    whole = Partial(fleet_configs.SUMS, tuple(range(len(spec.tables))))
    with new_folder(target) as folder, ThreadPoolExecutor(1) as pool:
        written = write_weights(spec, plan, hotness, weights, [whole], folder, pool, progress)
        version = _version(written)
        places = _places(spec, plan, version)
        files = _moved(folder, written, places)
        for path, data in _small_files(spec, plan, hotness, shard_backend, version):
            files.append(write_bytes(folder, path, data, pool))
        for path, data in _checksums(files):
            files.append(write_bytes(folder, path, data, pool))
        generator = f"elasticrec {metadata.version('elasticrec')}"
        manifest = describe(spec, "fleet", plan_sha256(plan), generator, files)
        (folder / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    return manifest


def _check(spec: Spec, plan: Plan, shard_backend: configs.ShardBackend) -> None:
    if any(service.name == FRONTEND for service in plan.embedding_services):
        raise PlanError(f"plan: services: expected no embedding service named {FRONTEND} in a fleet; rename it")
    native = any(configs.is_native(service, shard_backend) for service in plan.embedding_services)
    if spec.fleet.sums_dtype == "fp16" and native:
        raise SpecError("fleet.sums_dtype: expected fp32 for native shards, got fp16; or use --shard-backend python")


def _version(files: Sequence[FileEntry]) -> str:
    """The build's number, from 1: of everything that a score depends on."""
    content = "".join(sorted(f"{entry.path} {entry.sha256}\n" for entry in files))
    digest = hashlib.sha256(content.encode()).digest()
    return str(1 + int.from_bytes(digest[:8], "big") % _MAX_VERSION)


def _places(spec: Spec, plan: Plan, version: str) -> Mapping[str, str]:
    """Where the models' version folders of the single layout go."""
    frontend = {f"{name}/1": f"{FRONTEND}/{name}/1" for name in (_model(spec, "router"), _model(spec, "dense"))}
    embedding = {
        f"{_model(spec, service.name)}/1": f"{service.name}/{_model(spec, service.name)}/{version}"
        for service in plan.embedding_services
    }
    return {**frontend, **embedding}


def _moved(folder: Path, files: Sequence[FileEntry], places: Mapping[str, str]) -> list[FileEntry]:
    for old, new in places.items():
        (folder / new).parent.mkdir(parents=True)
        (folder / old).rename(folder / new)
        (folder / old).parent.rmdir()
    moved = []
    for entry in files:
        old, name = entry.path.rsplit("/", 1)
        moved.append(replace(entry, path=f"{places[old]}/{name}"))
    return moved


def _small_files(
    spec: Spec, plan: Plan, hotness: Hotness, shard_backend: configs.ShardBackend, version: str
) -> Iterator[tuple[str, bytes]]:
    """Path and content of everything but weights: the plan, sample queries, configs, addresses and code."""
    yield PLAN, plan_to_json(plan).encode()
    yield QUERIES, sample_queries(spec, hotness)
    about = {"elasticrec.plan": f"{plan.grouping}, {PLAN}", "elasticrec.plan_sha256": plan_sha256(plan)}
    for path, data in _frontend_files(spec, plan, about, version):
        yield f"{FRONTEND}/{path}", data
    for service in plan.embedding_services:
        config = fleet_configs.embedding_config(spec, service, about, shard_backend)
        for path, data in embedding_files(config, service, version):
            yield f"{service.name}/{path}", data


def _checksums(files: Sequence[FileEntry]) -> Iterator[tuple[str, bytes]]:
    """A list for `sha256sum --check` in each server's folder: a pod has that, and nothing of ours."""
    by_folder: dict[str, list[FileEntry]] = {}
    for entry in files:
        server, slash, _ = entry.path.partition("/")
        if slash:
            by_folder.setdefault(server, []).append(entry)
    for server, entries in by_folder.items():
        lines = [f"{entry.sha256}  {entry.path.removeprefix(f'{server}/')}\n" for entry in entries]
        yield f"{server}/{CHECKSUMS}", "".join(lines).encode()


def _frontend_files(spec: Spec, plan: Plan, about: Mapping[str, str], version: str) -> Iterator[tuple[str, bytes]]:
    router = fleet_configs.router_config(spec, plan, about)
    dense = fleet_configs.dense_config(spec, plan, about)
    for config in (fleet_configs.ensemble_config(spec, plan, about), router, dense):
        yield f"{config.name}/config.pbtxt", configs.to_text(config).encode()
    yield f"{spec.name}/1/README", b"An ensemble has no files of its own, but Triton wants its version's folder.\n"
    yield library_file(router.name, router.backend)
    yield f"{router.name}/1/fanout.json", _json(fleet_configs.fanout_settings(spec, plan, version))
    yield f"{router.name}/1/fleet.json", _json(fleet_configs.default_addresses(spec, plan))


def _model(spec: Spec, part: str) -> str:
    return configs.model_name(spec, part)


def _json(document: object) -> bytes:
    return (json.dumps(document, indent=1) + "\n").encode()
