"""Queries of a model file, an array per input: those that its owner recorded, and what is wrong with one."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from repo_builder.errors import InputError, ModelFileError
from repo_builder.model.arrays import Arrays
from repo_builder.model.lookups import read_bags
from repo_builder.model.queries import query_problems, request_problems
from repo_builder.model.types import Lookup, Table, Tensor

LABELS = "labels/"
"""Of samples: `labels/OUTPUT` holds what became of each number of an output, 1 or 0: clicked or not."""


def read_samples(path: Path, inputs: Sequence[Tensor]) -> Arrays:
    """A query from an .npz with an array per input; raises ModelFileError where it is none of the model's.

    Labels may stand beside; they are `read_labels`' to read.
    """
    query = {name: array for name, array in _read(path).items() if not name.startswith(LABELS)}
    problems = [f"{path}: {problem}" for problem in request_problems(inputs, query)]
    if problems:
        raise ModelFileError(*problems)
    return query


def read_labels(path: Path) -> Arrays:
    """The labels in a file of samples, by output: arrays of 0 and 1; raises ModelFileError where they are others."""
    found = {name.removeprefix(LABELS): array for name, array in _read(path).items() if name.startswith(LABELS)}
    problems = [
        f"{path}: {LABELS}{name}: expected labels of 0 and 1, got {array.dtype} {array.reshape(-1)[:8].tolist()}"
        for name, array in found.items()
        if array.dtype.kind not in "biuf" or not np.isin(array, (0, 1)).all()
    ]
    if problems:
        raise ModelFileError(*problems)
    return found


def _read(path: Path) -> Arrays:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except FileNotFoundError as exc:
        raise ModelFileError(f"{path}: expected a file of samples, found none; check samples in the spec") from exc
    except (OSError, ValueError, zipfile.BadZipFile, EOFError, AttributeError) as exc:
        raise ModelFileError(f"{path}: expected an .npz with an array per input, got another file ({exc})") from exc


def refuse_ids(path: Path, lookups: Sequence[Lookup], tables: Sequence[Table], query: Arrays) -> None:
    """Raise ModelFileError where samples have ids that are none of their table's, as far as look-ups read inputs."""
    problems = [
        f"{path}: {problem}"
        for lookup in lookups
        if lookup.ids.tensors <= query.keys()
        for problem in _id_problems(lookup, tables[lookup.table], query)
    ]
    if problems:
        raise ModelFileError(*problems)


def _id_problems(lookup: Lookup, table: Table, query: Arrays) -> Iterator[str]:
    """What is wrong with a look-up's bounds, or its first id."""
    try:
        bags = read_bags(replace(lookup, ids=replace(lookup.ids, weights=None)), table, query)
    except InputError as exc:
        yield from exc.problems
        return
    wrong = np.flatnonzero((bags.ids < 0) | (bags.ids >= table.rows))
    if wrong.size:
        row, bad, least = bags.bag[wrong[0]] // lookup.count, bags.ids[wrong[0]], 0
        if lookup.ids.from_end:
            bad, least = bad - table.rows * (bad < 0), -table.rows
        yield (
            f"{lookup.ids.tensor}: expected ids of table {table.name}, from {least} to {table.rows - 1}, got {bad} in "
            f"row {row}"
        )


def refused_samples(path: Path, query: Arrays, *reasons: str) -> ModelFileError:
    """The error for samples that the model does not take; names the inputs of which it may have computed no ids."""
    odd = [name for name, array in query.items() if array.dtype.kind == "f" and not np.isfinite(array).all()]
    more = f"; not all finite: {', '.join(odd)}" if odd else ""
    return ModelFileError(
        *(f"{path}: expected samples that the model takes, got others: {each}{more}" for each in reasons)
    )


def check_query(inputs: Sequence[Tensor], query: Arrays) -> None:
    """Raises InputError where arrays are no query of a model with these inputs."""
    problems = list(query_problems(inputs, query))
    if problems:
        raise InputError(*problems)
