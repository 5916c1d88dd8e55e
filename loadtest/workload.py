"""Queries for a load test: drawn from the model's accesses, or replayed from a trace; and the files they go into."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loadtest.perf_analyzer import write_input_data
from repo_builder.access.draw import draw_queries
from repo_builder.access.powerlaw import PowerLawHotness
from repo_builder.access.replay import replay_trace
from repo_builder.errors import InputError
from repo_builder.model.dlrm import DlrmTable
from repo_builder.repository.manifest import Manifest

Arrays = Mapping[str, NDArray[Any]]


def draw_workload(manifest: Manifest, queries: int, seed: int) -> Arrays:
    """`dense` (queries * batch, F) and `indices` (queries * batch, columns), ids as likely as the model's accesses.

    Raises InputError where the accesses came from a file, of which the repository keeps nothing.
    """
    if manifest.access.source != "powerlaw" or manifest.access.locality is None:
        raise InputError(
            f"workload: {manifest.name} has access.source {manifest.access.source}, whose file is not in the "
            "repository; give it with --spec SPEC, or replay a trace with --trace FILE"
        )
    hotness = PowerLawHotness(manifest.access.locality, manifest.access.seed)
    rows = queries * manifest.batch
    dense, indices = draw_queries(hotness, _tables(manifest), manifest.dense_features, manifest.index_dtype, rows, seed)
    return {"dense": dense, "indices": indices}


def replay_workload(manifest: Manifest, trace: Path, queries: int, seed: int) -> Arrays:
    """The same with the first ids of a trace; the dense features, which a trace has not, are drawn."""
    rows = queries * manifest.batch
    dense = np.random.default_rng(seed).standard_normal((rows, manifest.dense_features), np.float32)
    return {"dense": dense, "indices": replay_trace(trace, _tables(manifest), manifest.index_dtype, rows)}


def write_workload(path: Path, workload: Arrays, batch: int) -> None:
    """Write a workload as its suffix says: `.npz` for locust, `.json` for perf_analyzer's `--input-data`; without a
    suffix a folder with a binary file an input, which perf_analyzer takes as the one query that it repeats.
    """
    if path.suffix == ".npz":
        with path.open("wb") as file:
            np.savez(file, **workload)
    elif path.suffix == ".json":
        write_input_data(path, workload["dense"], workload["indices"], batch)
    else:
        path.mkdir()
        for name in ("dense", "indices"):
            (path / name).write_bytes(workload[name][:batch].tobytes())


def binary_words(path: Path, dense: NDArray[np.float32], indices: NDArray[Any], batch: int) -> Sequence[str]:
    """perf_analyzer's options for a folder of binary files, which do not say their shapes."""
    shapes = (f"--shape={name}:{batch},{array.shape[1]}" for name, array in (("dense", dense), ("indices", indices)))
    return ("--input-data", str(path), *shapes)


def _tables(manifest: Manifest) -> list[DlrmTable]:
    return [DlrmTable(table.name, table.rows, dim=1, pooling=table.pooling) for table in manifest.tables]
