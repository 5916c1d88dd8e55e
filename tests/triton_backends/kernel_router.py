"""A router around the C kernel, so that it is seen in this process, on any processor."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from ctypes import POINTER, byref, c_int64, c_void_p, pointer
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from triton_backends.kernels import LIBRARY, MAX_SHARDS
from triton_backends.router.idmap import id_map_bytes, shard_bits
from triton_backends.router.reading import Reading, read_lookups
from triton_backends.router.routing import RoutedLookup, RoutedUnit, Routing, suffix

ROOM_BEHIND = 8
"""Numbers that the kernel may write behind a unit's ids, as kernels.h says."""

_UNTOUCHED = -77
_FENCE = 9  # numbers behind those


class RouteLookup(ctypes.Structure):
    """`Lookup` of kernels.h: a table's id map, and where its shards' rows and the look-up's bags lie."""

    _fields_ = (
        ("map", c_void_p),
        ("rows", c_int64),
        ("bits", c_int64),
        ("count", c_int64),
        ("padded", c_int64),
        ("base", c_int64 * MAX_SHARDS),
        ("unit", c_int64 * MAX_SHARDS),
        ("first_bag", c_int64 * MAX_SHARDS),
    )


class RouteRead(ctypes.Structure):
    """`Read` of kernels.h: a look-up's ids in a query."""

    _fields_ = (
        ("lookup", POINTER(RouteLookup)),
        ("ids", c_void_p),
        ("weights", c_void_p),
        ("starts", c_void_p),
        ("first", c_int64),
        ("id_bytes", c_int64),
        ("stride", c_int64),
        ("bag", c_int64),
    )


class RouteUnit(ctypes.Structure):
    """`Unit` of kernels.h: where a unit's ids, weights and lengths are written."""

    _fields_ = (
        ("ids", c_void_p),
        ("weights", c_void_p),
        ("lengths", c_void_p),
        ("bags", c_int64),
        ("count", c_int64),
        ("index", c_void_p),
    )


route = ctypes.CDLL(str(LIBRARY)).elasticrec_route
route.argtypes = (POINTER(RouteRead), c_int64, c_int64, c_int64, POINTER(RouteUnit), POINTER(c_int64))
route.restype = c_int64


