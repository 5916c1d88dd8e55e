"""Files of queries (`.npz`), as load tests send them: an array per input, the queries one after another along axis 0.

An input whose first dimension is the batch is cut into queries of so many rows, which is the reader's choice. Others
have no rows of their own: beside such an array stands `ends/NAME`, where each query's part of it ends; then the file
holds so many queries, all of equal rows. A scalar is the same in every query. `expected/NAME` holds an output's right
answers to the first queries, one behind the other along a new axis 0.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repo_builder.errors import InputError
from repo_builder.model.arrays import Arrays, has_rows, mismatches
from repo_builder.model.types import Tensor

ENDS, EXPECTED = "ends/", "expected/"

# What zipfile and numpy raise over a broken .npz; RuntimeError: an encrypted member, or an unknown compression
_BROKEN = (OSError, TypeError, ValueError, LookupError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True, slots=True)
class QueryFile:
    """Queries joined: `inputs` by name, `ends` (queries,) int64 of those without rows, `expected` by output."""

    inputs: Arrays
    ends: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)
    expected: Arrays = field(default_factory=dict)

    @property
    def rows(self) -> int | None:
        """Rows of all queries together; None where no input has any."""
        sizes = (len(array) for name, array in self.inputs.items() if array.ndim and name not in self.ends)
        return next(sizes, None)

    def queries(self, batch: int) -> int:
        """How many whole queries of `batch` rows there are."""
        counts = [len(ends) for ends in self.ends.values()]
        return min([*counts, *([] if self.rows is None else [self.rows // batch])], default=1)

    def query(self, number: int, batch: int) -> dict[str, NDArray[Any]]:
        """The inputs of one query of `batch` rows."""
        return {name: self._part(name, array, number, batch) for name, array in self.inputs.items()}

    def first(self, rows: int) -> dict[str, NDArray[Any]]:
        """A query of the first `rows` rows; where inputs have none of their own, the first query."""
        counts = [len(ends) for ends in self.ends.values()]
        return self.query(0, (self.rows or 0) // counts[0] if counts else rows)

    def head(self, queries: int, batch: int) -> QueryFile:
        """The first queries alone, without their answers."""
        ends = {name: each[:queries] for name, each in self.ends.items()}
        sizes = {name: each[-1] for name, each in ends.items()}
        inputs = {
            name: array[: sizes.get(name, queries * batch)] if array.ndim else array
            for name, array in self.inputs.items()
        }
        return QueryFile(inputs, ends)

    def _part(self, name: str, array: NDArray[Any], number: int, batch: int) -> NDArray[Any]:
        if not array.ndim:
            return array
        if name not in self.ends:
            return array[number * batch : (number + 1) * batch]
        ends = self.ends[name]
        return array[ends[number - 1] if number else 0 : ends[number]]

    def to_bytes(self) -> bytes:
        """The file."""
        buffer = BytesIO()
        ends = {f"{ENDS}{name}": array for name, array in self.ends.items()}
        expected = {f"{EXPECTED}{name}": array for name, array in self.expected.items()}
        np.savez(buffer, **{**self.inputs, **ends, **expected})
        return buffer.getvalue()


def read_query_file(path: Path, inputs: tuple[Tensor, ...], what: str = "queries") -> QueryFile:
    """Read a file of queries to a model of these inputs, which messages call `what`.

    Raises InputError where it is none, a problem per line.
    """
    try:
        with path.open("rb") as file:
            if not zipfile.is_zipfile(file):
                raise ValueError("it is not a whole .npz file")
            file.seek(0)
            with np.load(file, allow_pickle=False) as arrays:
                found = {name: _array(name, arrays[name]) for name in arrays}
    except _BROKEN as exc:
        raise InputError(f"{path}: expected {what} in .npz, but {exc}") from exc
    names = {tensor.name for tensor in inputs}
    beside = {name: each for name, each in found.items() if name not in names}
    ends = {name.removeprefix(ENDS): beside.pop(name) for name in [*beside] if name.startswith(ENDS)}
    expected = {name.removeprefix(EXPECTED): beside.pop(name) for name in [*beside] if name.startswith(EXPECTED)}
    given = {name: each for name, each in found.items() if name in names}
    problems = [f"{name}: expected an input of the model, {ENDS}INPUT or {EXPECTED}OUTPUT" for name in beside]
    problems += [*mismatches(given, _joined(inputs))] or [*_ends_problems(given, ends, inputs)]
    if problems:
        raise InputError(*(f"{path}: {problem}" for problem in problems))
    return QueryFile(given, ends, expected)


def _array(name: str, found: object) -> NDArray[Any]:
    """numpy gives the bytes of a member that is none."""
    if not isinstance(found, np.ndarray):
        raise TypeError(f"{name} is no array")
    return found


def _joined(inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The inputs of many queries, one after another."""
    return tuple(replace(tensor, shape=("queries", *tensor.shape[1:]) if tensor.shape else ()) for tensor in inputs)


def _ends_problems(arrays: Arrays, ends: Arrays, inputs: tuple[Tensor, ...]) -> Iterator[str]:
    """What keeps the arrays from being cut into queries."""
    rows = {tensor.name: len(arrays[tensor.name]) for tensor in inputs if has_rows(tensor)}
    if len(set(rows.values())) > 1:
        yield f"{', '.join(rows)}: expected equally many rows, got {', '.join(map(str, rows.values()))}"
    cut = [tensor for tensor in inputs if tensor.shape and not has_rows(tensor)]
    for name in ends.keys() - {tensor.name for tensor in cut}:
        yield f"{ENDS}{name}: expected this beside an input without rows of its own only"
    for tensor in cut:
        found = ends.get(tensor.name)
        if found is None or found.dtype != np.int64 or found.ndim != 1 or not len(found):
            yield f"{ENDS}{tensor.name}: expected where each query's part of {tensor.name} ends, (queries,) int64"
            continue
        sizes = np.diff(found, prepend=0)
        fixed = tensor.shape[0] if isinstance(tensor.shape[0], int) else None
        if sizes.min() < 0 or found[-1] != len(arrays[tensor.name]) or (fixed and (sizes != fixed).any()):
            yield f"{ENDS}{tensor.name}: expected parts of {tensor.name} from its begin to its end, got others"
        if len(found) != len(next(iter(ends.values()))) or any(each % len(found) for each in rows.values()):
            yield f"{ENDS}{tensor.name}: expected as many queries as the other arrays have, got {len(found)}"
