"""Look-ups as the shards do them, in NumPy: what the cut graph is given when it is compared with the whole model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repo_builder.errors import ExportError
from repo_builder.export.onnx_file.run import Arrays
from repo_builder.model.source import Partial, divisors_name
from repo_builder.model.types import Lookup, Model, Ragged

TOLERANCE = 1e-5
"""Of an answer, relative to it where it is greater than 1."""

Rows = Callable[[int, NDArray[np.int64]], NDArray[np.float32]]
"""Some rows of a table, by its place."""


def partial_sums(model: Model, partials: Sequence[Partial], tensors: Arrays, rows: Rows) -> dict[str, NDArray[Any]]:
    """The dense graph's inputs from look-ups, as if each of a table's partials held every so-manieth of its rows."""
    sums: dict[str, NDArray[Any]] = {}
    for place, lookup in enumerate(model.lookups):
        ids, ends = bags(lookup, lookup.ids.tensor, tensors)
        counted = (ids != lookup.ids.padding)[:, np.newaxis]
        ids = np.where(ids < 0, ids + model.tables[lookup.table].rows, ids) if lookup.ids.from_end else ids
        unique, places = np.unique(ids.astype(np.int64), return_inverse=True)
        vectors = rows(lookup.table, unique)[places.reshape(-1)] * counted  # (ids, dim)
        if lookup.ids.weights is not None:
            vectors = vectors * bags(lookup, lookup.ids.weights, tensors)[0][:, np.newaxis]
        holders = [partial for partial in partials if place in partial.columns]
        for number, partial in enumerate(holders):
            held = np.where((ids % len(holders) == number)[:, np.newaxis], vectors, np.float32(0))
            of_bags = _sums(held, ends).reshape(-1, model.width(lookup))
            matrix = sums.setdefault(partial.name, np.zeros((len(of_bags), partial.width), np.float32))
            begin = partial.columns[place]
            matrix[:, begin : begin + model.width(lookup)] = of_bags
    for group in range(len(model.groups)):
        if model.has_means(group):
            sums[divisors_name(group)] = _divisors(model, group, tensors)
    return sums


def bags(lookup: Lookup, name: str, tensors: Arrays) -> tuple[NDArray[Any], NDArray[Any]]:
    """A look-up's ids (or weights), bag after bag, and where each bag ends."""
    layout, tensor = lookup.ids.layout, tensors[name]
    if isinstance(layout, Ragged):
        bounds = tensors[layout.bounds].astype(np.int64)
        return tensor, bounds[1:] if layout.kind == "ends" else np.append(bounds[1:], tensor.size)
    width = layout.width if layout.width is not None else tensors[lookup.ids.tensor].shape[-1]
    bag = layout.bag if layout.width is not None else width
    rows = tensor.size // width if width else int(np.prod(tensor.shape[:-1]))
    ids = tensor.reshape(rows, width)[:, layout.begin : layout.begin + lookup.count * bag].reshape(-1)
    return ids, np.arange(1, rows * lookup.count + 1) * bag


def _sums(vectors: NDArray[np.float32], ends: NDArray[Any]) -> NDArray[np.float32]:
    """Of the vectors up to each end, (bags, dim)."""
    sums = np.zeros((len(ends), vectors.shape[1]), np.float32)
    np.add.at(sums, np.searchsorted(ends, np.arange(len(vectors)), side="right"), vectors)
    return sums


def _divisors(model: Model, group: int, tensors: Arrays) -> NDArray[np.float32]:
    """How many ids each bag of a mean has, 1 for none; 1 for other look-ups."""
    columns = []
    for lookup in (model.lookups[place] for place in model.in_group(group)):
        ids, ends = bags(lookup, lookup.ids.tensor, tensors)
        counted = (ids != lookup.ids.padding).astype(np.float32)[:, np.newaxis]
        sizes = _sums(counted, ends) if lookup.mode == "mean" else np.ones((len(ends), 1))
        columns.append(np.maximum(sizes, 1).reshape(-1, lookup.count).astype(np.float32))
    return np.concatenate(columns, axis=1)


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
