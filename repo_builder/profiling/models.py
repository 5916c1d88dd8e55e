"""The models that are measured, built as any repository and taken apart: one server holds one of them, as in a fleet,
and embedding services are configured as a fleet's.

`rows` is an embedding service with enough rows to miss the caches; `empty` one with a row per table, for what a service
costs that holds next to nothing; `dense` the spec's dense layers. Rows are random: speed does not depend on them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repo_builder.access.hotness import Hotness
from repo_builder.access.powerlaw import PowerLawHotness
from repo_builder.access.queries import draw_queries
from repo_builder.access.query_file import QueryFile
from repo_builder.export.dlrm.source import open_source
from repo_builder.model.arrays import Array, Arrays
from repo_builder.model.dlrm import Dlrm, Weights
from repo_builder.model.source import Partial, Source
from repo_builder.model.types import Columns, Lookup, Model, Table
from repo_builder.output import silent
from repo_builder.partition.plan import Grouping, Kind, Plan, Service, Shard
from repo_builder.repository.configs import ShardBackend, embedding_config, to_text
from repo_builder.repository.design import FIRST_VERSION, Design
from repo_builder.repository.files import write_bytes
from repo_builder.repository.small_files import small_files
from repo_builder.repository.stored_rows import stored_rows
from repo_builder.repository.weights import write_weights
from repo_builder.repository.wiring import Holding, model_name
from repo_builder.spec import Spec

_PARTS = ("rows", "empty", "dense")
LEAST_BAG = 64  # a shard bounds a query's ids by its look-ups' bags: room for queries of any size that is measured
_CHUNK_ROWS = 1 << 16


@dataclass(frozen=True, slots=True)
class Served:
    """A model by the name that Triton serves it under, and the repository that holds it alone."""

    name: str
    repository: Path


@dataclass(frozen=True, slots=True)
class Models:
    """What is measured, and its design; `held_rows` are what `rows` holds of tables, by their indices."""

    rows: Served
    empty: Served
    dense: Served
    design: Design
    held_rows: Mapping[int, int]
    source: Source

    def tensors(self, hotness: Hotness, rows: int) -> Mapping[str, Array]:
        """A query of so many rows: the model's inputs, and what its ids graph makes of them."""
        model, samples = self.source.model, self.source.samples()
        query = draw_queries(model, hotness, 1, rows, 0, samples).query(0, rows)
        return {**query, **self.source.ids(query)}

    def wired(self, part: str) -> Holding:
        """How an embedding service is wired."""
        return next(held for held in self.design.wiring if held.name == part)


def build_models(spec: Spec, grouping: Grouping, max_rows: int, backend: ShardBackend, folder: Path) -> Models:
    """Build them below `folder`. `rows` holds at most some `max_rows` rows: of all tables, or where the grouping is
    `per_table` of the largest.
    """
    tables = spec.model.tables
    largest = max(range(len(tables)), key=lambda index: tables[index].rows)
    held = range(len(tables)) if grouping == "tiered" else (largest,)
    held_rows = _held_rows(tables, held, max_rows)
    small = replace(spec, model=_small(spec.model, held_rows))
    design, source = Design.of(small, _plan(small, held_rows), "single"), _opened(spec)
    write_files(design, RandomRows(source, small.model), backend, folder / "whole")
    _configure(design, backend, folder / "whole")
    rows, empty, dense = (_take(folder, spec, part) for part in _PARTS)
    return Models(rows, empty, dense, design, held_rows, source)


def _held_rows(tables: Sequence[Table], held: Sequence[int], max_rows: int) -> dict[int, int]:
    """Every table's rows, or the same share of each where that is more than `max_rows` in all."""
    share = min(1.0, max_rows / sum(tables[index].rows for index in held))
    return {index: max(1, int(tables[index].rows * share)) for index in held}


def _small(model: Model, held_rows: Mapping[int, int]) -> Model:
    """The model with so many rows of its tables, and one more, and room in its bags."""
    tables = tuple(replace(table, rows=1 + held_rows.get(i, 0)) for i, table in enumerate(model.tables))
    return replace(model, tables=tables, lookups=tuple(map(_roomy, model.lookups)))


