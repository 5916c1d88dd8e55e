"""Queries for a load test: drawn from the model's accesses, or replayed from a trace; and the files they go into."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from repo_builder.access.load import HotnessByTable
from repo_builder.access.powerlaw import PowerLawHotness
from repo_builder.access.queries import draw_queries
from repo_builder.access.query_file import QueryFile
from repo_builder.access.replay import replay_queries
from repo_builder.errors import InputError
from repo_builder.model.arrays import Arrays, wired
from repo_builder.model.types import Tensor
from repo_builder.profiling.perf_analyzer import write_input_data
from repo_builder.repository.manifest import AccessEntry, Manifest, read_queries

_MOST_ROWS = 4096  # of the repository's own queries


def draw_workload(repository: Path, manifest: Manifest, queries: int, seed: int) -> QueryFile:
    """So many queries, ids as likely as the model's accesses.

    Raises InputError where the accesses came from a file, of which the repository keeps nothing.
    """
    own = {name: _powerlaw(manifest, f" of {name}", access) for name, access in manifest.table_access.items()}
    others = {table.name for table in manifest.tables} - own.keys()
    hotness = HotnessByTable(own, _powerlaw(manifest, "", manifest.access) if others else None)
    return draw_queries(manifest, hotness, queries, manifest.batch, seed, samples(repository, manifest))


def _powerlaw(manifest: Manifest, of: str, access: AccessEntry) -> PowerLawHotness:
    if access.source != "powerlaw" or access.locality is None:
        raise InputError(
            f"workload: {manifest.name} has access.source {access.source}{of}, which is not in the repository; "
            "give its spec with --spec SPEC, or replay a trace with --trace FILE"
        )
    return PowerLawHotness(access.locality, access.seed)


def replay_workload(repository: Path, manifest: Manifest, trace: Path, queries: int, seed: int) -> QueryFile:
    """The same with the first ids of a trace; the other inputs, which a trace has not, are drawn."""
    return replay_queries(manifest, trace, queries, manifest.batch, seed, samples(repository, manifest))


def samples(repository: Path, manifest: Manifest) -> Arrays | None:
    """The repository's own queries, where they were made of samples: none of a model whose queries are drawn."""
    return read_queries(repository, _MOST_ROWS) if manifest.sampled else None


def write_workload(path: Path, workload: QueryFile, inputs: tuple[Tensor, ...], batch: int) -> None:
    """Write a workload as its suffix says: `.npz` for locust, `.json` for perf_analyzer's `--input-data`; without a
    suffix a folder with a binary file an input, which perf_analyzer takes as the one query that it repeats.
    """
    if path.suffix == ".npz":
        path.write_bytes(workload.to_bytes())
    elif path.suffix == ".json":
        write_input_data(path, workload, inputs, batch)
    else:
        path.mkdir()
        for name, content in binary_files(workload, inputs, batch).items():
            (path / name).write_bytes(content)


def binary_files(workload: QueryFile, inputs: tuple[Tensor, ...], batch: int) -> dict[str, bytes]:
    """The first query, a file an input."""
    return {name: array.tobytes() for name, array in wired(workload.query(0, batch), inputs).items()}


def binary_words(path: Path, workload: QueryFile, inputs: tuple[Tensor, ...], batch: int) -> Sequence[str]:
    """perf_analyzer's options for a folder of binary files, which do not say their shapes."""
    query = wired(workload.query(0, batch), inputs)
    shapes = (f"--shape={name}:{','.join(map(str, array.shape))}" for name, array in query.items())
    return ("--input-data", str(path), *shapes)
