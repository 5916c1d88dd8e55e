"""Look-ups done as the model describes them, in the tables as they lie in the program's file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from repo_builder.errors import InputError
from repo_builder.model.types import Columns, Ids, Model, Ragged

Rows = Callable[[NDArray[np.int64]], torch.Tensor]
"""A table's rows (n, dim) float32 for ids that are in it."""


@dataclass(frozen=True, slots=True)
class LookedUp:
    """What a look-up gives: sums (rows, count * dim) and what a mean divides them by (rows, count), both float32."""

    sums: NDArray[np.float32]
    divisors: NDArray[np.float32]
    ids: int


def look_up(model: Model, place: int, tensors: Mapping[str, NDArray[Any]], rows: Rows) -> LookedUp:
    """One look-up of a query; raises InputError for an id outside the table."""
    lookup = model.lookups[place]
    table = model.tables[lookup.table]
    ids, lengths, weights = bags_of(lookup.ids, lookup.count, tensors)
    bag_of_id = np.repeat(np.arange(len(lengths)), lengths)
    if lookup.ids.from_end:
        ids = np.where(ids < 0, ids + table.rows, ids)
    filled = ids != lookup.ids.padding if lookup.ids.padding is not None else np.ones(len(ids), bool)
    outside = np.flatnonzero(filled & ((ids < 0) | (ids >= table.rows)))
    if len(outside):
        raise InputError(
            f"{lookup.ids.tensor}: expected ids of table {table.name}, 0 to {table.rows - 1}, got {ids[outside[0]]} "
            f"as the {outside[0]}-th of look-up {lookup.name}"
        )
    ids, bag_of_id = ids[filled], bag_of_id[filled]
    counts = np.bincount(bag_of_id, minlength=len(lengths))
    offsets = torch.from_numpy(np.concatenate([[0], counts.cumsum()[:-1]]).astype(np.int64))[: len(lengths)]
    sums = functional.embedding_bag(
        torch.arange(len(ids)),
        rows(ids),
        offsets,
        mode="sum",
        per_sample_weights=None if weights is None else torch.from_numpy(weights[filled].copy()),
    )
    return LookedUp(
        sums.reshape(-1, lookup.count * table.format.dim).numpy(),
        np.maximum(counts, 1).astype(np.float32).reshape(-1, lookup.count),
        len(ids),
    )


def bags_of(
    ids: Ids, count: int, tensors: Mapping[str, NDArray[Any]]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32] | None]:
    """The ids of all bags one after another, how many each has, and their weights."""
    layout = ids.layout
    named = [tensors[ids.tensor], *([tensors[ids.weights]] if ids.weights is not None else [])]
    if isinstance(layout, Columns):
        width = named[0].shape[-1] if layout.width is None else layout.width
        bag = width if layout.width is None else layout.bag
        matrices = [tensor.reshape(tensor.size // width if width else len(tensor), width) for tensor in named]
        taken = [matrix[:, layout.begin : layout.begin + count * bag].reshape(-1) for matrix in matrices]
        lengths = np.full(len(matrices[0]) * count, bag)
    else:
        starts, lengths = _ragged(layout, tensors[layout.bounds].reshape(-1).astype(np.int64), named[0].size)
        taken = [tensor.reshape(-1)[starts : starts + lengths.sum()] for tensor in named]
    return taken[0].astype(np.int64), lengths, taken[1] if len(taken) > 1 else None


def _ragged(layout: Ragged, bounds: NDArray[np.int64], ids: int) -> tuple[int, NDArray[np.int64]]:
    """Where the first bag begins, and how many ids each has."""
    if layout.kind == "lengths":
        parts = bounds.reshape(layout.blocks, -1)
        return int(parts[: layout.block].sum()), parts[layout.block]
    ends = bounds if layout.kind == "ends" else np.concatenate([bounds, [ids]])
    if len(ends) and (ends[0] != 0 or (np.diff(ends) < 0).any() or ends[-1] > ids):
        raise InputError(f"{layout.bounds}: expected places from 0 to {ids} that ascend, got {bounds[:8].tolist()} ...")
    return 0, np.diff(ends)
