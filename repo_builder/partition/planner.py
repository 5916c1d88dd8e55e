"""From a spec, its hotness and a profile to a plan (ElasticRec, ISCA 2024, algorithms 1 and 2)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise

from repo_builder.access.hotness import Hotness
from repo_builder.errors import PlanError
from repo_builder.model.types import RowDtype
from repo_builder.partition.accesses import ModelAccesses, model_accesses
from repo_builder.partition.cost import CostModel, Profile, replicas_for
from repo_builder.partition.dp import Partition
from repo_builder.partition.order import Order
from repo_builder.partition.plan import S_MAX, Grouping, Latency, Plan, Service, Shard, check_plan
from repo_builder.partition.priced import whole_rows_s
from repo_builder.partition.sla import check_idle, meet_sla
from repo_builder.partition.table_accesses import Key, TableAccesses
from repo_builder.partition.worth import Cuts, cut, worth_of
from repo_builder.spec import Spec

_Cut = Callable[[Order], Cuts]

WHOLE = "tables"
"""The name of the one embedding service where nothing is cut."""


def make_plan(
    spec: Spec,
    hotness: Hotness,
    profile: Profile,
    grouping: Grouping,
    s_max: int,
    utilisation: float = 1.0,
    least_saving: float = 0.0,
    profile_error: float = 0.0,
) -> Plan:
    """`plan_accesses` on the accesses of the spec's tables."""
    accesses = model_accesses(spec, hotness)
    return plan_accesses(spec, accesses, profile, grouping, s_max, utilisation, least_saving, profile_error)


def plan_accesses(
    spec: Spec,
    accesses: ModelAccesses,
    profile: Profile,
    grouping: Grouping,
    s_max: int,
    utilisation: float = 1.0,
    least_saving: float = 0.0,
    profile_error: float = 0.0,
) -> Plan:
    """The plan with the least embedding memory at the spec's target traffic; `accesses` is the spec's.

    `utilisation` is the share of a replica's most queries per second that the plan counts on, in (0, 1].
    `least_saving` is what a service must be worth (`worth.py`); 0 leaves the paper's recurrence as it is. Else the cuts
    are those with the least mean memory where the profile is off by up to `profile_error`, a share, either way.

    `per_table` cuts each table by itself, a service `TABLE_s0`, `TABLE_s1`, ... per shard (0 is the hottest), TABLE its
    name or one that is legal in a service's.
    `tiered` cuts all tables' rows together, most gathers first; `tier0` holds each table's hottest rows, and so on.
    Replicas are added where the predicted latency would miss the spec's SLA. Raises PlanError for s_max outside
    1 ... 16, a CDF that is none, service names that collide, or an SLA that even an idle fleet misses.
    """
    if not 1 <= s_max <= S_MAX:
        raise PlanError(f"s_max: expected 1 to {S_MAX} services, got {s_max}")
    if not 0 < utilisation <= 1:
        raise PlanError(f"utilisation: expected a share above 0, at most 1, got {utilisation}")
    if not 0 <= least_saving < 1:
        raise PlanError(f"least_saving: expected a share of at least 0, below 1, got {least_saving}")
    if not 0 <= profile_error < 1:
        raise PlanError(f"profile_error: expected a share of at least 0, below 1, got {profile_error}")
    if grouping not in _GROUPINGS:
        raise PlanError(f"grouping: expected one of {', '.join(_GROUPINGS)}, got {grouping!r}")
    target_qps = spec.serving.target_qps / utilisation
    model = profile.cost_model(target_qps)
    worth = worth_of(spec, profile, target_qps, least_saving, profile_error)
    cuts = partial(cut, model=model, s_max=s_max, worth=worth)
    embedding = tuple(_GROUPINGS[grouping](accesses, model, cuts))
    plan = Plan(
        spec=spec.name,
        grouping=grouping,
        services=(_dense_service(spec, accesses, profile, target_qps, len(embedding)), *embedding),
        target_qps=spec.serving.target_qps,
        batch=spec.serving.batch,
        s_max=s_max,
        profile=profile.name,
    )
    check_plan(plan, spec)
    return meet_sla(plan, profile, spec.serving.target_qps, spec.serving.sla_ms)


def model_wise_plan(spec: Spec, hotness: Hotness, profile: Profile) -> Plan:
    """One embedding service with all tables, and the dense layers; one instance of each, whatever the target traffic.

    More traffic is served by more whole servers, which is what the layout is there to show: so the plan says neither
    the target traffic nor a latency at it. Raises PlanError where even idle services miss the spec's SLA.
    """
    accesses = model_accesses(spec, hotness)
    plan = Plan(
        spec=spec.name,
        grouping="model_wise",
        services=(_dense_service(spec, accesses, profile, 0), _whole_service(spec, accesses, profile)),
        batch=spec.serving.batch,
        profile=profile.name,
    )
    check_plan(plan, spec)
    check_idle(plan, profile, spec.serving.sla_ms)
    return plan


