"""Routers over tables of any sizes, tiered: shard s of every table lies in service s."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from triton_backends.router.idmap import build_id_map
from triton_backends.router.routing import Placement, RoutedService, RoutedTable, Router


@dataclass(frozen=True)
class Tiered:
    """What a router is made of, and the shard of each row of each table."""

    tables: list[RoutedTable]
    services: list[RoutedService]
    id_maps: np.ndarray
    shard_of_rows: list[np.ndarray]

    def router(self) -> Router:
        return Router(self.tables, self.services, self.id_maps)

    def write(self, folder: Path) -> None:
        """The files of a router's version folder."""
        folder.mkdir(parents=True, exist_ok=True)
        description = {"tables": [asdict(t) for t in self.tables], "services": [asdict(s) for s in self.services]}
        (folder / "router.json").write_text(json.dumps(description, indent=1) + "\n")
        self.id_maps.tofile(folder / "idmap.bin")


def make_tiered(rng: np.random.Generator, shapes: list[tuple[int, int, int]]) -> Tiered:
    """Tables of (rows, pooling, shards); which row lies in which shard is drawn."""
    most = max(shards for *_, shards in shapes)
    services = [RoutedService(f"tier{s}", sum(s < shards for *_, shards in shapes)) for s in range(most)]
    filled = [0] * most
    tables, maps, shard_of_rows = [], [], []
    for t, (rows, pooling, shards) in enumerate(shapes):
        shard_of_row = rng.integers(0, shards, rows).astype(np.uint8)
        places = [sum(s < other for *_, other in shapes[:t]) for s in range(shards)]
        placements = tuple(Placement(s, filled[s], places[s]) for s in range(shards))
        offset = sum(each.nbytes for each in maps)
        tables.append(RoutedTable(f"t{t}", rows, pooling, offset, placements))
        maps.append(build_id_map(shard_of_row, shards).reshape(-1))
        for s in range(shards):
            filled[s] += int((shard_of_row == s).sum())
        shard_of_rows.append(shard_of_row)
    return Tiered(tables, services, np.concatenate(maps), shard_of_rows)


def draw_indices(rng: np.random.Generator, tables: list[RoutedTable], batch: int) -> np.ndarray:
    """Ids of all tables side by side (batch, columns), -1 among them."""
    return np.hstack([rng.integers(-1, table.rows, (batch, table.pooling)) for table in tables])
