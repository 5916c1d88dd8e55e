"""The inputs of queries to a model: ids wherever look-ups read them, whatever their shapes; the others from samples.

What an ids graph computes ids from is of the others: such inputs are rows of samples. Bags of any size stand in two
tensors: ids one after another, and another tensor that says where bags begin.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from repo_builder.access.query_file import QueryFile
from repo_builder.errors import InputError
from repo_builder.machine import check_memory
from repo_builder.model.arrays import DTYPES, Array, Arrays, has_rows, held
from repo_builder.model.types import BATCH, Columns, Group, Lookup, Ragged, Table, Tensor

Integers = NDArray[np.int64]


class Queried(Protocol):
    """What queries are drawn for: a `Model`, or a repository's manifest."""

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """As the model's."""

    @property
    def tables(self) -> tuple[Table, ...]:
        """As the model's."""

    @property
    def groups(self) -> tuple[Group, ...]:
        """As the model's."""

    @property
    def lookups(self) -> tuple[Lookup, ...]:
        """As the model's."""


class IdSource(Protocol):
    """Where the ids of look-ups come from. It is asked for each look-up's once, in the model's order."""

    def columns(self, lookup: Lookup, shape: tuple[int, int]) -> Integers:
        """Those of `shape[0]` rows of the look-up's group, `shape[1]` per row."""

    def lengths(self, lookup: Lookup, shape: tuple[int, int]) -> Integers:
        """Of a look-up of ragged bags, how many ids each has: (queries, rows)."""

    def ragged(self, lookup: Lookup, ids: int) -> Integers:
        """The ids of those bags, one after another: so many in all."""


def fill_queries(
    model: Queried, ids: IdSource, queries: int, batch: int, rng: np.random.Generator, samples: Arrays | None = None
) -> QueryFile:
    """So many queries of `batch` rows with these ids, whose errors it raises; the other inputs from samples, or random.

    samples: a query of any number of rows, some of which are chosen for what is not drawn. Raises InputError where
    memory does not hold the queries, or where samples are needed and there are none.
    """
    _check_memory(model, queries, batch)
    return _Filling(model, ids, queries, batch, rng, samples or {}).filled()


def _check_memory(model: Queried, queries: int, batch: int) -> None:
    needed = 0.0
    for tensor in model.inputs:
        fixed = math.prod(size for size in tensor.shape if isinstance(size, int))
        needed += fixed * (batch if BATCH in tensor.shape else 1) * DTYPES[tensor.datatype].itemsize
    for lookup in model.lookups:
        rows, layout = model.groups[lookup.group].rows_at(batch), lookup.ids.layout
        needed += 8 * rows * (lookup.mean_ids + (layout.blocks if isinstance(layout, Ragged) else 0))
    check_memory(math.ceil(queries * needed), f"queries: {queries * batch:,} rows of them", "ask for fewer")