class KernelRouter:
    """Routes queries of pooled look-ups by the tables' id maps.

    id_maps: the tables' maps one behind another, (words,) uint64; it may be a memory map, shared by all instances.
    once: the kernel leaves out bags that are the row before's; they are put in again here.
    """

    def __init__(self, routing: Routing, id_maps: NDArray[np.uint64], *, once: bool = False) -> None:
        self.routing = routing
        self._once = once
        self._id_maps = id_maps  # the kernel keeps its address only
        self._lookups = [self._route_lookup(lookup) for lookup in routing.lookups]
        self._pointers = [pointer(lookup) for lookup in self._lookups]
        indexes = range(len(routing.lookups))
        # the look-ups of each group, and those that have rows in each unit
        self._members = [[i for i in indexes if routing.lookups[i].group == g] for g in range(len(routing.groups))]
        units_of = [{shard.unit for shard in lookup.shards} for lookup in routing.lookups]
        self._readers = [[i for i in indexes if u in units_of[i]] for u in range(len(routing.units))]

    def route(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """What each service gets of a query: tensors as they are on the wire.

        inputs: by name, all that look-ups read. Raises ValueError where a tensor does not fit, or an id is not of its
        table: then it names table, id and index.
        """
        routing = self.routing
        readings = read_lookups(routing.inputs, routing.tables, routing.lookups, inputs, len(routing.groups))
        rows = [readings[members[0]].rows for members in self._members]
        units = [self._room(u, rows[unit.group], readings) for u, unit in enumerate(routing.units)]
        routed = (RouteUnit * len(units))(*(unit.routed for unit in units))
        for members in self._members:
            self._route_group(members, readings, routed)
        for unit, filled in zip(units, routed, strict=True):
            unit.count = filled.count
            assert (unit.ids[-_FENCE:] == _UNTOUCHED).all()
        return self._parts([unit.written_out() for unit in units])

    def _route_group(self, members: Sequence[int], readings: Sequence[Reading], units: Any) -> None:
        reads = (RouteRead * len(members))(*(self._read(i, readings[i]) for i in members))
        index = c_int64()
        bad = route(reads, len(reads), readings[members[0]].rows, self._once, units, byref(index))
        if bad >= 0:
            raise ValueError(readings[members[bad]].bad_id(index.value))

    def _read(self, lookup: int, reading: Reading) -> RouteRead:
        ids, weights, starts = reading.ids, reading.weights, reading.starts
        return RouteRead(
            self._pointers[lookup],
            ids.ctypes.data,
            None if weights is None else weights.ctypes.data,
            None if starts is None else starts.ctypes.data,
            0,
            ids.itemsize,
            reading.stride,
            reading.bag,
        )

    def _room(self, number: int, rows: int, readings: Sequence[Reading]) -> _Room:
        unit = self.routing.units[number]
        ids = sum(_ids_of(readings[i]) for i in self._readers[number])
        weights = np.empty(ids if unit.weighted else 0, np.float32)
        return _Room(
            unit,
            np.full(ids + ROOM_BEHIND + _FENCE, _UNTOUCHED, np.int32),
            weights,
            np.zeros(rows * unit.bags, np.int32),
        )

    def _parts(self, units: Sequence[_Room]) -> dict[str, NDArray[Any]]:
        """The units of a service and group one after another."""
        parts: dict[str, NDArray[Any]] = {}
        held = dict.fromkeys((unit.unit.service, unit.unit.group) for unit in units)
        for service, group in held:
            mine = [unit for unit in units if (unit.unit.service, unit.unit.group) == (service, group)]
            name, end = self.routing.services[service].name, suffix(group)
            parts[f"{name}_ids{end}"] = _joined([unit.ids[: unit.count] for unit in mine])
            parts[f"{name}_lengths{end}"] = _joined([unit.lengths for unit in mine])
            weighted = [unit.weights[: unit.count] for unit in mine if unit.unit.weighted]
            if weighted:
                parts[f"{name}_weights{end}"] = _joined(weighted)
        return parts

    def _route_lookup(self, lookup: RoutedLookup) -> RouteLookup:
        table = self.routing.tables[lookup.table]
        bits = shard_bits(table.shards)
        start = self._id_maps.ctypes.data + table.map_offset
        routed = RouteLookup(start, table.rows, bits, lookup.count, int(lookup.has_padding))
        for i in range(1 << bits):  # a broken map may name a shard that is not there: then the first
            shard = lookup.shards[i if i < len(lookup.shards) else 0]
            routed.base[i], routed.unit[i], routed.first_bag[i] = shard.base, shard.unit, shard.place
        end = table.map_offset + id_map_bytes(table.rows, table.shards)
        if end > self._id_maps.nbytes:
            raise ValueError(f"idmap.bin: expected {end} bytes for table {table.name}, got {self._id_maps.nbytes}")
        return routed


def _ids_of(reading: Reading) -> int:
    """Ids that a look-up has."""
    if reading.starts is None:
        return reading.rows * reading.lookup.count * reading.bag
    return int(reading.starts[-1] - reading.starts[0])


def _joined(parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """One after another, (1, n); a single one is not copied."""
    return (parts[0] if len(parts) == 1 else np.concatenate(parts))[None]


@dataclass(slots=True)
class _Room:
    """Where a unit's ids, weights and lengths are written, and how many ids there are then."""

    unit: RoutedUnit
    ids: NDArray[np.int32]
    weights: NDArray[np.float32]
    lengths: NDArray[np.int32]
    count: int = 0

    @property
    def routed(self) -> RouteUnit:
        return RouteUnit(
            self.ids.ctypes.data, self.weights.ctypes.data, self.lengths.ctypes.data, self.unit.bags, self.count
        )

    def written_out(self) -> _Room:
        """With the bags that are the row before's, whose lengths are -1."""
        bags: list[range] = []
        begin = 0
        for i, length in enumerate(self.lengths.tolist()):
            bags.append(bags[i - self.unit.bags] if length < 0 else range(begin, begin + length))
            begin += max(length, 0)
        assert begin == self.count
        places = np.fromiter(chain.from_iterable(bags), np.int64)
        weights = self.weights[places] if self.unit.weighted else self.weights
        lengths = np.array([len(bag) for bag in bags], np.int32)
        return _Room(self.unit, self.ids[places], weights, lengths, places.size)
