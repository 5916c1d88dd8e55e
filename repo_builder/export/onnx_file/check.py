"""Look-ups as the shards do them, in NumPy: what the cut graph is given when it is compared with the whole model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repo_builder.errors import ExportError
from repo_builder.export.onnx_file.run import Arrays
from repo_builder.model.source import Partial, divisors_name
from repo_builder.model.types import Columns, Lookup, Model

TOLERANCE = 1e-5
"""Of an answer, relative to it where it is greater than 1."""

Rows = Callable[[int, NDArray[np.int64]], NDArray[np.float32]]
"""Some rows of a table, by its place."""


def ids_of(lookup: Lookup, tensors: Arrays) -> NDArray[Any]:
    """A look-up's ids (rows, count, bag)."""
    return _bags(lookup, tensors[lookup.ids.tensor])


def _bags(lookup: Lookup, tensor: NDArray[Any]) -> NDArray[Any]:
    layout = lookup.ids.layout
    if not isinstance(layout, Columns):
        raise TypeError(f"{lookup.name}: ONNX has no ragged ids")
    if layout.width is None:
        return tensor.reshape(int(np.prod(tensor.shape[:-1])), 1, tensor.shape[-1])
    columns = tensor.reshape(tensor.size // layout.width, layout.width)
    return columns[:, layout.begin : layout.begin + lookup.count * layout.bag].reshape(-1, lookup.count, layout.bag)


def partial_sums(model: Model, partials: Sequence[Partial], tensors: Arrays, rows: Rows) -> dict[str, NDArray[Any]]:
    """The dense graph's inputs from look-ups, as if each of a table's partials held every so-manieth of its rows."""
    sums: dict[str, NDArray[Any]] = {}
    for place, lookup in enumerate(model.lookups):
        ids = ids_of(lookup, tensors).astype(np.int64)
        ids = np.where(ids < 0, ids + model.tables[lookup.table].rows, ids) if lookup.ids.from_end else ids
        unique, places = np.unique(ids, return_inverse=True)
        vectors = rows(lookup.table, unique)[places.reshape(ids.shape)]  # (rows, count, bag, dim)
        if lookup.ids.weights is not None:
            vectors = vectors * _bags(lookup, tensors[lookup.ids.weights])[..., np.newaxis]
        holders = [partial for partial in partials if place in partial.columns]
        for number, partial in enumerate(holders):
            held = np.where((ids % len(holders) == number)[..., np.newaxis], vectors, 0)
            matrix = sums.setdefault(partial.name, np.zeros((len(ids), partial.width), np.float32))
            begin = partial.columns[place]
            matrix[:, begin : begin + model.width(lookup)] = held.sum(axis=2).reshape(len(ids), -1)
    for group in range(len(model.groups)):
        if model.has_means(group):
            sums[divisors_name(group)] = _divisors(model, group, tensors)
    return sums


def _divisors(model: Model, group: int, tensors: Arrays) -> NDArray[np.float32]:
    """How many ids each bag has, where it is of a mean."""
    lookups = [model.lookups[place] for place in model.in_group(group)]
    bags = [ids_of(lookup, tensors) for lookup in lookups]
    sizes = [
        np.full(ids.shape[:2], ids.shape[2] if lookup.mode == "mean" else 1, np.float32)
        for lookup, ids in zip(lookups, bags, strict=True)
    ]
    return np.concatenate(sizes, axis=1)


def difference(got: NDArray[Any], expected: NDArray[Any]) -> float:
    """The greatest, relative to answers greater than 1; infinite where shapes differ or only one is a number."""
    if got.shape != expected.shape:
        return float("inf")
    if not got.size:
        return 0.0
    if got.dtype.kind not in "fiu":
        return 0.0 if np.array_equal(got, expected) else float("inf")
    with np.errstate(invalid="ignore"):
        apart = np.abs(got.astype(np.float64) - expected) / np.maximum(1, np.abs(expected.astype(np.float64)))
    apart = np.where((got == expected) | (np.isnan(got) & np.isnan(expected)), 0, apart)
    return float("inf") if np.isnan(apart).any() else float(apart.max())


def refuse_difference(got: Arrays, expected: Arrays, where: str) -> None:
    """Raises ExportError for the first output that differs."""
    for name, answer in expected.items():
        apart = difference(got[name], answer)
        if not apart <= TOLERANCE:
            raise ExportError(
                f"{where}: output {name}: expected the whole model's answers within {TOLERANCE}, got a difference of "
                f"{apart}; report the model, or keep its tables dense one by one (keep) to find which look-up it is"
            )