class _Filling:
    """Queries under way."""

    def __init__(
        self, model: Queried, ids: IdSource, queries: int, batch: int, rng: np.random.Generator, samples: Arrays
    ) -> None:
        self._model, self._ids, self._samples = model, ids, samples
        self._queries, self._batch, self._rng = queries, batch, rng
        self._inputs = {tensor.name: tensor for tensor in model.inputs}
        self._lookups = [lookup for lookup in model.lookups if lookup.ids.tensors <= self._inputs.keys()]
        self._sizes = {**self._sampled_sizes(), BATCH: batch}
        rows = self._sampled_rows()
        self._choices = (
            self._rng.integers(rows, size=(queries, batch)) if rows else np.zeros((queries, batch), np.int64)
        )

    def filled(self) -> QueryFile:
        """All of them."""
        self._solve_sizes()
        ragged = list(self._ragged())
        totals = {self._inputs[bags.ids].shape[0]: bags.totals for bags in ragged}
        filled = {name for bags in ragged for name in (bags.ids, bags.layout.bounds)}
        arrays, ends = {}, {}
        for tensor in self._model.inputs:
            if tensor.name not in filled:
                arrays[tensor.name], sizes = self._others(tensor, totals)
                if tensor.shape and not has_rows(tensor):
                    ends[tensor.name] = np.cumsum(sizes)
        for bags in ragged:
            self._fill(bags, arrays, ends)
        self._fill_columns(arrays)
        return QueryFile({tensor.name: arrays[tensor.name] for tensor in self._model.inputs}, ends)

    def _others(self, tensor: Tensor, totals: dict[int | str, Integers]) -> tuple[Array, Integers]:
        """An input that no look-up reads, or whose ids are drawn later; and the sizes of its parts."""
        if not tensor.shape:
            return self._random(tensor, ()), np.empty(0, np.int64)
        beside = totals.get(tensor.shape[0])  # as long as some ragged ids: what a sample has there fits none of them
        first, *rest = self._shape(tensor, tensor.shape if beside is None else (1, *tensor.shape[1:]))
        sizes = np.full(self._queries, first) if beside is None else beside
        if tensor.name in self._samples and beside is None:
            return self._chosen(tensor), sizes
        return self._random(tensor, (int(sizes.sum()), *rest)), sizes

    def _random(self, tensor: Tensor, shape: tuple[int, ...]) -> Array:
        """A scalar's sample, normal floats, or zeros: an id of any table."""
        if not shape and tensor.name in self._samples:
            return self._samples[tensor.name].copy()
        if DTYPES[tensor.datatype].kind == "f":
            return held(np.asarray(self._rng.standard_normal(shape, np.float32)), tensor.datatype)
        return np.zeros(shape, DTYPES[tensor.datatype])

    def _chosen(self, tensor: Tensor) -> Array:
        """Rows of a sample, one query's after the other's; what has none of its own as it is."""
        sample = held(self._samples[tensor.name], tensor.datatype)
        axes = [axis for axis, size in enumerate(tensor.shape) if size == BATCH]
        if axes == [0]:
            rows: Array = sample[self._choices.reshape(-1)]
            return rows
        parts = []
        for chosen in self._choices:
            part = sample
            for axis in axes:
                part = part.take(chosen, axis)
            parts.append(part)
        return np.concatenate(parts)

    def _fill_columns(self, arrays: dict[str, Array]) -> None:
        """Put ids where look-ups read columns; where two read the same, those that both tables have."""
        fewest: dict[str, Integers] = {}
        for lookup in self._lookups:
            ids, layout = lookup.ids, lookup.ids.layout
            if not isinstance(layout, Columns):
                continue
            array = arrays[ids.tensor]
            width = layout.width or math.prod(array.shape[-1:]) or 1
            if array.size % width:
                raise InputError(f"inputs: {ids.tensor}: expected rows of {width}, as {lookup.name} reads them")
            rows = fewest.setdefault(ids.tensor, np.full(width, np.iinfo(np.int64).max))
            columns = slice(layout.begin, layout.begin + (lookup.count * layout.bag if layout.width else width))
            drawn = self._ids.columns(lookup, (array.size // width, columns.stop - columns.start))
            table_rows = self._model.tables[lookup.table].rows
            smaller = table_rows < rows[columns]
            array.reshape(-1, width)[:, columns][:, smaller] = drawn[:, smaller]
            rows[columns] = np.minimum(rows[columns], table_rows)

    def _ragged(self) -> Iterator[RaggedBags]:
        """The lengths of ragged bags; a sample's in a block that no look-up reads."""
        together: dict[tuple[str, str], list[Lookup]] = {}
        for lookup in self._lookups:
            if isinstance(lookup.ids.layout, Ragged):
                together.setdefault((lookup.ids.tensor, lookup.ids.layout.bounds), []).append(lookup)
        for (ids, bounds), lookups in together.items():
            layout = lookups[0].ids.layout
            if not isinstance(layout, Ragged) or any(_blocks(lookup) != layout.blocks for lookup in lookups):
                raise InputError(f"look-ups: {ids}: expected {lookups[0].name}'s blocks in all that read it")
            rows = self._group_rows(lookups[0])
            lengths = np.zeros((self._queries, layout.blocks, rows), np.int64)
            if ids in self._samples and bounds in self._samples:
                sampled = _lengths_of(self._samples[bounds], layout, len(self._samples[ids]))
                lengths[:] = sampled[:, self._sampled_bags(sampled, rows)].transpose(1, 0, 2)
            for lookup in lookups:
                lengths[:, _block(lookup)] = self._ids.lengths(lookup, (self._queries, rows))
            yield RaggedBags(ids, layout, lookups, lengths)

    def _sampled_bags(self, sampled: Integers, rows: int) -> Integers:
        """Which row of a sample's bags each row of each query has, (queries, rows)."""
        if rows == self._choices.shape[1] and sampled.shape[1] > self._choices.max(initial=0):
            return self._choices
        return np.broadcast_to(np.arange(rows) % sampled.shape[1], (self._queries, rows))

    def _fill(self, bags: RaggedBags, arrays: dict[str, Array], ends: dict[str, Integers]) -> None:
        """The ids of ragged bags, and their bounds."""
        blocks = bags.blocks
        found = np.zeros(blocks.size, np.int64)
        read = {_block(lookup) for lookup in bags.lookups}
        if bags.ids in self._samples and bags.layout.bounds in self._samples:
            ids = self._samples[bags.ids].reshape(-1)
            sampled = _lengths_of(self._samples[bags.layout.bounds], bags.layout, len(ids))
            rows = self._sampled_bags(sampled, bags.lengths.shape[2])
            for block in set(range(bags.layout.blocks)) - read:
                numbers = (block * sampled.shape[1] + rows).reshape(-1)
                found[blocks == block] = _ids_of(numbers, ids, sampled.reshape(-1))
        by_rows = sorted(bags.lookups, key=lambda lookup: -self._model.tables[lookup.table].rows)
        for lookup in by_rows:  # of two that read the same ids the smaller table comes last
            mine = blocks == _block(lookup)
            found[mine] = self._ids.ragged(lookup, int(mine.sum()))
        joined = {bags.ids: np.split(found, np.cumsum(bags.totals)[:-1]), bags.layout.bounds: bags.bounds}
        for name, parts in joined.items():
            tensor = self._inputs[name]
            rest = self._shape(tensor, tensor.shape[1:])
            arrays[name] = np.concatenate(parts).astype(DTYPES[tensor.datatype]).reshape(-1, *rest)
            if not has_rows(tensor):
                ends[name] = np.cumsum([len(part) for part in parts]) // math.prod(rest)

    def _group_rows(self, lookup: Lookup) -> int:
        """Rows of its group in a query."""
        group = self._model.groups[lookup.group]
        fixed = group.rows_at(self._batch)
        return fixed if isinstance(group.rows, int) else self._sizes.get(group.rows, fixed)

    def _sampled_rows(self) -> int:
        """Rows of the samples."""
        for tensor in self._model.inputs:
            if BATCH in tensor.shape and tensor.name in self._samples:
                return int(self._samples[tensor.name].shape[tensor.shape.index(BATCH)])
        return 0

    def _sampled_sizes(self) -> dict[str, int]:
        """How large dimensions are in the samples, by name."""
        pairs = (
            pair
            for tensor in self._model.inputs
            if tensor.name in self._samples
            for pair in zip(tensor.shape, self._samples[tensor.name].shape, strict=True)
        )
        return {name: size for name, size in pairs if isinstance(name, str)}

    def _solve_sizes(self) -> None:
        """Of dimensions that no sample tells: as many ids as look-ups have on average."""
        missing = [lookup.name for lookup in self._model.lookups if lookup not in self._lookups]
        if missing and not self._samples:
            raise _samples_needed(f"the ids of {missing[0]} are computed from inputs that no accesses tell")
        for lookup in self._lookups:
            tensor = self._inputs[lookup.ids.tensor]
            unknown = [size for size in tensor.shape if isinstance(size, str) and size not in self._sizes]
            if isinstance(lookup.ids.layout, Columns) and len(unknown) == 1:
                rows = self._model.groups[lookup.group].mean_rows * self._batch
                known = math.prod(self._shape(tensor, [size for size in tensor.shape if size not in unknown]))
                ids = rows * (lookup.ids.layout.width or lookup.mean_ids)
                self._sizes[unknown[0]] = max(1, round(ids / known))

    def _shape(self, tensor: Tensor, shape: Sequence[int | str]) -> tuple[int, ...]:
        """A part of an input's shape in each query."""
        unknown = [size for size in shape if isinstance(size, str) and size not in self._sizes]
        if unknown:
            raise _samples_needed(f"nothing tells how large dimension {unknown[0]} of input {tensor.name} is")
        return tuple(self._sizes[size] if isinstance(size, str) else size for size in shape)


def _samples_needed(why: str) -> InputError:
    return InputError(
        f"samples: expected recorded requests, got none: {why}; "
        "name them in the spec (samples: requests.npz, an array per input)"
    )


def _block(lookup: Lookup) -> int:
    return lookup.ids.layout.block if isinstance(lookup.ids.layout, Ragged) else 0


def _blocks(lookup: Lookup) -> int:
    return lookup.ids.layout.blocks if isinstance(lookup.ids.layout, Ragged) else 1


@dataclass(frozen=True, slots=True)
class RaggedBags:
    """Ragged bags of several queries: `lengths` (queries, blocks, rows) int64 of those in a tensor of ids.

    layout: that of one of the look-ups, which have a block each.
    """

    ids: str
    layout: Ragged
    lookups: Sequence[Lookup]
    lengths: Integers

    @property
    def totals(self) -> Integers:
        """Ids of each query, (queries,)."""
        totals: Integers = self.lengths.sum((1, 2))
        return totals

    @property
    def bounds(self) -> list[Integers]:
        """Each query's bounds."""
        return [_bounds(lengths.reshape(-1), self.layout) for lengths in self.lengths]

    @property
    def blocks(self) -> Integers:
        """The block that each id of all queries is in, (ids,)."""
        numbers = np.arange(self.lengths.shape[1])[:, np.newaxis]
        return np.repeat(np.broadcast_to(numbers, self.lengths.shape).reshape(-1), self.lengths.reshape(-1))


def _bounds(lengths: Integers, layout: Ragged) -> Integers:
    """Of bags of these lengths: (bags,), of `ends` one more."""
    if layout.kind == "lengths":
        return lengths
    ends = np.concatenate([[0], np.cumsum(lengths)])
    return ends if layout.kind == "ends" else ends[:-1]


def _lengths_of(bounds: NDArray[Any], layout: Ragged, ids: int) -> Integers:
    """The lengths (blocks, rows) of a query's bags, which have so many ids in all."""
    found = bounds.reshape(-1).astype(np.int64)
    if layout.kind != "lengths":
        found = np.diff(found, append=[ids] if layout.kind == "offsets" else [])
    return found.reshape(layout.blocks, -1)


def _ids_of(bags: Integers, ids: NDArray[Any], lengths: Integers) -> NDArray[Any]:
    """The ids of some bags, one bag after another: `bags` are their numbers, each as often as wanted.

    lengths: (all bags,).
    """
    begins = np.cumsum(lengths) - lengths
    wanted = lengths[bags]
    before = np.cumsum(wanted) - wanted
    found: NDArray[Any] = ids[np.repeat(begins[bags] - before, wanted) + np.arange(wanted.sum())]
    return found
