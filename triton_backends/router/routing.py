"""Sorting a query's ids to the services that hold their rows. Needs numpy alone; knows nothing of Triton."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from triton_backends.kernels import RouteService, RouteTable, route
from triton_backends.router.idmap import id_map_bytes, shard_bits

Indices = NDArray[np.int64] | NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a shard of a table lies: its service, its first row in the service's matrix, its bag in `lengths`."""

    service: int
    base: int
    place: int


@dataclass(frozen=True, slots=True)
class RoutedTable:
    """A table as the router sees it; `map_offset` is where its id map begins in the map file, in bytes.

    mean: 1 where its bags are averaged.
    """

    name: str
    rows: int
    pooling: int
    map_offset: int
    shards: tuple[Placement, ...]
    mean: int = 0


@dataclass(frozen=True, slots=True)
class RoutedService:
    """An embedding service and the number of tables of which it holds a shard."""

    name: str
    tables: int


class Router:
    """Routes queries by the tables' id maps.

    id_maps: the tables' maps one behind another, (words,) uint64; it may be a memory map, shared by all instances.
    """

    def __init__(
        self, tables: Sequence[RoutedTable], services: Sequence[RoutedService], id_maps: NDArray[np.uint64]
    ) -> None:
        self.tables = tuple(tables)
        self.services = tuple(services)
        self.columns = sum(table.pooling for table in tables)
        self._id_maps = id_maps  # the kernel keeps its address only
        self._tables = (RouteTable * len(tables))(*(self._route_table(table) for table in tables))
        self._column_ends = np.cumsum([table.pooling for table in tables])
        # how many of a query row's columns can land in each service
        self._capacity = [
            sum(table.pooling for table in tables if any(shard.service == k for shard in table.shards))
            for k in range(len(services))
        ]

    @classmethod
    def open(cls, folder: Path) -> Router:
        """The router written in `folder`: `router.json` and `idmap.bin`."""
        description: dict[str, Any] = json.loads((folder / "router.json").read_text(encoding="utf-8"))
        tables = [
            RoutedTable(**{**table, "shards": tuple(Placement(**shard) for shard in table["shards"])})
            for table in description["tables"]
        ]
        services = [RoutedService(**service) for service in description["services"]]
        id_maps = folder / "idmap.bin"
        words = np.memmap(id_maps, np.uint64, mode="r") if id_maps.stat().st_size else np.empty(0, np.uint64)
        return cls(tables, services, words)

    def route(self, indices: Indices) -> list[tuple[NDArray[np.int32], NDArray[np.int32]]]:
        """For each service, the rows of its matrix that a query needs, and how many of them each bag takes.

        indices: (batch, columns) int64 or int32, the tables' columns side by side, -1 = an empty slot.
        Returns (ids (nnz,) int32, lengths (batch * tables of the service,) int32) a service; bags go query row by
        query row, in it table by table. Raises ValueError naming row, table and id where an id is not of its table.
        """
        if not indices.flags.c_contiguous:
            raise ValueError("indices: expected a C-contiguous array")
        batch = len(indices)
        ids = [np.empty(batch * capacity, np.int32) for capacity in self._capacity]
        lengths = [np.zeros(batch * service.tables, np.int32) for service in self.services]
        outputs = (RouteService * len(self.services))(
            *(
                RouteService(i.ctypes.data, n.ctypes.data, service.tables, 0)
                for i, n, service in zip(ids, lengths, self.services, strict=True)
            )
        )
        bad = route(self._tables, len(self.tables), indices.ctypes.data, indices.itemsize, batch, outputs)
        if bad >= 0:
            raise ValueError(self._describe(indices, bad))
        return [(i[: out.count], n) for i, n, out in zip(ids, lengths, outputs, strict=True)]

    def _describe(self, indices: Indices, place: int) -> str:
        row, column = divmod(place, self.columns)
        table = self.tables[int(np.searchsorted(self._column_ends, column, side="right"))]
        return (
            f"table {table.name}: id {indices[row, column]} in row {row}, column {column} of indices is out of range; "
            f"expected 0 to {table.rows - 1}, or -1 for an empty slot"
        )

    def _route_table(self, table: RoutedTable) -> RouteTable:
        bits = shard_bits(len(table.shards))
        routed = RouteTable(self._id_maps.ctypes.data + table.map_offset, table.rows, table.pooling, bits)
        for i in range(1 << bits):  # a broken map may name a shard that is not there: then the first
            shard = table.shards[i if i < len(table.shards) else 0]
            routed.base[i], routed.service[i], routed.place[i] = shard.base, shard.service, shard.place
        end = table.map_offset + id_map_bytes(table.rows, len(table.shards))
        if end > self._id_maps.nbytes:
            raise ValueError(f"idmap.bin: expected {end} bytes for table {table.name}, got {self._id_maps.nbytes}")
        return routed
