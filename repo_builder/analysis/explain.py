"""Why each cut of a plan lies where it does: the services on both sides, and what another cut would cost.

All figures are those that the cuts were made by, of the services before replicas are added for the latency: of the
recurrence (`partition.dp`), `CostModel.cost` with whole replicas; or where the profile may be off, the means of that
(`partition.robust`). In an optimal plan no change that is shown can be negative.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise

import numpy as np

from repo_builder.model.types import RowDtype
from repo_builder.partition.accesses import ModelAccesses
from repo_builder.partition.cost import CostModel, Profile
from repo_builder.partition.order import Order
from repo_builder.partition.plan import S_MAX, Plan, Service
from repo_builder.partition.priced import PricedOrder
from repo_builder.partition.robust import mean_costs, mean_replicas
from repo_builder.partition.table_accesses import Key
from repo_builder.partition.worth import Cuts, cut, worth_of
from repo_builder.spec import Spec

SHARE = 100
"""Besides one row, a cut is moved by this part of the smaller neighbour's rows."""


@dataclass(frozen=True, slots=True)
class Segment:
    """The rows between two cuts as a service: `load` is how many replicas' time it takes, `cost_bytes` all memory.

    mean_replicas: over the profile's errors, which `cost_bytes` goes by; `replicas` where there are none
    row_dtype: how the service stores its rows
    """

    name: str
    rows: int
    gathers: float
    load: float
    replicas: int
    mean_replicas: float
    cost_bytes: int
    row_dtype: RowDtype


@dataclass(frozen=True, slots=True)
class Move:
    """What changes if a cut moves by so many rows, to the colder ones where positive; replicas are means."""

    rows: int
    cost_bytes: int
    left_replicas: float
    right_replicas: float


@dataclass(frozen=True, slots=True)
class PlanCut:
    """One cut: `position` rows are hotter, which take the share `accesses` of the gathers.

    `left` is the hotter service; `moves` go from left to right; `joined_bytes` is what one service for both would
    cost more.
    """

    position: int
    accesses: float
    left: Segment
    right: Segment
    moves: tuple[Move, ...]
    joined_bytes: int


@dataclass(frozen=True, slots=True)
class Chain:
    """One hotness order and its cuts; `tables` names the tables that it is made of, or each of the tables alike.

    `order` is what was cut; `weighed` also has the cuts with the least memory, of which some may have been merged.

    In a tiered plan there is one chain, of all tables' rows merged; else one for each kind of table, named by its
    first table's services.
    """

    tables: tuple[str, ...]
    services: tuple[Service, ...]
    cuts: tuple[PlanCut, ...]
    weighed: Cuts
    order: Order = field(repr=False, compare=False)


def explain(
    spec: Spec,
    accesses: ModelAccesses,
    profile: Profile,
    plan: Plan,
    utilisation: float,
    least_saving: float = 0.0,
    profile_error: float = 0.0,
) -> tuple[Chain, ...]:
    """The chains of a plan that `plan_accesses` made of the same arguments."""
    target_qps = spec.serving.target_qps / utilisation
    model = profile.cost_model(target_qps)
    worth = worth_of(spec, profile, target_qps, least_saving, profile_error)
    weigh = partial(cut, model=model, s_max=plan.s_max or S_MAX, worth=worth)
    if plan.grouping == "tiered":
        tables, order = (
            tuple(table.table for table in accesses.tables),
            accesses.order(accesses.tables, model.service_time),
        )
        return (_chain(tables, plan.embedding_services, order, model, weigh(order)),)
    return tuple(_per_table(accesses, plan, model, weigh))


def _per_table(accesses: ModelAccesses, plan: Plan, model: CostModel, weigh: Callable[[Order], Cuts]) -> list[Chain]:
    alike: dict[Key, list[str]] = {}
    for table in accesses.tables:
        alike.setdefault(table.key, []).append(table.table)
    chains = []
    for names in alike.values():
        first = next(table for table in accesses.tables if table.table == names[0])
        services = [service for service in plan.embedding_services if service.shards[0].table == names[0]]
        order = accesses.order([first], model.service_time)
        chains.append(_chain(tuple(names), services, order, model, weigh(order)))
    return chains


def _chain(tables: tuple[str, ...], services: Sequence[Service], rows: Order, model: CostModel, weighed: Cuts) -> Chain:
    positions = [0]
    for service in services:
        positions.append(positions[-1] + sum(shard.rows for shard in service.shards))
    priced = _PricedCuts(PricedOrder(rows, model), weighed.worth.profile_error)
    segments = [
        priced.segment(service.name, begin, end, service.row_dtype)
        for service, (begin, end) in zip(services, pairwise(positions), strict=True)
    ]
    cuts = [
        priced.cut(positions[i], positions[i + 1], positions[i + 2], left, right)
        for i, (left, right) in enumerate(pairwise(segments))
    ]
    return Chain(tables, tuple(services), tuple(cuts), weighed, rows)


@dataclass(frozen=True, slots=True)
class _PricedCuts:
    """Rows in their order, and what segments of it cost."""

    priced: PricedOrder
    profile_error: float

    def segment(self, name: str, begin: int, end: int, row_dtype: RowDtype) -> Segment:
        order, model, at = self.priced.order, self.priced.model, (np.array(begin), np.array(end))
        rows_s = float(self.priced.rows_s(*at))
        replicas = model.replicas(rows_s)
        mean, cost_bytes = float(replicas), model.cost(int(order.bytes_between(*at)), rows_s)
        if self.profile_error:
            mean = float(mean_replicas(np.array(model.load(rows_s)), self.profile_error))
            cost_bytes = round(float(mean_costs(self.priced, *at, self.profile_error)))
        return Segment(
            name=name,
            rows=end - begin,
            gathers=float(order.gathers[end] - order.gathers[begin]),
            load=model.load(rows_s),
            replicas=replicas,
            mean_replicas=mean,
            cost_bytes=cost_bytes,
            row_dtype=row_dtype,
        )

    def cut(self, begin: int, position: int, end: int, left: Segment, right: Segment) -> PlanCut:
        now = left.cost_bytes + right.cost_bytes
        step = min(left.rows, right.rows) // SHARE
        moves = []
        for rows in sorted({-step, -1, 1, step} - {0}):
            if begin < position + rows < end:
                hotter = self.segment("", begin, position + rows, left.row_dtype)
                colder = self.segment("", position + rows, end, right.row_dtype)
                change = hotter.cost_bytes + colder.cost_bytes - now
                moves.append(Move(rows, change, hotter.mean_replicas, colder.mean_replicas))
        joined_bytes = self.segment("", begin, end, left.row_dtype).cost_bytes - now
        return PlanCut(
            position,
            float(self.priced.order.gathers[position] / self.priced.order.gathers[-1]),
            left,
            right,
            tuple(moves),
            joined_bytes,
        )
