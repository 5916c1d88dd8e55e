"""Sorting a query's ids to the services that hold their rows, in numpy alone: what the native routers must do.

The proof of a build routes its samples by it, so that what was written is read by other code than serves it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from triton_backends.router.idmap import Integers, find_rows, id_map_bytes
from triton_backends.router.reading import PADDING, Reading, check_others, read_lookups
from triton_backends.router.routing import RoutedLookup, Routing, suffix

DIVISORS = "divisors"


@dataclass(frozen=True, slots=True)
class Routed:
    """A query on its way.

    tensors: what each service gets, and what bags' sums are divided by, as they are on the wire. positions: of an
    un-pooled look-up, by its index, (rows, count, 2): which unit has each id's row, -1 for padding, and which of the
    rows that this unit is asked for.
    """

    tensors: Mapping[str, NDArray[Any]]
    positions: Mapping[int, Integers]


@dataclass(frozen=True, slots=True)
class _Ids:
    """A look-up's ids in a query, padding left out, (n,) each: its row, its bag there, and the weights, or None.

    unit, row: where the id's row lies.
    """

    of_row: Integers
    bag: Integers
    unit: Integers
    row: Integers
    weights: NDArray[np.float32] | None


class Router:
    """Routes queries by the tables' id maps.

    id_maps: the tables' maps one behind another, (words,) uint64; it may be a memory map.
    """

    def __init__(self, routing: Routing, id_maps: NDArray[np.uint64]) -> None:
        self.routing = routing
        self.id_maps = id_maps
        self._maps = []
        for table in routing.tables:
            end = table.map_offset + id_map_bytes(table.rows, table.shards)
            if end > id_maps.nbytes:
                raise ValueError(f"idmap.bin: expected {end} bytes for table {table.name}, got {id_maps.nbytes}")
            self._maps.append(id_maps[table.map_offset // 8 : end // 8])

    @classmethod
    def open(cls, folder: Path) -> Router:
        """The router written in `folder`: `router.json` and `idmap.bin`."""
        routing = Routing.open(json.loads((folder / "router.json").read_text(encoding="utf-8")))
        id_maps = folder / "idmap.bin"
        words = np.memmap(id_maps, np.uint64, mode="r") if id_maps.stat().st_size else np.empty(0, np.uint64)
        return cls(routing, words)

    def find(self, table: int, ids: Integers) -> tuple[Integers, Integers]:
        """The shard of each id (n,) of a table, and its row there."""
        return find_rows(self._maps[table], self.routing.tables[table].shards, ids)

    def route(self, inputs: Mapping[str, NDArray[Any]]) -> Routed:
        """Sort a query's ids.

        inputs: by name, all that look-ups read. Raises ValueError where a tensor does not fit, or an id is not of its
        table: then it names table, id and index.
        """
        routing = self.routing
        readings = read_lookups(routing.inputs, routing.tables, routing.lookups, inputs, len(routing.groups))
        check_others(routing.inputs, routing.checked, inputs)
        self._check_ids(readings)
        found = [self._find(reading) for reading in readings]
        rows = {reading.lookup.group: reading.rows for reading in readings}
        asked = [_Asked([], [], np.zeros((rows[unit.group], unit.bags), np.int32)) for unit in routing.units]
        for i, ids in enumerate(found):
            if not self._is_unpooled(routing.lookups[i]):
                self._ask(routing.lookups[i], ids, asked)
        unpooled = [i for i in self._by_group() if self._is_unpooled(routing.lookups[i])]
        seen: dict[tuple[int, int], int] = {}
        positions = {i: self._ask_once(readings[i], found[i], asked, seen) for i in unpooled}
        return Routed({**self._parts(asked), **self._divisors(rows, asked)}, positions)

    def _by_group(self) -> list[int]:
        """The look-ups, group by group."""
        return sorted(range(len(self.routing.lookups)), key=lambda i: self.routing.lookups[i].group)

    def _is_unpooled(self, lookup: RoutedLookup) -> bool:
        return self.routing.units[lookup.shards[0].unit].bags == 0

    def _check_ids(self, readings: Sequence[Reading]) -> None:
        """Un-pooled look-ups one after another; then group by group the others' rows."""
        bad: list[tuple[bool, int, int, int, Reading, int]] = []
        for reading in readings:
            indexes, row, _ = _indexes(reading)
            ids = reading.ids[indexes]
            wrong = ((ids < 0) | (ids >= reading.table.rows)) & ~((ids == PADDING) & bool(reading.lookup.has_padding))
            if wrong.any():
                first, pooled = int(wrong.argmax()), not self._is_unpooled(reading.lookup)
                before = int(row[first]) if pooled else 0
                bad.append((pooled, reading.lookup.group, before, len(bad), reading, int(indexes[first])))
        if bad:
            *_, reading, index = min(bad, key=lambda each: each[:4])
            raise ValueError(reading.bad_id(index))

    def _find(self, reading: Reading) -> _Ids:
        indexes, row, bag = _indexes(reading)
        ids = reading.ids[indexes].astype(np.int64)
        real = ids != PADDING
        lookup = reading.lookup
        shard, local = self.find(lookup.table, ids[real])
        shard[shard >= len(lookup.shards)] = 0  # of a broken map
        bases, units = (np.array([getattr(each, key) for each in lookup.shards]) for key in ("base", "unit"))
        weights = None if reading.weights is None else reading.weights[indexes][real]
        return _Ids(row[real], bag[real], units[shard], bases[shard] + local, weights)

    def _ask(self, lookup: RoutedLookup, ids: _Ids, asked: Sequence[_Asked]) -> None:
        """Add a look-up's bags to its units."""
        for unit, first_bag in {shard.unit: shard.place for shard in reversed(lookup.shards)}.items():
            mine = ids.unit == unit
            asked[unit].rows.append((ids.of_row[mine], ids.row[mine].astype(np.int32)))
            if ids.weights is not None:
                asked[unit].weights.append(ids.weights[mine])
            np.add.at(asked[unit].lengths, (ids.of_row[mine], first_bag + ids.bag[mine]), 1)

    def _ask_once(
        self, reading: Reading, ids: _Ids, asked: Sequence[_Asked], seen: dict[tuple[int, int], int]
    ) -> Integers:
        """Add an un-pooled look-up's rows to its units, each of these once; returns its ids' positions.

        seen: (unit, row) -> which of the unit's rows that is.
        """
        positions = np.full((reading.rows, reading.lookup.count, 2), -1)
        counts = {unit: sum(len(rows) for _, rows in asked[unit].rows) for unit in set(ids.unit.tolist())}
        new: dict[int, list[int]] = {unit: [] for unit in counts}
        lists = (each.tolist() for each in (ids.of_row, ids.bag, ids.unit, ids.row))
        for of_row, bag, unit, row in zip(*lists, strict=True):
            if (unit, row) not in seen:
                seen[unit, row] = counts[unit] + len(new[unit])
                new[unit].append(row)
            positions[of_row, bag] = unit, seen[unit, row]
        for unit, rows in new.items():
            asked[unit].rows.append((np.zeros(len(rows), np.int64), np.array(rows, np.int32)))
        return positions

    def _parts(self, asked: Sequence[_Asked]) -> dict[str, NDArray[Any]]:
        """The units of a service and group one after another."""
        parts: dict[str, NDArray[Any]] = {}
        units = self.routing.units
        for service, group in dict.fromkeys((unit.service, unit.group) for unit in units):
            mine = [u for u, unit in enumerate(units) if (unit.service, unit.group) == (service, group)]
            weighted = [asked[u].all_weights for u in mine if units[u].weighted]
            name, end = self.routing.services[service].name, suffix(group)
            parts[f"{name}_ids{end}"] = np.concatenate([asked[u].ids for u in mine])[None]
            parts[f"{name}_lengths{end}"] = np.concatenate([asked[u].all_lengths for u in mine])[None]
            if weighted:
                parts[f"{name}_weights{end}"] = np.concatenate(weighted)[None]
        return parts

    def _divisors(self, rows: Mapping[int, int], asked: Sequence[_Asked]) -> dict[str, NDArray[Any]]:
        """(rows, bags of all look-ups) a group with means: a bag's ids where its look-up is one, else 1."""
        divisors: dict[str, NDArray[Any]] = {}
        for group, count in sorted(rows.items()):
            lookups = [lookup for lookup in self.routing.lookups if lookup.group == group]
            if not any(lookup.mean for lookup in lookups):
                continue
            counts = [np.zeros((count, lookup.count), np.int64) for lookup in lookups]
            for lookup, total in zip(lookups, counts, strict=True):
                counted = lookup.mean and not self._is_unpooled(lookup)
                for unit, begin in {s.unit: s.place for s in reversed(lookup.shards) if counted}.items():
                    total += asked[unit].lengths[:, begin : begin + lookup.count]
            divisors[DIVISORS + suffix(group)] = np.maximum(np.hstack(counts), 1).astype(np.float32)
        return divisors


