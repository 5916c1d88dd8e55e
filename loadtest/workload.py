"""Queries for a load test: drawn from the model's accesses, or replayed from a trace; and the files they go into."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from repo_builder.writing import new_folder, write_whole

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
    suffix a folder with a binary file per input, which perf_analyzer takes as the one query that it repeats.

    Whole or not at all; of folders only a former workload's is replaced. Raises InputError where that cannot be done.
    """
    if path.suffix == ".npz":
        write_whole(path, workload.to_bytes())
    elif path.suffix == ".json":
        write_input_data(path, workload, inputs, batch)
    elif not path.absolute().parent.is_dir():
        raise InputError(f"{path}: cannot be written: No such file or directory; choose another folder with -o")
    else:
        files = binary_files(workload, inputs, batch)
        with new_folder(path, lambda folder: _foreign(folder, files)) as folder:
            for name, content in files.items():
                (folder / name).write_bytes(content)


def _foreign(folder: Path, files: Mapping[str, bytes]) -> str | None:
    """Why a folder is no former workload's: a file per input, each as long as queries of this model have it."""
    plain = [each for each in folder.iterdir() if each.is_file() and not each.is_symlink()]
    found = {each.name: -1 for each in folder.iterdir()} | {each.name: each.stat().st_size for each in plain}
    same = found == {name: len(content) for name, content in files.items()}
    return None if same else "expected a former workload's folder, or none"


def binary_files(workload: QueryFile, inputs: tuple[Tensor, ...], batch: int) -> dict[str, bytes]:
    """The first query, a file an input."""
    return {name: array.tobytes() for name, array in wired(workload.query(0, batch), inputs).items()}


def binary_words(path: Path, workload: QueryFile, inputs: tuple[Tensor, ...], batch: int) -> Sequence[str]:
    """perf_analyzer's options for a folder of binary files, which do not say their shapes."""
    query = wired(workload.query(0, batch), inputs)
    shapes = (f"--shape={name}:{','.join(map(str, array.shape))}" for name, array in query.items())
    return ("--input-data", str(path), *shapes)
