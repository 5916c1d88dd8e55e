"""Building a Triton model repository from a spec, a plan and the trained weights.

    DIR/manifest.json  plan.json  queries.npz          what it is, why it is so, and rows to try it with
    DIR/NAME/config.pbtxt                              the ensemble
    DIR/NAME_router/  lib*.so  1/idmap.bin ...         ids -> shards
    DIR/NAME_<service>/1/  model.py weights.bin ...    an embedding service, or in place of model.py a lib*.so above
    DIR/NAME_dense/1/model.onnx                        the dense layers

It is built in a temporary folder and renamed: an error or a stop leaves what was there before untouched.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata, resources
from importlib.resources.abc import Traversable
from pathlib import Path

import numpy as np
from tritonclient.grpc import model_config_pb2 as pb

from repo_builder.access.draw import draw_ids
from repo_builder.access.hotness import Hotness
from repo_builder.access.progress import Progress, silent
from repo_builder.export.layers import Partial
from repo_builder.export.weights import WeightSource
from repo_builder.partition.check import check_plan
from repo_builder.partition.plan import Plan, Service, plan_sha256, plan_to_json
from repo_builder.repository import configs
from repo_builder.repository.embeddings import write_bytes
from repo_builder.repository.files import new_folder
from repo_builder.repository.manifest import MANIFEST, PLAN, QUERIES, Layout, Manifest, describe
from repo_builder.repository.weights import write_weights
from repo_builder.spec import Spec

SAMPLE_ROWS = 256


def build(
    spec: Spec,
    plan: Plan,
    hotness: Hotness,
    weights: WeightSource,
    target: Path,
    progress: Progress = silent,
    shard_backend: configs.ShardBackend = "python",
    *,
    layout: Layout = "single",
) -> Manifest:
    """Write the repository of a layout of one server to `target`, replacing a former one; the manifest says which.

    `progress` counts table bytes and is called in another thread. Raises PlanError where the plan does not fit the
    spec, RepositoryError where `target` cannot be written, and what reading the weights raises.
    """
    check_plan(plan, spec)
    configs.check_instances(plan)
    with new_folder(target) as folder, ThreadPoolExecutor(1) as pool:
        files = write_weights(spec, plan, hotness, weights, _partials(spec, plan), folder, pool, progress)
        for path, data in _small_files(spec, plan, hotness, shard_backend):
            files.append(write_bytes(folder, path, data, pool))
        generator = f"elasticrec {metadata.version('elasticrec')}"
        manifest = describe(spec, layout, plan_sha256(plan), generator, files)
        (folder / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    return manifest


def _partials(spec: Spec, plan: Plan) -> list[Partial]:
    return [
        Partial(configs.sums_name(service.name), configs.held_tables(spec, service))
        for service in plan.embedding_services
    ]


def _small_files(
    spec: Spec, plan: Plan, hotness: Hotness, shard_backend: configs.ShardBackend
) -> Iterator[tuple[str, bytes]]:
    """Path and content of everything but weights: the plan, sample queries, configs and code."""
    yield PLAN, plan_to_json(plan).encode()
    yield QUERIES, sample_queries(spec, hotness)
    about = {"elasticrec.plan": f"{plan.grouping}, {PLAN}", "elasticrec.plan_sha256": plan_sha256(plan)}
    router = configs.router_config(spec, plan, about)
    dense = configs.dense_config(spec, plan, configs.sums_widths(spec, plan), about)
    for config in (configs.ensemble_config(spec, plan, about), router, dense):
        yield f"{config.name}/config.pbtxt", configs.to_text(config).encode()
    yield f"{spec.name}/1/README", b"An ensemble has no files of its own, but Triton wants its version's folder.\n"
    yield library_file(router.name, router.backend)
    for service in plan.embedding_services:
        yield from embedding_files(configs.embedding_config(spec, service, about, shard_backend), service)


def embedding_files(config: pb.ModelConfig, service: Service, version: str = "1") -> Iterator[tuple[str, bytes]]:
    """An embedding service's config, warm-up data and code."""
    yield f"{config.name}/config.pbtxt", configs.to_text(config).encode()
    yield f"{config.name}/warmup/lengths", np.ones(len(service.shards), np.int32).tobytes()
    if config.backend == "python":
        yield from code_files(f"{config.name}/{version}", "embedding_shard")
    else:
        yield library_file(config.name, config.backend)


def library_file(model: str, backend: str) -> tuple[str, bytes]:
    """A native backend's library, in the folder of a model that it serves: Triton looks there first."""
    name = f"libtriton_{backend}.so"
    return f"{model}/{name}", (resources.files("triton_backends") / "native" / name).read_bytes()


def code_files(folder: str, backend: str) -> Iterator[tuple[str, bytes]]:
    """`model.py` of a backend, and beside it the packages that it imports: the kernels and its own."""
    package = resources.files("triton_backends")
    yield f"{folder}/model.py", (package / backend / "model.py").read_bytes()
    yield f"{folder}/triton_backends/__init__.py", (package / "__init__.py").read_bytes()
    for part in ("kernels", backend):
        for file in sorted((package / part).iterdir(), key=lambda item: item.name):
            if _is_shipped(file):
                yield f"{folder}/triton_backends/{part}/{file.name}", file.read_bytes()


def _is_shipped(file: Traversable) -> bool:
    return file.name.endswith((".py", ".so")) and file.name != "model.py"


def sample_queries(spec: Spec, hotness: Hotness) -> bytes:
    """Rows drawn from the tables' accesses, reproducibly: `dense` and `indices` as on the wire, in an `.npz`."""
    rng = np.random.default_rng(0)
    dense = rng.standard_normal((SAMPLE_ROWS, spec.dense_features), np.float32)
    columns = [draw_ids(hotness, table, (SAMPLE_ROWS, table.pooling), rng) for table in spec.tables]
    buffer = io.BytesIO()
    np.savez(buffer, dense=dense, indices=np.hstack(columns).astype(spec.index_dtype))
    return buffer.getvalue()
