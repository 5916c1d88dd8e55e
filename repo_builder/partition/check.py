"""What a plan must be to fit a spec: every row held exactly once, by services whose names fit into one repository."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

from repo_builder.errors import PlanError
from repo_builder.model.types import Table
from repo_builder.partition.dp import S_MAX
from repo_builder.partition.plan import Plan, Shard, duplicates
from repo_builder.spec import Spec

ROUTER, DENSE = "router", "dense"
MAX_ROWS = 2**31 - 1


def check_plan(plan: Plan, spec: Spec, where: str = "plan") -> None:
    """Raise PlanError, one problem per line beginning with `where`, unless the plan can be built for the spec.

    It must be the spec's own; have one dense service, named so, and shards in embedding services only, no two of a
    table in one; hold every table's rows exactly once, in at most 16 shards, and at most 2^31 - 1 rows in a service
    (ids are INT32); and its names must differ from each other and the router's.
    """
    problems = [*_name_problems(plan, spec), *_kind_problems(plan), *_shard_problems(plan, spec)]
    if problems:
        raise PlanError(*(f"{where}: {problem}" for problem in problems))


def _name_problems(plan: Plan, spec: Spec) -> Iterator[str]:
    if plan.spec != spec.name:
        yield f"spec: expected {spec.name!r}, the spec's name, got {plan.spec!r}"
    names = [service.name for service in plan.services]
    for name in duplicates(names):
        yield f"services: expected unique names, got {name!r} twice; rename a table or the service"
    if ROUTER in names:
        yield f"services[{names.index(ROUTER)}].name: {ROUTER!r} is the name of the router; rename the service"


def _kind_problems(plan: Plan) -> Iterator[str]:
    dense = [service.name for service in plan.services if service.kind == "dense"]
    if len(dense) != 1:
        yield f"services: expected one service of kind dense, got {len(dense)}"
    for i, service in enumerate(plan.services):
        if (service.kind == "dense") != (service.name == DENSE):
            yield f"services[{i}].name: expected {DENSE!r} for the dense service and it alone, got {service.name!r}"
        if service.kind == "dense" and service.shards:
            yield f"services[{i}].shards: expected none in the dense service, got {len(service.shards)}"
        if service.kind == "embedding" and not service.shards:
            yield f"services[{i}].shards: expected at least one shard in an embedding service, got none"


def _shard_problems(plan: Plan, spec: Spec) -> Iterator[str]:
    held: dict[str, list[Shard]] = {table.name: [] for table in spec.model.tables}
    for i, service in enumerate(plan.services):
        for j, shard in enumerate(service.shards):
            if shard.table in held:
                held[shard.table].append(shard)
            else:
                yield f"services[{i}].shards[{j}].table: expected a table of the spec, got {shard.table!r}"
        for name in duplicates([shard.table for shard in service.shards]):
            yield f"services[{i}].shards: expected one shard per table in a service, got two of {name!r}; join them"
        rows = sum(shard.rows for shard in service.shards)
        if rows > MAX_ROWS:
            yield f"services[{i}].shards: expected at most {MAX_ROWS} rows in a service (INT32 ids), got {rows}"
    for table in spec.model.tables:
        yield from _cover_problems(table, sorted(held[table.name], key=lambda shard: (shard.begin, shard.end)))


def _cover_problems(table: Table, shards: list[Shard]) -> Iterator[str]:
    if len(shards) > S_MAX:
        yield f"table {table.name}: expected at most {S_MAX} shards, got {len(shards)}; join some"
    ranks = [0, *(rank for shard in shards for rank in (shard.begin, shard.end)), table.rows]
    for end, begin in list(pairwise(ranks))[::2]:
        if begin > end:
            yield f"table {table.name}: the rows {end} to {begin} of its hotness order are in no shard"
        elif begin < end:
            yield f"table {table.name}: expected each of its {table.rows} rows once, got {begin} to {end} again"


def legal_names(tables: Sequence[str]) -> Mapping[str, str]:
    """For each table a name that Triton and Kubernetes take: letters, digits and underscores, a letter first.

    All differ. Names that are legal stay; of the others each illegal character becomes an underscore, `t_` is put
    before a first one that is no letter, and a number behind what is taken. The same tables get the same names.
    """
    names = {table: table for table in tables if re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", table)}
    taken = set(names.values())
    for table in tables:
        if table in names:
            continue
        name = re.sub(r"[^A-Za-z0-9_]", "_", table)
        name = name if name[0].isalpha() else f"t_{name.lstrip('_')}"
        number = 2
        free = name
        while free in taken:
            free, number = f"{name}_{number}", number + 1
        names[table] = free
        taken.add(free)
    return names
