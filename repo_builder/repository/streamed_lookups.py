"""The look-ups of a query, made of the rows that it needs, which are kept while their tables are streamed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repo_builder.errors import InputError
from repo_builder.model.arrays import Arrays
from repo_builder.model.lookups import LookupBags, read_bags
from repo_builder.model.types import Lookup, Model, RowFormat, Table
from triton_backends.kernels.row_formats import decode_rows


class StreamedLookups:
    """Every look-up of a query, of the rows that it is shown while their tables are streamed."""

    def __init__(self, model: Model, tensors: Arrays) -> None:
        self._model = model
        self._bags = [_checked_bags(lookup, model.tables[lookup.table], tensors) for lookup in model.lookups]
        self._wanted = wanted = [self._read(table) for table in range(len(model.tables))]
        self._came = [_unseen(len(ids), table.format) for ids, table in zip(wanted, model.tables, strict=True)]

    def _read(self, table: int) -> NDArray[np.int64]:
        pairs = zip(self._model.lookups, self._bags, strict=True)
        found = [bags.ids for lookup, bags in pairs if lookup.table == table]
        ids: NDArray[np.int64] = np.unique(np.concatenate([np.empty(0, np.int64), *found]))
        return ids

    def see(self, table: int, begin: int, rows: NDArray[Any]) -> None:
        """Keep what is needed of a block of `Source.table_chunks`, the first of whose rows is that of id `begin`."""
        first, end = np.searchsorted(self._wanted[table], [begin, begin + len(rows)])
        self._came[table][first:end] = rows[self._wanted[table][first:end] - begin]

    def sums(self, position: int, rows: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """A look-up's vectors, (rows of its group, count * dim); and the sums of what was added up without its sign.

        The latter tell how exact the former can be. rows: (n, dim), like those of `rows`.
        """
        bags, numbers = self._bags[position], rows.astype(np.float64)
        unsigned = replace(bags, weights=None if bags.weights is None else np.abs(bags.weights))
        return self._vectors(position, bags, numbers), self._vectors(position, unsigned, np.abs(numbers))

    def ids(self, table: int) -> NDArray[np.int64]:
        """The ids that look-ups read of a table (n,), ascending, each once."""
        return self._wanted[table]

    def came(self, table: int) -> NDArray[Any]:
        """The rows of these ids as they were seen: (n, dim) float32, or (n, row_bytes) uint8."""
        return self._came[table]

    def rows(self, table: int) -> NDArray[np.float32]:
        """The numbers (n, dim) of these rows."""
        came, row_format = self._came[table], self._model.tables[table].format
        return came if row_format.dtype == "fp32" else decode_rows(came, row_format.dim, row_format.dtype)

    def vectors(self, position: int, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """A look-up's vectors, (rows of its group, count * dim), of rows (n, dim) like those of `rows`."""
        return self._vectors(position, self._bags[position], rows.astype(np.float64)).astype(np.float32)

    def _vectors(self, position: int, bags: LookupBags, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        lookup = self._model.lookups[position]
        sums = bags.sums(rows[np.searchsorted(self._wanted[lookup.table], bags.ids)])
        divisors = bags.divisors()[:, np.newaxis] if lookup.mode == "mean" else 1
        vectors: NDArray[np.float64] = (sums / divisors).reshape(-1, self._model.width(lookup))
        return vectors


def _unseen(count: int, row_format: RowFormat) -> NDArray[Any]:
    """Rows whose numbers are none: in the other formats too, scale and bias among them."""
    if row_format.dtype == "fp32":
        return np.full((count, row_format.dim), np.nan, np.float32)
    return np.full((count, row_format.row_bytes), 255, np.uint8)


def _checked_bags(lookup: Lookup, table: Table, tensors: Arrays) -> LookupBags:
    """A look-up's bags in samples; raises InputError where an id is none of the table's."""
    bags = read_bags(lookup, table, tensors)
    bad = (bags.ids < 0) | (bags.ids >= table.rows)
    if bad.any():
        told = bags.ids[bad][0] - (table.rows if lookup.ids.from_end and bags.ids[bad][0] < 0 else 0)
        raise InputError(f"samples: {lookup.name}: id {told} is none of the {table.rows} rows of {table.name}")
    return bags
