"""Look-ups worked out with NumPy from a query's tensors: the ids of their bags, and what their rows add up to.

What a model says of its look-ups means this; servers' code does the same, faster.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repo_builder.errors import InputError
from repo_builder.model.arrays import Arrays
from repo_builder.model.types import Columns, Lookup, Model, Ragged, Table


@dataclass(frozen=True, slots=True)
class LookupBags:
    """A look-up's ids in a query, padding left out: ids (nnz,) int64, and the bag of each, (nnz,) int64, ascending.

    weights: (nnz,) float32, or None. bags: of them all, empty ones too.
    """

    ids: NDArray[np.int64]
    bag: NDArray[np.int64]
    weights: NDArray[np.float32] | None
    bags: int

    def sums(self, rows: NDArray[Any]) -> NDArray[Any]:
        """The bags' sums (bags, dim) of rows (nnz, dim), one for each id, times its weight."""
        weighted = rows if self.weights is None else rows * self.weights[:, np.newaxis]
        sums = np.zeros((self.bags, rows.shape[1]), weighted.dtype)
        firsts = np.flatnonzero(np.diff(self.bag, prepend=-1))
        if firsts.size:
            sums[self.bag[firsts]] = np.add.reduceat(weighted, firsts, axis=0)
        return sums

    def divisors(self) -> NDArray[np.int64]:
        """What a mean divides the sums by (bags,): each bag's ids, 1 where it has none."""
        return np.maximum(np.bincount(self.bag, minlength=self.bags), 1)


def read_bags(lookup: Lookup, table: Table, tensors: Arrays) -> LookupBags:
    """A look-up's bags in a query, ids counted from the table's start; some may be outside it.

    tensors: those that look-ups name, by name. Raises InputError where bounds do not fit.
    """
    layout, ids = lookup.ids.layout, tensors[lookup.ids.tensor]
    if isinstance(layout, Columns):
        positions, bag, bags = _columns(lookup, layout, ids)
    else:
        positions, bag, bags = _ragged(lookup, layout, tensors[layout.bounds], ids.size)
    found = ids.reshape(-1)[positions].astype(np.int64)
    weights = None if lookup.ids.weights is None else tensors[lookup.ids.weights].reshape(-1)[positions]
    if lookup.ids.padding is not None:
        filled = found != lookup.ids.padding
        found, bag, weights = found[filled], bag[filled], None if weights is None else weights[filled]
    rows = np.where(found < 0, found + table.rows, found) if lookup.ids.from_end else found
    return LookupBags(rows, bag, weights, bags)


def ids_read(model: Model, lookup: Lookup, tensors: Arrays) -> NDArray[np.int64]:
    """The ids of a look-up's bags one behind another, (n,) int64, as `read_bags` has them."""
    return read_bags(lookup, model.tables[lookup.table], tensors).ids


_Positions = tuple[NDArray[np.int64], NDArray[np.int64], int]
"""Where in the ids' tensor ids are, the bag of each, and how many bags there are."""


def _columns(lookup: Lookup, layout: Columns, ids: NDArray[Any]) -> _Positions:
    if layout.width is None:
        *before, bag = ids.shape or (1,)
        rows = int(np.prod(before))
        return np.arange(rows * bag), np.repeat(np.arange(rows), bag), rows
    rows = ids.size // layout.width
    columns = layout.begin + np.arange(lookup.count * layout.bag)
    positions = (np.arange(rows)[:, np.newaxis] * layout.width + columns).reshape(-1)
    return positions, np.repeat(np.arange(rows * lookup.count), layout.bag), rows * lookup.count


def _ragged(lookup: Lookup, layout: Ragged, bounds: NDArray[Any], ids: int) -> _Positions:
    told = bounds.reshape(-1).astype(np.int64)
    if layout.kind == "lengths":
        told = np.concatenate([[0], np.cumsum(told)])
    elif layout.kind == "offsets":
        told = np.concatenate([told, [ids]])
    bags, rest = divmod(max(len(told) - 1, 0), layout.blocks)
    if rest or (len(told) > 1 and (told[0] != 0 or told[-1] > ids or bool((np.diff(told) < 0).any()))):
        raise InputError(
            f"{layout.bounds}: expected bounds of bags within the {ids} ids of {lookup.ids.tensor}, from 0 on and "
            f"ascending, got {bounds.reshape(-1)[:8].tolist()}"
        )
    begins = told[layout.block * bags : (layout.block + 1) * bags + 1]
    if not bags:
        return np.arange(0), np.arange(0), 0
    return np.arange(begins[0], begins[-1]), np.repeat(np.arange(bags), np.diff(begins)), bags
