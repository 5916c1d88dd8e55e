"""Building a Triton model repository from a spec, a plan and the trained weights.

    DIR/manifest.json  plan.json  queries.npz           what it is, why it is so, and rows to try it with
    DIR/NAME/config.pbtxt                               the ensemble
    DIR/NAME_ids/1/model.onnx                           where ids are computed
    DIR/NAME_router/  lib*.so  1/idmap.bin ...          ids -> shards
    DIR/NAME_<service>/1/  model.py weights.bin ...     an embedding service, or in place of model.py a lib*.so above
    DIR/NAME_dense/1/model.onnx                         the dense layers

In a fleet, whose embedding services have servers of their own, these are several repositories (`design.py`):

    DIR/frontend/NAME/  NAME_ids/  NAME_router/  NAME_dense/    its router calls the others
    DIR/<service>/NAME_<service>/VERSION/                       an embedding service
    DIR/frontend/SHA256SUMS  DIR/<service>/SHA256SUMS           what a pod checks before its server starts

VERSION is a number made of the build's weights and cuts. The router asks for it by name, so that a front end and a
shard of two builds, as they meet in a rolling update, never make a score together: it is an error, and the router
looks for a replica of its own build.

The layout `model-wise`, the baseline, has one embedding service with all tables; a model that its owner has in ONNX is
served as it is there, DIR/NAME/1/model.onnx, and nothing else, unless its rows are to be stored in fewer bits.

It is built in a temporary folder and renamed: an error or a stop leaves what was there before untouched.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib import metadata
from pathlib import Path

from repo_builder.access.hotness import Hotness
from repo_builder.errors import SpecError
from repo_builder.export.scalars import serve_scalars
from repo_builder.model.source import Source
from repo_builder.output import Progress, silent
from repo_builder.partition.plan import Plan, plan_sha256
from repo_builder.repository import configs
from repo_builder.repository.design import FIRST_VERSION, Design
from repo_builder.repository.files import write_bytes
from repo_builder.repository.manifest import (
    MANIFEST,
    FileEntry,
    Layout,
    Manifest,
    Proof,
    describe,
    entry_of,
    foreign_to_repository,
)
from repo_builder.repository.proof import Trial, proof_of_whole
from repo_builder.repository.samples import kept_queries
from repo_builder.repository.small_files import checksums, small_files, whole_files
from repo_builder.repository.weights import write_weights
from repo_builder.spec import Spec
from repo_builder.writing import new_folder

_MAX_VERSION = 2**31 - 1


def build(
    spec: Spec,
    plan: Plan,
    hotness: Hotness,
    source: Source,
    target: Path,
    progress: Progress = silent,
    shard_backend: configs.ShardBackend = "python",
    *,
    layout: Layout = "single",
) -> Manifest:
    """Write the repository of a layout to `target`, replacing a former one; the manifest says what it is.

    `progress` counts table bytes and is called in another thread. Raises PlanError where the plan does not fit the
    spec or the layout, SpecError where native shards are to send FP16 or the rows that the plan stores in fewer bits
    than they came in change scores by more than the spec's budget, RepositoryError where `target` cannot be
    written, ExportError where the cut model answers otherwise than the whole one, and what reading the weights raises.
    """
    design = Design.of(spec, plan, layout)
    _check_backend(design, shard_backend)
    queries = kept_queries(spec, source, hotness)
    with new_folder(target, foreign_to_repository) as folder, ThreadPoolExecutor(1) as pool:
        files = _write_whole(design, source, folder)
        if files:
            proof = proof_of_whole(design, source, queries, folder)
            small = whole_files(design, queries)
        else:
            files = _write_ids(design, source, folder)
            trial = Trial(design, source, queries, folder)
            files += write_weights(design, source, hotness, folder, pool, progress, trial.see)
            proof = trial.proof()
            _check_budget(design, proof)
            version = _version(files) if design.arrangement.versioned else FIRST_VERSION
            files = _numbered(design, files, version, folder)
            small = small_files(design, queries, shard_backend, version)
        for path, data in small:
            files.append(write_bytes(folder, path, data, pool))
        for path, data in checksums(design, files):
            files.append(write_bytes(folder, path, data, pool))
        generator = f"elasticrec {metadata.version('elasticrec')}"
        manifest = describe(spec, layout, plan_sha256(plan), generator, files, proof, source.samples() is not None)
        (folder / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    return manifest


def _check_backend(design: Design, shard_backend: configs.ShardBackend) -> None:
    native = any(configs.is_native(held.service, shard_backend) for held in design.wiring)
    if native and configs.sends_halves(design):
        raise SpecError("fleet.sums_dtype: expected fp32 for native shards, got fp16; or use --shard-backend python")


def _check_budget(design: Design, proof: Proof) -> None:
    """Whoever chose the plan's formats for the spec's budget may have done so on other samples, or not at all."""
    budget, error = design.spec.rows.budget, proof.score_error
    if budget is not None and error is not None and not error.max <= budget:
        stored = ", ".join(f"{held.name} {held.service.row_dtype}" for held in design.wiring)
        raise SpecError(
            f"rows.budget: expected a score error of at most {budget:g} on samples, got {error.max:.2e} with the rows "
            f"of the plan ({stored}); plan again with this spec, or allow more"
        )


def _write_whole(design: Design, source: Source, folder: Path) -> list[FileEntry]:
    """Where nothing is to be cut or stored smaller and the source has it so, the whole model as one of Triton's.

    Returns the new files.
    """
    if not design.arrangement.uncut or design.recodes:
        return []
    path = f"{design.spec.name}/{FIRST_VERSION}"
    (folder / path).mkdir(parents=True)
    names = source.write_whole(folder / path)
    if not names:
        (folder / path).rmdir()
        (folder / path).parent.rmdir()
        return []
    serve_scalars(folder / path / "model.onnx", (*design.model.inputs, *design.model.outputs))
    return [entry_of(folder, f"{path}/{name}") for name in names]


def _write_ids(design: Design, source: Source, folder: Path) -> list[FileEntry]:
    """The ids graph, where the model has one; the new files."""
    graph = source.model.ids_graph
    if graph is None:
        return []
    path = design.front_folder("ids")
    (folder / path).mkdir(parents=True)
    names = source.write_ids(folder / path)
    serve_scalars(folder / path / "model.onnx", (*graph.inputs, *graph.outputs))
    return [entry_of(folder, f"{path}/{name}") for name in names]


def _version(files: Sequence[FileEntry]) -> str:
    """The build's number, from 1: of everything that an answer depends on."""
    content = "".join(sorted(f"{entry.path} {entry.sha256}\n" for entry in files))
    digest = hashlib.sha256(content.encode()).digest()
    return str(1 + int.from_bytes(digest[:8], "big") % _MAX_VERSION)


def _numbered(design: Design, files: Sequence[FileEntry], version: str, folder: Path) -> list[FileEntry]:
    """Give the embedding services' version folders their number, which is known only now."""
    for held in design.wiring:
        before, after = design.folder(held.service), design.folder(held.service, version)
        if before != after:
            (folder / before).rename(folder / after)
            files = [replace(entry, path=entry.path.replace(f"{before}/", f"{after}/")) for entry in files]
    return list(files)
