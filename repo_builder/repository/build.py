"""Building a Triton model repository from a spec, a plan and the trained weights.

    DIR/manifest.json  plan.json  queries.npz          what it is, why it is so, and rows to try it with
    DIR/NAME/config.pbtxt                              the ensemble
    DIR/NAME_router/1/  model.py idmap.bin ...         ids -> shards
    DIR/NAME_<service>/1/  model.py weights.bin ...    an embedding service
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

from repo_builder.access.draw import draw_ids
from repo_builder.access.hotness import Hotness
from repo_builder.access.progress import Progress, silent
from repo_builder.export.dense import Partial, export_dense
from repo_builder.export.weights import WeightSource
from repo_builder.partition.check import check_plan
from repo_builder.partition.plan import Plan, plan_sha256, plan_to_json
from repo_builder.repository import configs
from repo_builder.repository.embeddings import write_bytes, write_embeddings
from repo_builder.repository.files import new_folder
from repo_builder.repository.manifest import MANIFEST, PLAN, QUERIES, FileEntry, Manifest, describe, entry_of
from repo_builder.spec import Spec

SAMPLE_ROWS = 256


def build(
    spec: Spec, plan: Plan, hotness: Hotness, weights: WeightSource, target: Path, progress: Progress = silent
) -> Manifest:
    """Write the repository of the `single` layout to `target`, replacing a former one; `progress` counts table bytes.

    Raises PlanError where the plan does not fit the spec, RepositoryError where `target` cannot be written, and what
    reading the weights raises.
    """
    check_plan(plan, spec)
    configs.check_instances(plan)
    total_bytes = sum(table.rows * table.row_bytes for table in spec.tables)
    done = 0

    def advance(block_bytes: int) -> None:
        nonlocal done
        done += block_bytes
        progress(done, total_bytes)

    with new_folder(target) as folder, ThreadPoolExecutor(1) as pool:
        files = write_embeddings(spec, plan, hotness, weights, folder, pool, advance)
        files.append(_write_dense(spec, plan, weights, folder))
        for path, data in _small_files(spec, plan, hotness):
            files.append(write_bytes(folder, path, data, pool))
        generator = f"elasticrec {metadata.version('elasticrec')}"
        manifest = describe(spec, "single", plan_sha256(plan), generator, files)
        (folder / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    return manifest


def _write_dense(spec: Spec, plan: Plan, weights: WeightSource, folder: Path) -> FileEntry:
    partials = [
        Partial(configs.sums_name(service.name), configs.held_tables(spec, service))
        for service in plan.embedding_services
    ]
    path = f"{configs.model_name(spec, 'dense')}/1/model.onnx"
    (folder / path).parent.mkdir(parents=True)
    export_dense(spec, weights.dense(), partials, folder / path)
    return entry_of(folder, path)


def _small_files(spec: Spec, plan: Plan, hotness: Hotness) -> Iterator[tuple[str, bytes]]:
    """Path and content of everything but weights: the plan, sample queries, configs and code."""
    yield PLAN, plan_to_json(plan).encode()
    yield QUERIES, _sample_queries(spec, hotness)
    about = {"elasticrec.plan": f"{plan.grouping}, {PLAN}", "elasticrec.plan_sha256": plan_sha256(plan)}
    router = configs.router_config(spec, plan, about)
    for config in (configs.ensemble_config(spec, plan, about), router, configs.dense_config(spec, plan, about)):
        yield f"{config.name}/config.pbtxt", configs.to_text(config).encode()
    yield f"{spec.name}/1/README", b"An ensemble has no files of its own, but Triton wants its version's folder.\n"
    yield from _code(f"{router.name}/1", "router")
    for service in plan.embedding_services:
        config = configs.embedding_config(spec, service, about)
        yield f"{config.name}/config.pbtxt", configs.to_text(config).encode()
        yield f"{config.name}/warmup/lengths", np.ones(len(service.shards), np.int32).tobytes()
        yield from _code(f"{config.name}/1", "embedding_shard")


def _code(folder: str, backend: str) -> Iterator[tuple[str, bytes]]:
    """`model.py` of a backend, and beside it the packages that it imports."""
    package = resources.files("triton_backends")
    yield f"{folder}/model.py", (package / backend / "model.py").read_bytes()
    yield f"{folder}/triton_backends/__init__.py", (package / "__init__.py").read_bytes()
    for part in ("kernels", backend):
        for file in sorted((package / part).iterdir(), key=lambda item: item.name):
            if _is_shipped(file):
                yield f"{folder}/triton_backends/{part}/{file.name}", file.read_bytes()


def _is_shipped(file: Traversable) -> bool:
    return file.name.endswith((".py", ".so")) and file.name != "model.py"


def _sample_queries(spec: Spec, hotness: Hotness) -> bytes:
    """Rows drawn from the tables' accesses, reproducibly: `dense` and `indices` as on the wire, in an `.npz`."""
    rng = np.random.default_rng(0)
    dense = rng.standard_normal((SAMPLE_ROWS, spec.dense_features), np.float32)
    columns = [draw_ids(hotness, table, (SAMPLE_ROWS, table.pooling), rng) for table in spec.tables]
    buffer = io.BytesIO()
    np.savez(buffer, dense=dense, indices=np.hstack(columns).astype(spec.index_dtype))
    return buffer.getvalue()