def replicated_plan(
    spec: Spec, accesses: ModelAccesses, profile: Profile, replicas: int, capacity_qps: float, latency: Latency
) -> Plan:
    """So many replicas of the whole model, each one server with the dense layers and all tables: `model_wise`.

    A replica's least memory is counted with its tables, and both its services answer as many queries as it does.
    """
    dense = replace(_dense_service(spec, accesses, profile, 0), memory_bytes=spec.model.dense.parameter_bytes)
    services = (dense, _whole_service(spec, accesses, profile))
    plan = Plan(
        spec=spec.name,
        grouping="model_wise",
        services=tuple(replace(service, replicas=replicas, qps=capacity_qps) for service in services),
        target_qps=spec.serving.target_qps,
        batch=spec.serving.batch,
        profile=profile.name,
        latency=latency,
    )
    check_plan(plan, spec)
    return plan


def _per_table(accesses: ModelAccesses, model: CostModel, cuts: _Cut) -> Iterator[Service]:
    solved: dict[Key, Partition] = {}
    names = legal_names([table.table for table in accesses.tables])
    for table in accesses.tables:
        if table.key not in solved:
            solved[table.key] = cuts(accesses.order([table], model.service_time)).taken
        found = solved[table.key]
        for i, ((begin, end), rows_s) in enumerate(zip(pairwise(found.cuts), found.rows_s, strict=True)):
            dtype = table.rule.cold if i else table.rule.hot
            yield _embedding_service(f"{names[table.table]}_s{i}", [(table, begin, end)], model, rows_s, dtype)


def _tiered(accesses: ModelAccesses, model: CostModel, cuts: _Cut) -> Iterator[Service]:
    tables = accesses.tables
    found = cuts(accesses.order(tables, model.service_time)).taken
    inner = accesses.ranks(found.cuts[1:-1], model.service_time)
    ranks = [[0] * len(tables), *inner, [table.rows for table in tables]]
    for i, ((begins, ends), rows_s) in enumerate(zip(pairwise(ranks), found.rows_s, strict=True)):
        dtype = tables[0].rule.cold if i else tables[0].rule.hot
        yield _embedding_service(f"tier{i}", zip(tables, begins, ends, strict=True), model, rows_s, dtype)


_GROUPINGS = {"per_table": _per_table, "tiered": _tiered}


def _whole_service(spec: Spec, accesses: ModelAccesses, profile: Profile) -> Service:
    """One replica with all tables, whatever the traffic."""
    held = [(table, 0, table.rows) for table in accesses.tables]
    return _embedding_service(WHOLE, held, profile.cost_model(0), whole_rows_s(accesses, profile), spec.rows.hot)


def _embedding_service(
    name: str, held: Iterable[tuple[TableAccesses, int, int]], model: CostModel, rows_s: float, dtype: RowDtype
) -> Service:
    """A service holding the ranks begin ... end - 1 of each table, its rows as `dtype`; empty ranges are left out.

    rows_s: what a query's gathers of them take.
    """
    held = [(table, begin, end) for table, begin, end in held if begin < end]
    gathers = [table.gathers * float(table.cdf[end] - table.cdf[begin]) for table, begin, end in held]
    row_bytes = [table.format.stored_as(dtype).row_bytes for table, _, _ in held]
    held_bytes = sum((end - begin) * size for (_, begin, end), size in zip(held, row_bytes, strict=True))
    return Service(
        name=name,
        kind="embedding",
        device="cpu",
        instances=1,
        replicas=model.replicas(rows_s),
        memory_bytes=held_bytes + model.min_memory_bytes,
        gathers=sum(gathers),
        qps=1 / (model.service_time.fixed_s + rows_s),
        shards=tuple(Shard(table.table, begin, end) for table, begin, end in held),
        row_dtype=dtype,
        gathered_bytes=sum(each * size for each, size in zip(gathers, row_bytes, strict=True)),
    )


def _dense_service(spec: Spec, accesses: ModelAccesses, profile: Profile, target_qps: float, calls: int = 0) -> Service:
    """The front end: all ids of a query come to it, and it calls so many services."""
    dense, (ids, _) = spec.model.dense, accesses.gathered()
    seconds = profile.dense_service_time.seconds(spec.dense_flops) + profile.front_time.seconds(ids, calls)
    return Service(
        name="dense",
        kind="dense",
        device="cpu",
        instances=1,
        replicas=replicas_for(target_qps * seconds),
        memory_bytes=dense.parameter_bytes + profile.min_memory_bytes,
        gathers=0.0,
        qps=1 / seconds,
        shards=(),
    )


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
