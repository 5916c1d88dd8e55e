"""What a repository holds beside weights: the plan, sample queries, configs, code, and lists of checksums."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from importlib import resources
from importlib.resources.abc import Traversable

import numpy as np
from tritonclient.grpc import model_config_pb2 as pb

from repo_builder.access.query_file import QueryFile
from repo_builder.partition.plan import plan_to_json
from repo_builder.repository import configs
from repo_builder.repository.descriptions import default_addresses, fanout_description
from repo_builder.repository.design import Design
from repo_builder.repository.manifest import CHECKSUMS, PLAN, QUERIES, FileEntry
from repo_builder.repository.native import native_library
from repo_builder.repository.wiring import Holding, at_shard

_ENSEMBLE = b"An ensemble has no files of its own, but Triton wants its version's folder.\n"


def small_files(
    design: Design, queries: QueryFile, shard_backend: configs.ShardBackend, version: str
) -> Iterator[tuple[str, bytes]]:
    """Path and content of everything but weights and checksums; `version` is the embedding services'."""
    yield PLAN, plan_to_json(design.plan).encode()
    yield QUERIES, queries.to_bytes()
    for path, data in _frontend_files(design, version):
        yield f"{design.frontend}{path}", data
    for held in design.wiring:
        for path, data in _embedding_files(design, held, shard_backend, version):
            yield f"{design.arrangement.repository(held.service)}{path}", data


def whole_files(design: Design, queries: QueryFile) -> Iterator[tuple[str, bytes]]:
    """The same where the whole model is one of Triton's."""
    yield PLAN, plan_to_json(design.plan).encode()
    yield QUERIES, queries.to_bytes()
    yield _config_file(configs.whole_config(design))


def _frontend_files(design: Design, version: str) -> Iterator[tuple[str, bytes]]:
    router = configs.router_config(design)
    for config in (configs.ensemble_config(design), *configs.ids_configs(design), router, configs.dense_config(design)):
        yield _config_file(config)
    yield f"{design.spec.name}/1/README", _ENSEMBLE
    yield _library_file(router)
    if design.arrangement.router == "fanout":
        yield f"{router.name}/1/fanout.json", _json(fanout_description(design.spec, design.wiring, version))
        yield f"{router.name}/1/fleet.json", _json(default_addresses(design.spec, design.wiring))


def _embedding_files(
    design: Design, held: Holding, shard_backend: configs.ShardBackend, version: str
) -> Iterator[tuple[str, bytes]]:
    """An embedding service's config, warm-up data and code."""
    config = configs.embedding_config(design, held, shard_backend)
    yield _config_file(config)
    for share in held.shares:
        lengths = np.ones(share.bags + len(share.unpooled), np.int32)
        yield f"{config.name}/warmup/{at_shard('lengths', share.group)}", lengths.tobytes()
    if config.backend == "python":
        yield from _code_files(f"{config.name}/{version}", "embedding_shard")
    else:
        yield _library_file(config)


def _config_file(config: pb.ModelConfig) -> tuple[str, bytes]:
    return f"{config.name}/config.pbtxt", configs.to_text(config).encode()


def _library_file(config: pb.ModelConfig) -> tuple[str, bytes]:
    """A native backend's library, in the folder of a model that it serves: Triton looks there first."""
    name = native_library(config.backend)
    return f"{config.name}/{name}", (resources.files("triton_backends") / "native" / name).read_bytes()


def _code_files(folder: str, backend: str) -> Iterator[tuple[str, bytes]]:
    """`model.py` of a backend, and beside it the packages that it imports: the kernels and its own."""
    package = resources.files("triton_backends")
    yield f"{folder}/model.py", (package / backend / "model.py").read_bytes()
    yield f"{folder}/triton_backends/__init__.py", (package / "__init__.py").read_bytes()
    for part in ("kernels", backend):
        for file in sorted((package / part).iterdir(), key=lambda item: item.name):
            if _is_shipped(file):
                yield f"{folder}/triton_backends/{part}/{file.name}", file.read_bytes()


def _is_shipped(file: Traversable) -> bool:
    return file.name.endswith((".py", ".so", ".ptx")) and file.name != "model.py"


def checksums(design: Design, files: Sequence[FileEntry]) -> Iterator[tuple[str, bytes]]:
    """A list for `sha256sum --check` in each server's folder: a pod has that, and nothing of ours."""
    if not design.arrangement.separate:
        return
    by_folder: dict[str, list[FileEntry]] = {}
    for entry in files:
        server, slash, _ = entry.path.partition("/")
        if slash:
            by_folder.setdefault(server, []).append(entry)
    for server, entries in by_folder.items():
        lines = [f"{entry.sha256}  {entry.path.removeprefix(f'{server}/')}\n" for entry in entries]
        yield f"{server}/{CHECKSUMS}", "".join(lines).encode()


def _json(document: object) -> bytes:
    return (json.dumps(document, indent=1) + "\n").encode()
