"""What a query's tensors hold for each look-up: how many rows, and where each bag's ids are. Trusts no number."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from triton_backends.router.routing import ENDS, LENGTHS, OFFSETS, CheckedIds, RoutedLookup, RoutedTable

PADDING = -1  # among ids that were read
MAX_ROWS = 4096  # of the first group
MAX_OTHER_ROWS = 1 << 20


@dataclass(frozen=True, slots=True)
class Reading:
    """A look-up's ids in a query, such that PADDING alone stands for none.

    ids: (nnz,), a row's after those of the row before; weights: (nnz,) or None. Bags of one size: `bag` ids, and
    `stride` from a row's first to the next one's; else starts: (rows + 1,) int64, where each row's one bag begins.
    first: the index of ids[0] in the tensor.
    """

    lookup: RoutedLookup
    table: RoutedTable
    tensor: str
    rows: int
    ids: NDArray[Any]
    weights: NDArray[np.float32] | None
    starts: NDArray[np.int64] | None
    stride: int
    bag: int
    first: int

    def bad_id(self, index: int) -> str:
        """What is wrong with the id at an index of `ids`."""
        width = self.stride if self.starts is None else None
        return bad_id(self.lookup, self.table, self.tensor, width, int(self.ids[index]), self.first + index)


def label(lookup: RoutedLookup, table: RoutedTable) -> str:
    """How a look-up is called in errors."""
    return f"table {table.name}" if table.name == lookup.name else f"table {table.name}: look-up {lookup.name}"


def bad_id(lookup: RoutedLookup, table: RoutedTable, tensor: str, width: int | None, bad: int, index: int) -> str:
    """An id that is none of the table's. index: in the tensor; width: of its rows, if it has any."""
    least, padding = -table.rows if lookup.from_end else 0, lookup.padding if lookup.has_padding else None
    return _out_of_range(label(lookup, table), tensor, width, bad, index, least, table.rows, padding)


def _out_of_range(
    told: str, tensor: str, width: int | None, bad: int, index: int, least: int, rows: int, padding: int | None
) -> str:
    at = f"at index {index}" if width is None else f"in row {index // width}, column {index % width}"
    empty = "" if padding is None else f", or {padding} for an empty slot"
    return f"{told}: id {bad} {at} of {tensor} is out of range; expected {least} to {rows - 1}{empty}"


def check_others(names: Sequence[str], checked: Sequence[CheckedIds], inputs: Mapping[str, NDArray[Any]]) -> None:
    """Raise ValueError where ids that are not routed are none of their tables'."""
    for each in checked:
        name = names[each.ids]
        ids = inputs[name].reshape(-1, each.width)[:, each.begin : each.begin + each.columns]
        bad = np.argwhere(((ids < 0) | (ids >= each.rows)) & (ids != each.padding))
        if bad.size:
            row, column = bad[0].tolist()
            index = row * each.width + each.begin + column
            told = f"table {each.name}"
            raise ValueError(
                _out_of_range(told, name, each.width, int(ids[row, column]), index, 0, each.rows, each.padding)
            )


def read_lookups(
    names: Sequence[str],
    tables: Sequence[RoutedTable],
    lookups: Sequence[RoutedLookup],
    inputs: Mapping[str, NDArray[Any]],
    groups: int,
) -> list[Reading]:
    """What each look-up reads in a query. Raises ValueError where tensors do not fit each other."""
    tensors = [np.ascontiguousarray(inputs[name]) for name in names]
    rows = _group_rows(names, lookups, tensors, groups)
    known: dict[tuple[int, int, int], NDArray[np.int64]] = {}
    return [_read(names, tables[lookup.table], lookup, tensors, rows[lookup.group], known) for lookup in lookups]


def _group_rows(
    names: Sequence[str], lookups: Sequence[RoutedLookup], tensors: Sequence[NDArray[Any]], groups: int
) -> list[int]:
    """The number of rows of each group, on which its look-ups must agree."""
    first: dict[int, tuple[str, int]] = {}
    for lookup in lookups:
        rows = _rows(names, lookup, tensors)
        name = names[lookup.ids if lookup.kind == 0 else lookup.bounds]
        told, others = first.setdefault(lookup.group, (name, rows))
        if rows != others:
            raise ValueError(f"{told}, {name}: expected the same number of rows in each, got {others} and {rows}")
    for group in range(groups):
        name, rows = first[group]
        most = MAX_OTHER_ROWS if group else MAX_ROWS
        if not 1 <= rows <= most:
            raise ValueError(f"{name}: expected 1 to {most} rows, got {rows}")
    return [first[group][1] for group in range(groups)]


def _rows(names: Sequence[str], lookup: RoutedLookup, tensors: Sequence[NDArray[Any]]) -> int:
    """A look-up's number of rows."""
    if lookup.kind == 0:
        shape = tensors[lookup.ids].shape
        rows, width = shape, 1
        while rows and (lookup.width < 0 or width < lookup.width):
            width *= rows[-1]
            rows = rows[:-1]
            if lookup.width < 0 or width == 0:
                break
        if lookup.width >= 0 and width != lookup.width:
            last = shape[-1] if shape else 1
            raise ValueError(f"{names[lookup.ids]}: expected {lookup.width} columns, got {last}")
        return math.prod(rows)
    bags = tensors[lookup.bounds].size - (lookup.kind == ENDS)
    if bags < 0:
        raise ValueError(f"{names[lookup.bounds]}: expected the end of the last bag, got nothing")
    if bags % lookup.blocks:
        raise ValueError(f"{names[lookup.bounds]}: expected {lookup.blocks} blocks of bags, all alike, got {bags} bags")
    return bags // lookup.blocks


