"""Bags of any size in two tensors: ids one after another, and another tensor that says where bags begin. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repo_builder.model.types import Lookup, Ragged

Integers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Bags:
    """Ragged bags of several queries: `lengths` (queries, blocks, rows) int64 of those in a tensor of ids.

    layout: that of one of the look-ups, which have a block each.
    """

    ids: str
    layout: Ragged
    lookups: Sequence[Lookup]
    lengths: Integers

    @property
    def totals(self) -> Integers:
        """Ids of each query, (queries,)."""
        totals: Integers = self.lengths.sum((1, 2))
        return totals

    @property
    def bounds(self) -> list[Integers]:
        """Each query's bounds."""
        return [_bounds(lengths.reshape(-1), self.layout) for lengths in self.lengths]

    @property
    def blocks(self) -> Integers:
        """The block that each id of all queries is in, (ids,)."""
        numbers = np.arange(self.lengths.shape[1])[:, np.newaxis]
        return np.repeat(np.broadcast_to(numbers, self.lengths.shape).reshape(-1), self.lengths.reshape(-1))


def _bounds(lengths: Integers, layout: Ragged) -> Integers:
    """Of bags of these lengths: (bags,), of `ends` one more."""
    if layout.kind == "lengths":
        return lengths
    ends = np.concatenate([[0], np.cumsum(lengths)])
    return ends if layout.kind == "ends" else ends[:-1]


def lengths_of(bounds: NDArray[Any], layout: Ragged, ids: int) -> Integers:
    """The lengths (blocks, rows) of a query's bags, which have so many ids in all."""
    found = bounds.reshape(-1).astype(np.int64)
    if layout.kind != "lengths":
        found = np.diff(found, append=[ids] if layout.kind == "offsets" else [])
    return found.reshape(layout.blocks, -1)


def ids_of(bags: Integers, ids: NDArray[Any], lengths: Integers) -> NDArray[Any]:
    """The ids of some bags, one bag after another: `bags` are their numbers, each as often as wanted.

    lengths: (all bags,).
    """
    begins = np.cumsum(lengths) - lengths
    wanted = lengths[bags]
    before = np.cumsum(wanted) - wanted
    found: NDArray[Any] = ids[np.repeat(begins[bags] - before, wanted) + np.arange(wanted.sum())]
    return found
