"""What the backends read of a model's wiring: `router.json`, `shard.json` and `fanout.json`.

Whole numbers and names alone, and the keys in this order: readers in C take them as they come. -1 stands for none, and
for what varies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from repo_builder.model.types import Columns, Ids, Kept, Lookup, Model, Ragged
from repo_builder.partition.plan import Shard
from repo_builder.repository.service_names import dns_name
from repo_builder.repository.wiring import Holding, Unit, joined, model_name, pieces
from repo_builder.spec import Spec
from triton_backends.embedding_shard.shard import Held, HeldGroup, HeldMatrix, HeldUnit
from triton_backends.router.routing import (
    ENDS,
    LENGTHS,
    OFFSETS,
    CheckedIds,
    RoutedGroup,
    RoutedLookup,
    RoutedService,
    RoutedShard,
    RoutedTable,
    RoutedUnit,
    Routing,
)

MAX_BATCH_ROWS = 4096  # rows of a query's batch (native/queries.h), and of all in one call of the dense model
GRPC_PORT = 8001
MAX_GROUP_ROWS = 1 << 20  # of a query's other axes

_BOUNDS = {"offsets": OFFSETS, "ends": ENDS, "lengths": LENGTHS}


def routed_tensors(model: Model) -> list[str]:
    """The tensors that look-ups name: ids, where bags begin, weights, as they come."""
    named: dict[str, None] = {}
    for lookup in model.lookups:
        bounds = lookup.ids.layout.bounds if isinstance(lookup.ids.layout, Ragged) else None
        named.update(dict.fromkeys(name for name in (lookup.ids.tensor, bounds, lookup.ids.weights) if name))
    return list(named)


def router_description(model: Model, wiring: Sequence[Holding], map_offsets: Mapping[int, int]) -> Routing:
    """`router.json`: how ids become rows of services.

    map_offsets: index of a table -> where its id map begins in `idmap.bin`, in bytes.
    """
    tensors = routed_tensors(model)
    shards = [shards_of(wiring, table.name) for table in model.tables]
    units = _unit_numbers(wiring)
    return Routing(
        finite=model.finite,
        inputs=tensors,
        tables=[
            RoutedTable(table.name, table.rows, map_offsets[i], len(shards[i])) for i, table in enumerate(model.tables)
        ],
        lookups=[
            _lookup(
                lookup,
                tensors,
                [
                    RoutedShard(units[k, i][0], wiring[k].bases[lookup.table], units[k, i][1])
                    for k, _ in shards[lookup.table]
                ],
            )
            for i, lookup in enumerate(model.lookups)
        ],
        units=[
            RoutedUnit(k, share.group, unit.bags, int(unit.weighted))
            for k, held in enumerate(wiring)
            for share in held.shares
            for unit in share.units
        ],
        services=[RoutedService(held.name) for held in wiring],
        groups=[RoutedGroup(str(group.rows)) for group in model.groups],
        checked=[_checked(kept, kept.ids, tensors) for kept in model.kept if kept.ids],
    )


def _checked(kept: Kept, ids: Ids, tensors: Sequence[str]) -> CheckedIds:
    layout = ids.layout
    if not isinstance(layout, Columns) or layout.width is None or ids.padding is None:
        raise ValueError(f"{kept.name}: expected columns of a matrix of ids, and a padding")
    return CheckedIds(
        kept.name, kept.rows, tensors.index(ids.tensor), layout.width, layout.begin, layout.bag, ids.padding
    )


def shards_of(wiring: Sequence[Holding], table: str) -> list[tuple[int, Shard]]:
    """A table's shards, hottest first, each with the index of the service that holds it."""
    found = [(k, shard) for k, held in enumerate(wiring) for shard in held.service.shards if shard.table == table]
    return sorted(found, key=lambda item: item[1].begin)


