"""Models with any look-ups, cut into services as plans may be: their files, and what PyTorch makes of their queries."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from triton_backends.embedding_shard.shard import ALIGNMENT, Held, HeldGroup, HeldMatrix, HeldUnit
from triton_backends.router.idmap import build_id_map
from triton_backends.router.router import Router
from triton_backends.router.routing import (
    ENDS,
    LENGTHS,
    OFFSETS,
    RoutedGroup,
    RoutedLookup,
    RoutedService,
    RoutedShard,
    RoutedTable,
    RoutedUnit,
    Routing,
    suffix,
)

Query = dict[str, np.ndarray]
FARAWAY = 10**6  # an id that no table has


@dataclass(frozen=True)
class Source:
    """A tensor of ids of one group, and whose they are: a region is a run of columns, or a block of ragged bags.

    kind: 0 a matrix, else of the bounds. width: of the matrix, -1 where it varies.
    """

    group: int
    kind: int
    width: int
    dtype: type
    weighted: bool
    regions: list["Region"] = field(default_factory=list)


@dataclass(frozen=True)
class Region:
    """Ids that one or more look-ups read: below `rows`, `padding` among them where that is not None."""

    begin: int
    count: int
    bag: int
    rows: int
    padding: int | None
    from_end: bool


@dataclass(frozen=True)
class Drawn:
    """A look-up as it is drawn: where its ids are and what is made of them. unpooled: its rows travel as they are."""

    name: str
    table: int
    source: int
    region: int
    mean: bool
    weighted: bool
    unpooled: bool = False


@dataclass(frozen=True)
class Cut:
    """A model, and how it is cut: tables' rows (rows, dim), the shard of each row, the service of each shard."""

    tables: list[np.ndarray]
    shard_of_rows: list[np.ndarray]
    service_of_shards: list[list[int]]
    sources: list[Source]
    lookups: list[Drawn]
    groups: int
    services: int

    # ---- what is drawn of queries, and what comes of them ----

    def query(self, rng: np.random.Generator, rows: Sequence[int] | None = None) -> Query:
        """All tensors of a query; rows: of each group."""
        rows = rows if rows is not None else rng.integers(1, 6, self.groups).tolist()
        tensors: Query = {}
        for s, source in enumerate(self.sources):
            tensors.update(self._draw(rng, s, source, rows[source.group]))
        return tensors

    def _draw(self, rng: np.random.Generator, s: int, source: Source, rows: int) -> Query:
        if source.kind == 0:
            width = int(rng.integers(0, 7)) if source.width < 0 else source.width
            ids = rng.integers(0, 2**31 - 1, (rows, width))  # what no look-up reads may be anything
            for region in source.regions:
                end = width if source.width < 0 else region.begin + region.count * region.bag
                ids[:, region.begin : end] = _ids(rng, region, (rows, end - region.begin))
            found = {f"ids{s}": shaped(rng, ids.astype(source.dtype), source.width < 0)}
        else:
            blocks = len(source.regions)
            lengths = rng.integers(0, 5, blocks * rows) * rng.integers(0, 2)
            parts = [
                _ids(rng, region, (int(part.sum()),))
                for region, part in zip(source.regions, np.split(lengths, blocks), strict=True)
            ]
            ends = np.cumsum(lengths)
            bounds = {LENGTHS: lengths, OFFSETS: ends - lengths, ENDS: np.concatenate([[0], ends])}[source.kind]
            found = {
                f"ids{s}": np.concatenate(parts).astype(source.dtype),
                f"bounds{s}": bounds.astype(rng.choice([np.int32, np.int64])),
            }
        if source.weighted:
            found[f"weights{s}"] = rng.standard_normal(found[f"ids{s}"].shape).astype(np.float32)
        return found

    def bags(self, lookup: Drawn, query: Query) -> list[tuple[np.ndarray, np.ndarray]]:
        """The rows of the table that each bag takes, and their weights: a bag after the other, row by row."""
        source, region = self.sources[lookup.source], self.sources[lookup.source].regions[lookup.region]
        ids = query[f"ids{lookup.source}"].astype(np.int64)
        weights = query[f"weights{lookup.source}"] if lookup.weighted else np.ones(ids.shape, np.float32)
        if source.kind == 0:
            width = ids.shape[-1] if source.width < 0 else source.width
            rows = ids.size // width if width else int(np.prod(ids.shape[:-1]))
            end = width if source.width < 0 else region.begin + region.count * region.bag
            parts = [each.reshape(rows, width)[:, region.begin : end] for each in (ids, weights)]
            per_row = [np.split(part, region.count, axis=1) for part in parts]
            found = [(per_row[0][c][r], per_row[1][c][r]) for r in range(rows) for c in range(region.count)]
        else:
            bounds = query[f"bounds{lookup.source}"].astype(np.int64)
            ends = {LENGTHS: np.cumsum(bounds), OFFSETS: np.append(bounds[1:], ids.size), ENDS: bounds[1:]}[source.kind]
            cuts = np.split(np.arange(ids.size), ends)[:-1]
            mine = np.split(np.arange(len(ends)), len(source.regions))[lookup.region]
            found = [(ids[cuts[bag]], weights[cuts[bag]]) for bag in mine]
        rows = len(self.tables[lookup.table])
        kept = [(i[i != region.padding], w[i != region.padding]) for i, w in found]
        return [(np.where(i < 0, i + rows, i), w) for i, w in kept]

    def expected(self, query: Query, left_out: Sequence[int] = ()) -> list[np.ndarray]:
        """What PyTorch gives for each look-up: (rows, count * dim). left_out: services whose rows are none."""
        answers = []
        for lookup in self.lookups:
            table = self.tables[lookup.table]
            held = ~np.isin(np.array(self.service_of_shards[lookup.table]), left_out)[self.shard_of_rows[lookup.table]]
            bags = [(ids[held[ids]], weights[held[ids]]) for ids, weights in self.bags(lookup, query)]
            offsets = np.cumsum([0, *(ids.size for ids, _ in bags)])
            found = torch.nn.functional.embedding_bag(
                torch.from_numpy(np.concatenate([ids for ids, _ in bags])),
                torch.from_numpy(table),
                torch.from_numpy(offsets),
                mode="mean" if lookup.mean else "sum",
                per_sample_weights=torch.from_numpy(np.concatenate([w for _, w in bags])) if lookup.weighted else None,
                include_last_offset=True,
            )
            count = self.sources[lookup.source].regions[lookup.region].count
            answers.append(found.numpy().reshape(-1, count * table.shape[1]))
        return answers

    # ---- how it is cut ----

    def members(self, service: int, group: int) -> list[list[int]]:
        """A service's units of a group: the look-ups of each."""
        held = [
            i
            for i, lookup in enumerate(self.lookups)
            if self.sources[lookup.source].group == group and service in self.service_of_shards[lookup.table]
        ]
        kinds = sorted({self._format(i) for i in held})
        return [[i for i in held if self._format(i) == kind] for kind in kinds]

    def _format(self, lookup: int) -> tuple[int, bool, bool]:
        drawn = self.lookups[lookup]
        return -self.tables[drawn.table].shape[1], drawn.weighted, drawn.unpooled

    def bags_of(self, unit: Sequence[int]) -> int:
        """Bags of a unit's row; none where its rows travel as they are."""
        return sum(self.count(i) for i in unit if not self.lookups[i].unpooled)

    def count(self, lookup: int) -> int:
        drawn = self.lookups[lookup]
        return self.sources[drawn.source].regions[drawn.region].count

    def width(self, lookup: int) -> int:
        return self.count(lookup) * self.tables[self.lookups[lookup].table].shape[1]

    def units(self) -> list[tuple[int, int, list[int]]]:
        """(service, group, look-ups) of every unit."""
        services, groups = range(self.services), range(self.groups)
        return [(k, g, unit) for k in services for g in groups for unit in self.members(k, g)]

    def place(self, lookup: int, unit: Sequence[int]) -> int:
        return self.bags_of(unit[: unit.index(lookup)])

    def routing(self) -> tuple[Routing, np.ndarray]:
        """The router's description and its id maps."""
        maps = [
            build_id_map(rows, len(services)).reshape(-1)
            for rows, services in zip(self.shard_of_rows, self.service_of_shards, strict=True)
        ]
        offsets = np.cumsum([0, *(each.nbytes for each in maps)])
        tables = [
            RoutedTable(f"t{t}", len(table), int(offsets[t]), len(self.service_of_shards[t]))
            for t, table in enumerate(self.tables)
        ]
        unread = {
            f"weights{s}"
            for s in range(len(self.sources))
            if not any(i.weighted and i.source == s for i in self.lookups)
        }
        inputs = [name for name in self.query(np.random.default_rng(0)) if name not in unread]
        units = self.units()
        lookups = [self._routed(i, inputs, units) for i in range(len(self.lookups))]
        routed = [RoutedUnit(k, g, self.bags_of(unit), int(self.lookups[unit[0]].weighted)) for k, g, unit in units]
        services = [RoutedService(f"s{k}") for k in range(self.services)]
        groups = [RoutedGroup(f"g{g}") for g in range(self.groups)]
        return Routing([], inputs, tables, lookups, routed, services, groups), np.concatenate(maps)

    def _routed(self, i: int, inputs: list[str], units: list[tuple[int, int, list[int]]]) -> RoutedLookup:
        lookup = self.lookups[i]
        source, region = self.sources[lookup.source], self.sources[lookup.source].regions[lookup.region]
        bases = self.bases(lookup.table)
        shards = []
        for s, service in enumerate(self.service_of_shards[lookup.table]):
            number = next(u for u, (k, _, unit) in enumerate(units) if k == service and i in unit)
            shards.append(RoutedShard(number, bases[s], self.place(i, units[number][2])))
        fixed = source.kind == 0 and source.width >= 0
        return RoutedLookup(
            lookup.name,
            lookup.table,
            source.group,
            region.count,
            int(lookup.mean),
            inputs.index(f"ids{lookup.source}"),
            source.width if fixed else -1,
            region.begin,
            region.bag if fixed else -1,
            inputs.index(f"bounds{lookup.source}") if source.kind else -1,
            source.kind,
            lookup.region if source.kind else 0,
            len(source.regions) if source.kind else 1,
            inputs.index(f"weights{lookup.source}") if lookup.weighted else -1,
            int(region.padding is not None),
            -1 if region.padding is None else region.padding,
            int(region.from_end),
            tuple(shards),
        )

    def _dims(self, service: int) -> list[int]:
        held = {t.shape[1] for t, s in zip(self.tables, self.service_of_shards, strict=True) if service in s}
        return sorted(held, reverse=True)

    def bases(self, table: int) -> list[int]:
        """Where each shard of a table begins in its service's matrix: table after table, shard after shard."""
        found = []
        for shard, service in enumerate(self.service_of_shards[table]):
            before = 0
            for t in range(table + 1):
                if self.tables[t].shape[1] != self.tables[table].shape[1]:
                    continue
                for s, other in enumerate(self.service_of_shards[t]):
                    if other == service and (t, s) < (table, shard):
                        before += int((self.shard_of_rows[t] == s).sum())
            found.append(before)
        return found

    def matrices(self, service: int) -> list[np.ndarray]:
        """A service's rows, a matrix a dim."""
        found = []
        for dim in self._dims(service):
            parts = [
                table[shards == s]
                for table, shards, services in zip(self.tables, self.shard_of_rows, self.service_of_shards, strict=True)
                for s, holder in enumerate(services)
                if holder == service and table.shape[1] == dim
            ]
            found.append(np.vstack(parts))
        return found

    def held(self, service: int, max_rows: int = 4096) -> Held:
        dims = self._dims(service)
        matrices = [HeldMatrix(*matrix.shape) for matrix in self.matrices(service)]
        groups = []
        for g in range(self.groups):
            units = []
            for unit in self.members(service, g):
                spans = [self._span(i) for i in unit]
                dim = self.tables[self.lookups[unit[0]].table].shape[1]
                bags = self.bags_of(unit)
                columns = -1 if -1 in spans else sum(spans)
                units.append(HeldUnit(dims.index(dim), bags, columns, int(self.lookups[unit[0]].weighted)))
            if units:
                groups.append(HeldGroup(g, max_rows, units))
        return Held(matrices, groups)

    def _span(self, lookup: int) -> int:
        drawn = self.lookups[lookup]
        source = self.sources[drawn.source]
        region = source.regions[drawn.region]
        return region.count * region.bag if source.kind == 0 and source.width >= 0 else -1

    # ---- files, and putting together ----

    def router(self) -> Router:
        return Router(*self.routing())

    def write_router(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        routing, id_maps = self.routing()
        (folder / "router.json").write_text(json.dumps(routing.document(), indent=1) + "\n")
        id_maps.tofile(folder / "idmap.bin")

    def write_shard(self, service: int, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "shard.json").write_text(json.dumps(self.held(service).document(), indent=1) + "\n")
        with (folder / "weights.bin").open("wb") as file:
            for matrix in self.matrices(service):
                file.write(bytes(-file.tell() % ALIGNMENT))
                file.write(matrix.tobytes())

    def holders(self) -> list[int]:
        """Services that hold a look-up's rows."""
        return sorted({k for k, _, _ in self.units()})

    def columns(self, service: int, group: int) -> dict[int, int]:
        """Where each look-up's columns begin in a service's sums of a group, but for those of rows as they are."""
        found, column = {}, 0
        for unit in self.members(service, group):
            for i in (each for each in unit if not self.lookups[each].unpooled):
                found[i] = column
                column += self.width(i)
        return found

    def in_group(self, group: int) -> list[int]:
        return [i for i, lookup in enumerate(self.lookups) if self.sources[lookup.source].group == group]

    def joined(self, answers: Mapping[int, Query], outputs: Query, query: Query) -> list[np.ndarray]:
        """Look-ups' vectors of services' answers and the router's outputs to a query."""
        found = []
        divisors, rows = divisors_of(outputs, self.groups), self._rows_of_units(answers, outputs)
        positions = self.router().route(query).positions if any(i.unpooled for i in self.lookups) else {}
        for i, lookup in enumerate(self.lookups):
            group = self.sources[lookup.source].group
            if lookup.unpooled:
                vectors = [
                    rows[u][n] if u >= 0 else 0 * self.tables[lookup.table][0] for u, n in positions[i].reshape(-1, 2)
                ]
                found.append(np.reshape(vectors, (len(positions[i]), -1)))
                continue
            total = sum(
                answers[k][f"sums{suffix(group)}"][:, self.columns(k, group)[i] :][:, : self.width(i)]
                for k in answers
                if i in self.columns(k, group)
            )
            found.append(self.divided(i, np.asarray(total), divisors.get(group)))
        return found

    def _rows_of_units(self, answers: Mapping[int, Query], outputs: Query) -> list[np.ndarray]:
        """The rows (n, dim) that each unit answers as they are."""
        found, left = [], {}
        for k, g, unit in self.units():
            if not self.lookups[unit[0]].unpooled:
                found.append(np.empty((0, 1)))
                continue
            units = self.members(k, g)
            lengths = outputs[f"s{k}_lengths{suffix(g)}"][0]
            alone = sum(self.lookups[each[0]].unpooled for each in units)
            query_rows = (lengths.size - alone) // (sum(map(self.bags_of, units)) or 1)
            ends = np.cumsum([query_rows * self.bags_of(each) or 1 for each in units])
            dim = self.tables[self.lookups[unit[0]].table].shape[1]
            numbers = left.get((k, g), answers[k][f"rows{suffix(g)}"][0])
            mine, left[k, g] = np.split(numbers, [int(lengths[ends[units.index(unit)] - 1]) * dim])
            found.append(mine.reshape(-1, dim))
        assert not any(each.size for each in left.values())
        return found

    def divided(self, lookup: int, sums: np.ndarray, divisors: np.ndarray | None) -> np.ndarray:
        if divisors is None:
            assert not self.lookups[lookup].mean
            return sums
        group = self.in_group(self.sources[self.lookups[lookup].source].group)
        begin = sum(self.count(other) for other in group if other < lookup)
        mine = divisors[:, begin : begin + self.count(lookup)]
        assert self.lookups[lookup].mean or (mine == 1).all()
        return (sums.reshape(len(sums), self.count(lookup), -1) / mine[:, :, None]).reshape(sums.shape)


def shard_inputs(outputs: Mapping[str, np.ndarray], service: str) -> Query:
    """What a service gets of the router's outputs, by its own names."""
    return {name.removeprefix(f"{service}_"): a for name, a in outputs.items() if name.startswith(f"{service}_")}


def in_order(cut: Cut, outputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What a router gives, a bag's ids ascending where two shards of a table lie in one service: then they may come in
    any order, and no plan does that.
    """
    ordered = dict(outputs)
    if all(len(set(services)) == len(services) for services in cut.service_of_shards):
        return ordered
    for name, lengths in outputs.items():
        if "_lengths" not in name:
            continue
        ids, weights = (outputs.get(name.replace("_lengths", kind)) for kind in ("_ids", "_weights"))
        bags = np.repeat(np.arange(lengths.size), lengths[0])
        order = np.lexsort([ids[0], bags])
        ordered[name.replace("_lengths", "_ids")] = ids[:, order]
        if weights is not None:
            ordered[name.replace("_lengths", "_weights")] = np.sort(weights)
    return ordered


def divisors_of(outputs: Mapping[str, np.ndarray], groups: int) -> dict[int, np.ndarray]:
    names = {g: f"divisors{suffix(g)}" for g in range(groups)}
    return {g: outputs[name] for g, name in names.items() if name in outputs}


def shaped(rng: np.random.Generator, ids: np.ndarray, varying: bool) -> np.ndarray:
    """A matrix (rows, width) in a shape of any rank that means the same."""
    rows, width = ids.shape
    left = _factors(rng, rows)
    right = [width] if varying else _factors(rng, width)
    shape = [*left, *right]
    if rng.integers(0, 2):
        shape = [1, *shape]
    if width == 1 and not varying:
        shape = left if rng.integers(0, 2) else [rows, 1]
    return ids.reshape(shape[-8:] if len(shape) > 8 else shape)


def _factors(rng: np.random.Generator, number: int) -> list[int]:
    cuts = [n for n in range(2, number) if number % n == 0]
    if not cuts or rng.integers(0, 2):
        return [number]
    first = int(rng.choice(cuts))
    return [first, number // first]


def _ids(rng: np.random.Generator, region: Region, shape: tuple[int, ...]) -> np.ndarray:
    ids = rng.integers(-region.rows if region.from_end else 0, region.rows, shape)
    if region.padding is None:
        return ids
    return np.where(rng.random(shape) < 0.3, region.padding, ids)
