"""How a plan wires a model: what each service holds of it, what it is asked, and where its answers go.

A service holds a matrix of rows for each format in which they came. What it does for a group of look-ups is its
*share* of the group: one tensor of ids and one of lengths in, and of weights where some look-ups have them; one of sums
out. A share is made of *units*: the look-ups of one matrix, all weighted or none. Units stand one after another in each
of its tensors, by dim descending, the unweighted first; in a unit look-ups stand in the model's order.

Un-pooled look-ups, and those whose bags have one id, may have units of their own, whose rows are answered as they are,
each once: a tensor of rows out beside the sums. Whoever routes knows where each id's row is in it.

All that must agree on this is derived here: configs, `router.json`, `shard.json`, `fanout.json`, the dense graph.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import get_args

from repo_builder.model.source import Partial, suffix
from repo_builder.model.types import Columns, Lookup, Model, RowDtype, RowFormat
from repo_builder.partition.plan import Plan, Service
from repo_builder.spec import Spec

MATRIX_ALIGNMENT = 64
ROWS = "rows"
"""What a service answers of un-pooled units: rows FP32 [1, numbers], a unit's after the other's."""
SUMS = "sums"
"""What a service answers; and in a fleet, joined over services, the dense graph's input a group."""


@dataclass(frozen=True, slots=True)
class Matrix:
    """A service's rows that came in one format: the shards of its tables, in the model's order.

    format: in which they are stored.
    """

    rows: int
    format: RowFormat


@dataclass(frozen=True, slots=True)
class Unit:
    """Look-ups whose bags a service sums in one go, or whose rows it answers as they are.

    matrix: the index of their rows' matrix in the service. lookups: indexes in the model, ascending; first_bags: of
    each among the unit's. bags: of a row of the group; 0 where the look-ups are un-pooled. columns: most ids of a row
    of the group; None where that varies.
    """

    matrix: int
    weighted: bool
    lookups: tuple[int, ...]
    first_bags: tuple[int, ...]
    bags: int
    columns: int | None


@dataclass(frozen=True, slots=True)
class Share:
    """What a service does for a group: sums FP32 [rows of the group, width], and rows of un-pooled units.

    columns: index of a look-up -> its first column in the sums.
    """

    group: int
    units: tuple[Unit, ...]
    width: int
    columns: Mapping[int, int]

    @property
    def bags(self) -> int:
        """Bags of a row of the group."""
        return sum(unit.bags for unit in self.units)

    @property
    def unpooled(self) -> tuple[Unit, ...]:
        """The units whose rows are answered as they are."""
        return tuple(unit for unit in self.units if unit.bags == 0)

    @property
    def answers(self) -> tuple[str, ...]:
        """The kinds of tensors that the service answers for it, in this order."""
        return (SUMS,) * bool(self.bags) + (ROWS,) * bool(self.unpooled)

    @property
    def weighted_bags(self) -> int:
        """Those of them whose ids have weights."""
        return sum(unit.bags for unit in self.units if unit.weighted)

    @property
    def asks(self) -> tuple[str, ...]:
        """The kinds of tensors that the service is given for it, in this order."""
        return ("ids", "lengths", "weights") if self.weighted_bags else ("ids", "lengths")


@dataclass(frozen=True, slots=True)
class Holding:
    """An embedding service of the plan, and what it holds: a matrix for each format in which rows came.

    In its file they stand one after another, in `matrix_order`, each begun at a multiple of MATRIX_ALIGNMENT bytes.
    matrix_of: index of a table -> that of the matrix with its shard. bases: and of the shard's first row there.
    """

    service: Service
    matrices: tuple[Matrix, ...]
    matrix_of: Mapping[int, int]
    bases: Mapping[int, int]
    shares: tuple[Share, ...]

    @property
    def name(self) -> str:
        """The service's name."""
        return self.service.name

    def stored(self, table: int) -> RowFormat:
        """How the rows of a table that it has a shard of, by its index, are stored here."""
        return self.matrices[self.matrix_of[table]].format

    def offset_bytes(self, matrix: int) -> int:
        """Where a matrix begins in the file."""
        offset_bytes = 0
        for before in self.matrices[:matrix]:
            offset_bytes = _aligned(offset_bytes + before.rows * before.format.row_bytes)
        return offset_bytes


def _aligned(size_bytes: int) -> int:
    return size_bytes + -size_bytes % MATRIX_ALIGNMENT


def wire(model: Model, plan: Plan, *, unpooled: bool = False) -> tuple[Holding, ...]:
    """What each embedding service of a plan holds, in the plan's order. The plan is one of the model.

    unpooled: un-pooled look-ups have units of their own; else each of their ids is a bag.
    """
    return tuple(_held(model, service, unpooled) for service in plan.embedding_services)


def is_unpooled(lookup: Lookup) -> bool:
    """Whether a look-up's rows can be answered as they are: each id is a bag by itself, without weights.

    So are those of un-pooled look-ups, and of bags of one id, whose sum and mean are its row.
    """
    layout = lookup.ids.layout
    alone = isinstance(layout, Columns) and layout.width is not None and layout.bag == 1
    return lookup.ids.weights is None and alone