def _roomy(lookup: Lookup) -> Lookup:
    layout = lookup.ids.layout
    if not isinstance(layout, Columns) or layout.width is None:
        return lookup
    return replace(lookup, ids=replace(lookup.ids, layout=replace(layout, bag=max(layout.bag, LEAST_BAG))))


def _plan(spec: Spec, held_rows: Mapping[int, int]) -> Plan:
    """`rows` takes the first rows of its tables, `empty` the last one of every table."""
    tables = spec.model.tables
    rows = tuple(Shard(tables[index].name, 0, rows) for index, rows in held_rows.items())
    empty = tuple(Shard(table.name, table.rows - 1, table.rows) for table in tables)
    services = (planned_service("dense", ()), planned_service("rows", rows), planned_service("empty", empty))
    return Plan(spec.name, "tiered", services)


def planned_service(name: str, shards: tuple[Shard, ...]) -> Service:
    """One instance; its figures are what is to be measured."""
    kind: Kind = "embedding" if shards else "dense"
    return Service(name, kind, "cpu", instances=1, replicas=1, memory_bytes=0, gathers=0.0, qps=0.0, shards=shards)


def _opened(spec: Spec) -> Source:
    """The model's door; a DLRM's weights are random, so that a spec is profiled before there are any."""
    if isinstance(spec.form, Dlrm):
        return open_source(replace(spec, form=replace(spec.form, weights=Weights("random"))))
    return open_source(spec)


class RandomRows:
    """A model with its own dense layers, and random rows in tables of another size."""

    def __init__(self, source: Source, model: Model) -> None:
        self._source, self.model, self.notes, self.tolerance = source, model, source.notes, source.tolerance

    def table_chunks(self, table: Table) -> Iterator[NDArray[Any]]:
        """Uniform between 0 and 1."""
        rng, dim, dtype = np.random.default_rng(0), table.format.dim, table.format.dtype
        for begin in range(0, table.rows, _CHUNK_ROWS):
            rows = rng.random((min(_CHUNK_ROWS, table.rows - begin), dim), np.float32)
            yield rows if dtype == "fp32" else stored_rows(rows, dtype)

    def write_dense(self, partials: Sequence[Partial], folder: Path) -> Sequence[str]:
        """See Source.write_dense."""
        return self._source.write_dense(partials, folder)

    def write_ids(self, folder: Path) -> Sequence[str]:
        """See Source.write_ids."""
        return self._source.write_ids(folder)

    def write_whole(self, folder: Path) -> Sequence[str]:
        """See Source.write_whole; nobody serves it."""
        return []

    def ids(self, inputs: Arrays) -> Arrays:
        """See Source.ids."""
        return self._source.ids(inputs)

    def answers(self, inputs: Arrays) -> Arrays:
        """See Source.answers."""
        return self._source.answers(inputs)

    def samples(self) -> Arrays | None:
        """See Source.samples."""
        return self._source.samples()

    def tried(self) -> None:
        """Nobody asks whether it answers as the model does."""


def write_files(design: Design, source: Source, backend: ShardBackend, folder: Path) -> None:
    """All files but the manifest: nobody will ask whether it answers as the model does."""
    even = PowerLawHotness(locality=0.0, seed=0)  # all rows alike: the hotness order is that of the ids
    folder.mkdir()
    with ThreadPoolExecutor(1) as pool:
        write_weights(design, source, even, folder, pool, silent, lambda table, begin, rows: None)
        for path, data in small_files(design, QueryFile({}), backend, FIRST_VERSION):
            write_bytes(folder, path, data, pool)


def _configure(design: Design, backend: ShardBackend, folder: Path) -> None:
    """Give the embedding services the configuration of a fleet's: native ones take one call after another."""
    fleet = replace(design, layout="fleet")
    for held in design.wiring:
        config = embedding_config(fleet, held, backend)
        (folder / config.name / "config.pbtxt").write_text(to_text(config), encoding="utf-8")


def _take(folder: Path, spec: Spec, part: str) -> Served:
    """Move a model out of the whole repository into one of its own."""
    served = Served(model_name(spec, part), folder / part)
    served.repository.mkdir()
    (folder / "whole" / served.name).rename(served.repository / served.name)
    return served
