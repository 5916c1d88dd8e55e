"""What a router is told of its model: `router.json`, whose writer and readers share these types. Needs no numpy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

OFFSETS, ENDS, LENGTHS = 1, 2, 3  # kinds of bounds


@dataclass(frozen=True, slots=True)
class RoutedTable:
    """A table as the router sees it; `map_offset` is where its id map begins in the map file, in bytes.

    shards: how many parts its rows are in.
    """

    name: str
    rows: int
    map_offset: int
    shards: int


@dataclass(frozen=True, slots=True)
class RoutedShard:
    """Where a shard of a table lies: its unit, its first row in the unit's matrix, the look-up's first bag there."""

    unit: int
    base: int
    place: int


@dataclass(frozen=True, slots=True)
class RoutedLookup:
    """A look-up as the router sees it: whole numbers, since that is what its file holds.

    table, group: places. count: bags for each row of the group. mean: 1 where they are averaged.
    ids, bounds, weights: tensors, by their places among the router's inputs; -1 is none.
    width, begin, bag: bags of one size are columns of a matrix of that width. Width and bag are -1 where the tensor's
    last dimension, which varies, is one bag, and where there are bounds.
    kind: of bounds: 1 offsets, 2 ends, 3 lengths; 0 none. block, blocks: which part of the bags it takes.
    padding: the id that stands for none, where has_padding is 1. from_end: 1 where negative ids count from the end.
    shards: the table's, hottest first.
    """

    name: str
    table: int
    group: int
    count: int
    mean: int
    ids: int
    width: int
    begin: int
    bag: int
    bounds: int
    kind: int
    block: int
    blocks: int
    weights: int
    has_padding: int
    padding: int
    from_end: int
    shards: Sequence[RoutedShard]

    @classmethod
    def open(cls, document: Mapping[str, Any]) -> RoutedLookup:
        """A look-up as `router.json` has it."""
        return cls(**{**document, "shards": tuple(RoutedShard(**shard) for shard in document["shards"])})


@dataclass(frozen=True, slots=True)
class RoutedUnit:
    """Bags that a service sums alike: of one group, of rows of one format, all weighted (1) or none (0).

    service, group: places. bags: for each of the group's rows.
    """

    service: int
    group: int
    bags: int
    weighted: int = 0


@dataclass(frozen=True, slots=True)
class RoutedService:
    """An embedding service."""

    name: str


@dataclass(frozen=True, slots=True)
class RoutedGroup:
    """An axis along which look-ups go."""

    name: str


@dataclass(frozen=True, slots=True)
class CheckedIds:
    """Columns of a matrix of ids that are not routed, as the dense graph looks them up: rows of a table, or padding.

    name, rows: the table's. ids: a tensor, by its place among the router's inputs; width: its columns.
    """

    name: str
    rows: int
    ids: int
    width: int
    begin: int
    columns: int
    padding: int


@dataclass(frozen=True, slots=True)
class Routing:
    """All that a router must know: `router.json` is this, its fields in this order, as `native/router.c` takes them.

    finite: FP32 tensors with a row for each of the first group's, whose numbers must be finite.
    inputs: the tensors that look-ups name, by their places here. units: by service, then by group.
    """

    finite: Sequence[str]
    inputs: Sequence[str]
    tables: Sequence[RoutedTable]
    lookups: Sequence[RoutedLookup]
    units: Sequence[RoutedUnit]
    services: Sequence[RoutedService]
    groups: Sequence[RoutedGroup]
    checked: Sequence[CheckedIds] = ()

    def document(self) -> dict[str, Any]:
        """The content of `router.json`."""
        return asdict(self)

    @classmethod
    def open(cls, document: Mapping[str, Any]) -> Routing:
        """What `document` gave."""
        return cls(
            document["finite"],
            document["inputs"],
            [RoutedTable(**table) for table in document["tables"]],
            [RoutedLookup.open(lookup) for lookup in document["lookups"]],
            [RoutedUnit(**unit) for unit in document["units"]],
            [RoutedService(**service) for service in document["services"]],
            [RoutedGroup(**group) for group in document["groups"]],
            [CheckedIds(**ids) for ids in document["checked"]],
        )


def suffix(group: int) -> str:
    """What the names of a group's tensors end with: nothing for the first one."""
    return f"_{group}" if group else ""