def _read(
    names: Sequence[str],
    table: RoutedTable,
    lookup: RoutedLookup,
    tensors: Sequence[NDArray[Any]],
    rows: int,
    known: dict[tuple[int, int, int], NDArray[np.int64]],
) -> Reading:
    tensor = tensors[lookup.ids]
    flat = tensor.reshape(-1)
    weights = None
    if lookup.weights >= 0:
        weights = _weights(names[lookup.weights], tensors[lookup.weights].reshape(-1), names[lookup.ids], flat.size)
    if lookup.kind == 0:
        bag = lookup.bag if lookup.width >= 0 else (tensor.shape[-1] if tensor.shape else 1)
        width = lookup.width if lookup.width >= 0 else bag
        begin = lookup.begin
        ids = flat[begin:]
        if _needs_change(lookup):
            changed = flat.copy()
            taken = changed.reshape(rows, width)[:, begin : begin + lookup.count * bag]
            taken[:] = _changed(names, table, lookup, taken, begin, width)
            ids = changed[begin:]
        shifted = None if weights is None else weights[begin:]
        return Reading(lookup, table, names[lookup.ids], rows, ids, shifted, None, width, bag, begin)
    key = lookup.bounds, lookup.kind, lookup.ids
    if key not in known:
        known[key] = _starts(names, table, lookup, tensors[lookup.bounds].reshape(-1), flat.size)
    starts = known[key][lookup.block * rows : (lookup.block + 1) * rows + 1]
    ids = flat
    if _needs_change(lookup):
        ids = flat.copy()
        first, end = int(starts[0]), int(starts[-1])
        ids[first:end] = _changed(names, table, lookup, flat[first:end], first, None)
    return Reading(lookup, table, names[lookup.ids], rows, ids, weights, starts, 0, 0, 0)


def _weights(name: str, weights: NDArray[Any], ids: str, count: int) -> NDArray[np.float32]:
    if weights.size != count:
        raise ValueError(f"{name}: expected {count} numbers, one for each in {ids}, got {weights.size}")
    bad = np.flatnonzero(~np.isfinite(weights))
    if bad.size:
        raise ValueError(f"{name}: expected finite numbers, got {weights[bad[0]]} at index {bad[0]}")
    return weights


def _starts(
    names: Sequence[str], table: RoutedTable, lookup: RoutedLookup, bounds: NDArray[Any], count: int
) -> NDArray[np.int64]:
    """Where each bag of a tensor begins, and the last one ends: (bags + 1,) int64, rising, within `count` ids."""
    told, ids = f"{label(lookup, table)}: {names[lookup.bounds]}", names[lookup.ids]
    if lookup.kind == LENGTHS:
        bad = np.flatnonzero((bounds < 0) | (bounds > count))
        if bad.size:
            raise ValueError(f"{told}: expected lengths from 0 to {count}, got {bounds[bad[0]]} at index {bad[0]}")
        starts = np.concatenate([[0], np.cumsum(bounds, dtype=np.int64)])
        if starts[-1] != count:
            raise ValueError(f"{told}: expected lengths that add up to {count}, the ids in {ids}, got {starts[-1]}")
        return starts
    if bounds[0] != 0:
        raise ValueError(f"{told}: expected offsets that begin at 0, got {bounds[0]}")
    before = 0
    for index, bound in enumerate(bounds.tolist()):
        if not before <= bound <= count:
            raise ValueError(
                f"{told}: expected offsets that rise to at most {count}, the ids in {ids}, got {bound} at index {index}"
            )
        before = bound
    last = [count] if lookup.kind == OFFSETS else []
    return np.concatenate([bounds, last]).astype(np.int64)


def _needs_change(lookup: RoutedLookup) -> bool:
    """Whether its ids are not yet rows of its table, or PADDING."""
    return bool(lookup.from_end or (lookup.has_padding and lookup.padding != -1))


def _changed(
    names: Sequence[str],
    table: RoutedTable,
    lookup: RoutedLookup,
    ids: NDArray[Any],
    first: int,
    width: int | None,
) -> NDArray[Any]:
    """Ids as rows of the table, and PADDING. first: the index of the first one in its tensor, of rows of `width`."""
    padding = (ids == lookup.padding) & bool(lookup.has_padding)
    rows = np.where((ids < 0) & bool(lookup.from_end), ids + table.rows, ids)
    bad = np.argwhere(((rows < 0) | (rows >= table.rows)) & ~padding)
    if bad.size:
        at = tuple(bad[0].tolist())
        index = first + (at[0] if width is None else at[0] * width + at[1])
        raise ValueError(bad_id(lookup, table, names[lookup.ids], width, int(ids[at]), index))
    return np.where(padding, -1, rows)
