"""The queries that a load test sends, and whether an answer to one of them is right."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from repo_builder.access.query_file import EXPECTED, QueryFile, read_query_file
from repo_builder.errors import InputError
from repo_builder.model.arrays import DTYPES, Array, fits, shape_text
from repo_builder.model.types import BATCH, Datatype, Tensor
from repo_builder.words import count

TOLERANCE = 1e-5
"""Of a number, or of one above 1 for each 1 that it is."""
_TOLERANCES: Mapping[Datatype, float] = {"FP16": 2e-3, "BF16": 2e-2}


@dataclass(frozen=True, slots=True)
class Queries:
    """Queries of `batch` rows each to a model of these outputs."""

    file: QueryFile
    batch: int
    outputs: tuple[Tensor, ...]

    def __len__(self) -> int:
        return self.file.queries(self.batch)

    def query(self, number: int) -> Mapping[str, Array]:
        """The inputs of one query."""
        return self.file.query(number, self.batch)

    def wrong(self, number: int, answer: Mapping[str, Array]) -> str | None:
        """What is wrong with an answer to query `number`, by output; None where nothing is."""
        return next((f"wrong {what}" for tensor in self.outputs for what in self._wrong(number, tensor, answer)), None)

    def _wrong(self, number: int, tensor: Tensor, answer: Mapping[str, Array]) -> Iterator[str]:
        found, shape = answer.get(tensor.name), shape_of(tensor, self.batch)
        if found is None or not fits(found.shape, shape):
            got = "none" if found is None else shape_text(found.shape)
            yield f"{tensor.name}: expected shape {shape_text(shape)}, got {got}"
            return
        if not np.isfinite(found).all():
            yield f"{tensor.name}: not finite"
            return
        expected = self.file.expected.get(tensor.name, ())
        if number < len(expected):
            right = np.asarray(expected[number], np.float64)
            if right.shape != found.shape:
                yield f"{tensor.name}: expected shape {shape_text(right.shape)}, got {shape_text(found.shape)}"
                return
            error = np.abs(found.astype(np.float64) - right)
            if (error > _TOLERANCES.get(tensor.datatype, TOLERANCE) * np.maximum(1, np.abs(right))).any():
                yield f"{tensor.name}: off by {error.max():.2g}"


def shape_of(tensor: Tensor, batch: int) -> tuple[int | str, ...]:
    """Its shape in a query of so many rows; what varies otherwise keeps its name."""
    return tuple(batch if size == BATCH else size for size in tensor.shape)


def answer_bytes(outputs: tuple[Tensor, ...], batch: int) -> int:
    """Of the numbers in an answer; a dimension that varies otherwise counts once."""
    shapes = ((DTYPES[tensor.datatype].itemsize, shape_of(tensor, batch)) for tensor in outputs)
    return sum(size * math.prod(each for each in shape if isinstance(each, int)) for size, shape in shapes)


def load_queries(path: Path, batch: int, inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...]) -> Queries:
    """Read a workload's `.npz` (`elasticrec workload`) or a repository's `queries.npz`, in queries of `batch` rows.

    Raises InputError where it is none of the model's, or holds no whole query.
    """
    try:
        file = read_query_file(path, inputs, "a workload")
    except InputError as exc:
        raise InputError(*(f"{problem}; write one with elasticrec workload" for problem in exc.problems)) from exc
    queries = Queries(file, batch, outputs)
    if not len(queries):
        raise InputError(
            f"{path}: expected at least {count(batch, 'row')}, those of one query, got {count(file.rows or 0, 'row')}"
        )
    if file.ends and file.rows is not None and file.rows != batch * len(queries):
        raise InputError(f"{path}: expected queries of {count(batch, 'row')}, got {len(queries)} of {file.rows} rows")
    unknown = file.expected.keys() - {tensor.name for tensor in outputs}
    if unknown:
        expected = ", ".join(tensor.name for tensor in outputs)
        raise InputError(f"{path}: {EXPECTED}{min(unknown)}: expected an output of the model: {expected}")
    return queries