def model_name(spec: Spec, part: str) -> str:
    """A step's model name: the spec's name first, so that several models can share a server."""
    return f"{spec.name}_{part}"


def at_shard(kind: str, group: int) -> str:
    """The name of a tensor of a group at the service: `ids`, `lengths`, `weights`, `sums`."""
    return f"{kind}{suffix(group)}"


def on_wire(service: str, kind: str, group: int) -> str:
    """The name of such a tensor where those of all services meet: in an ensemble, a router, the dense graph."""
    return f"{service}_{at_shard(kind, group)}"


def partials(wiring: Sequence[Holding]) -> list[Partial]:
    """The dense graph's inputs where it adds up the services' sums itself."""
    return [
        Partial(on_wire(held.name, SUMS, share.group), share.group, share.width, share.columns)
        for held in wiring
        for share in held.shares
    ]


def joined(model: Model) -> list[Partial]:
    """The dense graph's inputs where the router adds up: one a group, its look-ups in the model's order."""
    found = []
    for group in range(len(model.groups)):
        columns, width = _columns(model, model.in_group(group))
        found.append(Partial(at_shard(SUMS, group), group, width, columns))
    return found


def pieces(model: Model, share: Share, whole: Partial) -> list[tuple[int, int, int]]:
    """Where a share's columns go in the group's joined sums: (from, to, columns), neighbours as one, by `from`."""
    found: list[tuple[int, int, int]] = []
    for lookup, begin in sorted(share.columns.items(), key=lambda item: item[1]):
        end, columns = whole.columns[lookup], model.width(model.lookups[lookup])
        if found and (found[-1][0] + found[-1][2], found[-1][1] + found[-1][2]) == (begin, end):
            found[-1] = (*found[-1][:2], found[-1][2] + columns)
        else:
            found.append((begin, end, columns))
    return found


def divisors_width(model: Model, group: int) -> int:
    """Bags of a row of a group, over all its look-ups."""
    return sum(model.lookups[index].count for index in model.in_group(group))


def matrix_order(came: RowFormat) -> tuple[int, int]:
    """Where a matrix stands among those of its service: the largest dim first, and of one dim the widest dtype.

    It goes by the format in which rows came, not by that of the service, so that it is the same in all of them: tables
    are written one after another, into all files at once.
    """
    return -came.dim, get_args(RowDtype).index(came.dtype)


def _held(model: Model, service: Service, unpooled: bool) -> Holding:
    rows = {shard.table: shard.rows for shard in service.shards}
    tables = [(i, table) for i, table in enumerate(model.tables) if table.name in rows]
    formats = sorted({table.format for _, table in tables}, key=matrix_order)
    bases, ends = {}, dict.fromkeys(formats, 0)
    for i, table in tables:
        bases[i] = ends[table.format]
        ends[table.format] += rows[table.name]
    matrix_of = {i: formats.index(table.format) for i, table in tables}
    shares = [_share(model, group, matrix_of, unpooled) for group in range(len(model.groups))]
    return Holding(
        service,
        tuple(Matrix(ends[each], each.stored_as(service.row_dtype)) for each in formats),
        matrix_of,
        bases,
        tuple(share for share in shares if share.units),
    )


def _share(model: Model, group: int, matrix_of: Mapping[int, int], unpooled: bool) -> Share:
    """matrix_of: a table that the service holds a shard of -> the index of its matrix."""
    held = [i for i in model.in_group(group) if model.lookups[i].table in matrix_of]

    def unit_of(index: int) -> tuple[int, bool, bool]:
        lookup = model.lookups[index]
        return matrix_of[lookup.table], lookup.ids.weights is not None, unpooled and is_unpooled(lookup)

    units = []
    for kind in sorted({unit_of(index) for index in held}):
        matrix, weighted, alone = kind
        members = tuple(index for index in held if unit_of(index) == kind)
        lookups = [model.lookups[index] for index in members]
        *begins, bags = accumulate((0 if alone else lookup.count for lookup in lookups), initial=0)
        units.append(Unit(matrix, weighted, members, tuple(begins), bags, _ids_of_row(lookups)))
    columns, width = _columns(model, [index for unit in units if unit.bags for index in unit.lookups])
    return Share(group, tuple(units), width, columns)


def _columns(model: Model, lookups: Sequence[int]) -> tuple[dict[int, int], int]:
    """The first column of each look-up where they stand side by side, and the columns of all."""
    *begins, width = accumulate((model.width(model.lookups[index]) for index in lookups), initial=0)
    return dict(zip(lookups, begins, strict=True)), width


def _ids_of_row(lookups: Sequence[Lookup]) -> int | None:
    columns = 0
    for lookup in lookups:
        layout = lookup.ids.layout
        if not isinstance(layout, Columns) or layout.width is None:
            return None
        columns += lookup.count * layout.bag
    return columns