def _lookup(lookup: Lookup, tensors: Sequence[str], shards: Sequence[RoutedShard]) -> RoutedLookup:
    ids, layout = lookup.ids, lookup.ids.layout
    fixed = layout if isinstance(layout, Columns) and layout.width is not None else None
    ragged = layout if isinstance(layout, Ragged) else None
    return RoutedLookup(
        name=lookup.name,
        table=lookup.table,
        group=lookup.group,
        count=lookup.count,
        mean=int(lookup.mode == "mean"),
        ids=tensors.index(ids.tensor),
        width=fixed.width if fixed and fixed.width else -1,
        begin=fixed.begin if fixed else 0,
        bag=fixed.bag if fixed else -1,
        bounds=tensors.index(ragged.bounds) if ragged else -1,
        kind=_BOUNDS[ragged.kind] if ragged else 0,
        block=ragged.block if ragged else 0,
        blocks=ragged.blocks if ragged else 1,
        weights=tensors.index(ids.weights) if ids.weights else -1,
        has_padding=int(ids.padding is not None),
        padding=-1 if ids.padding is None else ids.padding,
        from_end=int(ids.from_end),
        shards=shards,
    )


def _unit_numbers(wiring: Sequence[Holding]) -> dict[tuple[int, int], tuple[int, int]]:
    """(index of a service, of a look-up) -> the number of its unit, over all services, and its first bag there."""
    found, number = {}, 0
    for k, held in enumerate(wiring):
        for unit in (unit for share in held.shares for unit in share.units):
            for lookup, first_bag in zip(unit.lookups, unit.first_bags, strict=True):
                found[k, lookup] = (number, first_bag)
            number += 1
    return found


def shard_description(holding: Holding) -> Held:
    """`shard.json`: the matrices in `weights.bin`, one after another, and what a query may ask of them."""
    return Held(
        [HeldMatrix(matrix.rows, matrix.format.dim, matrix.format.dtype) for matrix in holding.matrices],
        [
            HeldGroup(share.group, MAX_GROUP_ROWS if share.group else MAX_BATCH_ROWS, [_unit(u) for u in share.units])
            for share in holding.shares
        ],
    )


def _unit(unit: Unit) -> HeldUnit:
    return HeldUnit(unit.matrix, unit.bags, -1 if unit.columns is None else unit.columns, int(unit.weighted))


def fanout_description(spec: Spec, wiring: Sequence[Holding], version: str) -> dict[str, Any]:
    """`fanout.json`: what the router must know of its fleet, as `triton_backends/fanout/settings.c` reads it.

    `hedge_quantile_ppm` is in millionths, and 0 where nothing is to be hedged.
    """
    wholes = joined(spec.model)
    unpooled = {i for held in wiring for share in held.shares for unit in share.unpooled for i in unit.lookups}
    description = {
        "name": model_name(spec, "router"),
        "version": version,
        "widths": [whole.width for whole in wholes],
        "deadline_us": round(1000 * spec.serving.sla_ms),
        "hedge_quantile_ppm": round(1_000_000 * (spec.fleet.hedge_quantile or 0)),
        "max_in_flight": spec.fleet.max_in_flight,
        "degrade": int(spec.fleet.missing_shard == "degrade"),
        "half_sums": int(spec.fleet.sums_dtype == "fp16"),
        "services": [
            {
                "name": held.name,
                "model": model_name(spec, held.name),
                "instances": held.service.instances * (len(held.service.gpus) or 1),
                "groups": [
                    {
                        "group": share.group,
                        "width": share.width,
                        "dims": [held.matrices[unit.matrix].format.dim for unit in share.units if unit.bags],
                        "pieces": [
                            {"from": begin, "to": end, "columns": columns}
                            for begin, end, columns in pieces(spec.model, share, wholes[share.group])
                        ],
                    }
                    for share in held.shares
                ],
            }
            for held in wiring
        ],
    }
    if unpooled:
        lookups = [(i, spec.model.lookups[i], wholes[spec.model.lookups[i].group]) for i in unpooled]
        description["rows"] = [
            {"lookup": i, "to": whole.columns[i], "dim": spec.model.tables[lookup.table].format.dim}
            for i, lookup, whole in sorted(lookups, key=lambda item: (item[1].group, item[0]))
        ]
    return description


def default_addresses(spec: Spec, wiring: Sequence[Holding]) -> dict[str, str]:
    """`fleet.json`: where the router looks without ELASTICREC_ADDRESSES; headless Services in its own namespace."""
    return {held.name: f"dns:///{dns_name(f'{spec.name}_{held.name}')}:{GRPC_PORT}" for held in wiring}