@dataclass(frozen=True, slots=True, eq=False)
class _Asked:
    """What a unit is asked for: (row of the query, row of the unit's matrix) and weights, a look-up after another.

    lengths: (rows, bags) int32.
    """

    rows: list[tuple[Integers, NDArray[np.int32]]]
    weights: list[NDArray[np.float32]]
    lengths: NDArray[np.int32]

    @property
    def _order(self) -> Integers:
        """Row by row of the query, and look-up by look-up in each."""
        return np.argsort(np.concatenate([np.empty(0, np.int64), *(row for row, _ in self.rows)]), kind="stable")

    @property
    def ids(self) -> NDArray[np.int32]:
        ids: NDArray[np.int32] = np.concatenate([np.empty(0, np.int32), *(ids for _, ids in self.rows)])
        return np.take(ids, self._order)

    @property
    def all_weights(self) -> NDArray[np.float32]:
        return np.take(np.concatenate([np.empty(0, np.float32), *self.weights]), self._order)

    @property
    def all_lengths(self) -> NDArray[np.int32]:
        """Of rows as they are one number: how many."""
        return self.lengths.reshape(-1) if self.lengths.shape[1] else np.array([self.ids.size], np.int32)


def _indexes(reading: Reading) -> tuple[Integers, Integers, Integers]:
    """Of each of a look-up's ids: its index in the ids that were read, its row in the query, its bag in the row."""
    if reading.starts is None:
        bags, each = reading.lookup.count, reading.bag
        index = np.arange(reading.rows)[:, None] * reading.stride + np.arange(bags * each)
        row = np.repeat(np.arange(reading.rows), bags * each)
        return index.reshape(-1), row, np.tile(np.repeat(np.arange(bags), each), reading.rows)
    index = np.arange(reading.starts[0], reading.starts[-1])
    row = np.repeat(np.arange(reading.rows), np.diff(reading.starts))
    return index, row, np.zeros(index.shape, np.int64)
