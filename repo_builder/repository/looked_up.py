"""Look-ups made by hand, for the proof of a build: of rows that were kept while their tables were streamed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repo_builder.errors import InputError
from repo_builder.model.arrays import Arrays
from repo_builder.model.types import Columns, Lookup, Model, Ragged, Table


@dataclass(frozen=True, slots=True)
class Bags:
    """A look-up's ids in a query, padding left out: ids (nnz,) int64, and the bag of each, (nnz,) int64.

    weights: (nnz,) float32, or None. bags: of them all.
    """

    ids: NDArray[np.int64]
    bag: NDArray[np.int64]
    weights: NDArray[np.float32] | None
    bags: int


def read_bags(lookup: Lookup, table: Table, tensors: Arrays) -> Bags:
    """A look-up's bags in a query. Raises InputError where an id is none of the table's."""
    layout = lookup.ids.layout
    ids = tensors[lookup.ids.tensor]
    if isinstance(layout, Columns):
        places, bag, bags = _columns(lookup, layout, ids)
    else:
        places, bag, bags = _ragged(layout, tensors[layout.bounds], ids.size)
    found = ids.reshape(-1)[places].astype(np.int64)
    weights = None if lookup.ids.weights is None else tensors[lookup.ids.weights].reshape(-1)[places]
    filled = np.full(found.shape, True) if lookup.ids.padding is None else found != lookup.ids.padding
    rows = np.where(found < 0, found + table.rows, found) if lookup.ids.from_end else found
    bad = filled & ((rows < 0) | (rows >= table.rows))
    if bad.any():
        raise InputError(f"samples: {lookup.name}: id {found[bad][0]} is none of the {table.rows} rows of {table.name}")
    return Bags(rows[filled], bag[filled], None if weights is None else weights[filled], bags)


_Places = tuple[NDArray[np.int64], NDArray[np.int64], int]
"""Where in the ids' tensor ids are, the bag of each, and how many bags there are."""


def _columns(lookup: Lookup, layout: Columns, ids: NDArray[Any]) -> _Places:
    width = layout.width or (ids.shape[-1] if ids.ndim else 1)
    rows = ids.size // width
    bag = layout.bag if layout.width else width
    columns = layout.begin + np.arange(lookup.count * bag)
    places = (np.arange(rows)[:, None] * width + columns).reshape(-1)
    return places, np.repeat(np.arange(rows * lookup.count), bag), rows * lookup.count


def _ragged(layout: Ragged, bounds: NDArray[Any], ids: int) -> _Places:
    told = bounds.reshape(-1).astype(np.int64)
    if layout.kind == "lengths":
        begins = np.concatenate([[0], np.cumsum(told)])
    else:
        begins = np.concatenate([told, [ids]]) if layout.kind == "offsets" else told
    rows = (len(begins) - 1) // layout.blocks
    begins = begins[layout.block * rows : (layout.block + 1) * rows + 1]
    return np.arange(begins[0], begins[-1]), np.repeat(np.arange(rows), np.diff(begins)), rows


class LookedUp:
    """Every look-up of a query, of the rows that it is shown."""

    def __init__(self, model: Model, tensors: Arrays) -> None:
        self._model = model
        self._bags = [read_bags(lookup, model.tables[lookup.table], tensors) for lookup in model.lookups]
        wanted = [self._ids(table) for table in range(len(model.tables))]
        self._wanted = wanted
        self._rows = [
            np.full((len(ids), table.format.dim), np.nan, np.float32)
            for ids, table in zip(wanted, model.tables, strict=True)
        ]

    def _ids(self, table: int) -> NDArray[np.int64]:
        """The ids that look-ups read of a table, ascending, each once."""
        pairs = zip(self._model.lookups, self._bags, strict=True)
        found = [bags.ids for lookup, bags in pairs if lookup.table == table]
        ids: NDArray[np.int64] = np.unique(np.concatenate([np.empty(0, np.int64), *found]))
        return ids

    def see(self, table: int, begin: int, rows: NDArray[np.float32]) -> None:
        """Keep what is needed of a block of rows (n, dim) of a table, the first of which is that of id `begin`."""
        first, end = np.searchsorted(self._wanted[table], [begin, begin + len(rows)])
        self._rows[table][first:end] = rows[self._wanted[table][first:end] - begin]

    def sums(self, place: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """A look-up's vectors, (rows of its group, count * dim); and the sums of what was added up without its sign.

        The latter tell how exact the former can be.
        """
        lookup, bags = self._model.lookups[place], self._bags[place]
        rows = self._rows[lookup.table][np.searchsorted(self._wanted[lookup.table], bags.ids)].astype(np.float64)
        if bags.weights is not None:
            rows *= bags.weights[:, None]
        found = []
        for values in (rows, np.abs(rows)):
            total = np.zeros((bags.bags, rows.shape[1]))
            np.add.at(total, bags.bag, values)
            if lookup.mode == "mean":
                total /= np.maximum(np.bincount(bags.bag, minlength=bags.bags), 1)[:, None]
            found.append(total.reshape(-1, self._model.width(lookup)))
        return found[0], found[1]
