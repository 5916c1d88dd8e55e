"""Routers of a DLRM's form, tiered: shard s of every table lies in service s.

One tensor holds all ids, a table's columns after the other's, -1 for none.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from triton_backends.router.idmap import build_id_map
from triton_backends.router.router import Router
from triton_backends.router.routing import (
    RoutedGroup,
    RoutedLookup,
    RoutedService,
    RoutedShard,
    RoutedTable,
    RoutedUnit,
    Routing,
)


@dataclass(frozen=True)
class Tiered:
    """What a router is made of, and the shard of each row of each table."""

    routing: Routing
    id_maps: np.ndarray
    shard_of_rows: list[np.ndarray]

    @property
    def tables(self) -> Sequence[RoutedTable]:
        return self.routing.tables

    @property
    def lookups(self) -> Sequence[RoutedLookup]:
        return self.routing.lookups

    @property
    def services(self) -> Sequence[RoutedService]:
        return self.routing.services

    def router(self) -> Router:
        return Router(self.routing, self.id_maps)

    def write(self, folder: Path) -> None:
        """The files of a router's version folder."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "router.json").write_text(json.dumps(self.routing.document(), indent=1) + "\n")
        self.id_maps.tofile(folder / "idmap.bin")


def columns_lookup(
    name: str, table: int, begin: int, bag: int, width: int, shards: Sequence[RoutedShard], mean: int = 0
) -> RoutedLookup:
    """A DLRM's look-up: columns of one matrix of ids, -1 for none."""
    return RoutedLookup(name, table, 0, 1, mean, 0, width, begin, bag, -1, 0, 0, 1, -1, 1, -1, 0, tuple(shards))


def dlrm_routing(
    shapes: Sequence[tuple[str, int, int]],
    shards: Sequence[Sequence[RoutedShard]],
    offsets: Sequence[int],
    bags: Sequence[int],
) -> Routing:
    """Tables of (name, rows, pooling); the shards of each, where their id maps begin, and each service's bags."""
    width = sum(pooling for *_, pooling in shapes)
    begins = np.cumsum([0, *(pooling for *_, pooling in shapes)])
    return Routing(
        ["dense"],
        ["indices"],
        [RoutedTable(n, rows, at, len(s)) for (n, rows, _), at, s in zip(shapes, offsets, shards, strict=True)],
        [
            columns_lookup(name, t, int(begins[t]), pooling, width, shards[t])
            for t, (name, _, pooling) in enumerate(shapes)
        ],
        [RoutedUnit(k, 0, count) for k, count in enumerate(bags)],
        [RoutedService(f"tier{k}") for k in range(len(bags))],
        [RoutedGroup("batch")],
    )


def make_tiered(rng: np.random.Generator, shapes: list[tuple[int, int, int]]) -> Tiered:
    """Tables of (rows, pooling, shards); which row lies in which shard is drawn."""
    most = max(shards for *_, shards in shapes)
    bags = [sum(s < shards for *_, shards in shapes) for s in range(most)]
    filled = [0] * most
    placed, offsets, maps, shard_of_rows = [], [], [], []
    for t, (rows, _, shards) in enumerate(shapes):
        shard_of_row = rng.integers(0, shards, rows).astype(np.uint8)
        places = [sum(s < other for *_, other in shapes[:t]) for s in range(shards)]
        placed.append([RoutedShard(s, filled[s], places[s]) for s in range(shards)])
        offsets.append(sum(each.nbytes for each in maps))
        maps.append(build_id_map(shard_of_row, shards).reshape(-1))
        for s in range(shards):
            filled[s] += int((shard_of_row == s).sum())
        shard_of_rows.append(shard_of_row)
    names = [(f"t{t}", rows, pooling) for t, (rows, pooling, _) in enumerate(shapes)]
    return Tiered(dlrm_routing(names, placed, offsets, bags), np.concatenate(maps), shard_of_rows)


def draw_indices(rng: np.random.Generator, tiered: Tiered, batch: int) -> np.ndarray:
    """Ids of all tables side by side (batch, columns), -1 among them."""
    return np.hstack(
        [rng.integers(-1, tiered.tables[lookup.table].rows, (batch, lookup.bag)) for lookup in tiered.lookups]
    )
