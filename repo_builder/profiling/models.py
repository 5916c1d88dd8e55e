"""The models that are measured, built as any repository and taken apart: one server holds one of them, as in a fleet.

`rows` is an embedding service with enough rows to miss the caches; `empty` one with a row a table, for what a service
costs that holds next to nothing; `dense` the spec's dense layers. Weights are random: speed does not depend on them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from repo_builder.access.powerlaw import PowerLawHotness
from repo_builder.export.weights import open_weights
from repo_builder.model.dlrm import DlrmTable, Weights, dlrm_model
from repo_builder.partition.plan import Grouping, Kind, Plan, Service, Shard
from repo_builder.repository.build import build
from repo_builder.repository.configs import ShardBackend, model_name
from repo_builder.spec import Access, Spec

_PARTS = ("rows", "empty", "dense")
LEAST_POOLING = 64  # a shard bounds a query's ids by its tables' pooling: room for queries of any size that is measured


@dataclass(frozen=True, slots=True)
class Model:
    """A model by the name that Triton serves it under, and the repository that holds it alone."""

    name: str
    repository: Path


@dataclass(frozen=True, slots=True)
class Models:
    """What is measured; `tables` are those of which `rows` holds `held_rows` each, in the order of its bags."""

    rows: Model
    empty: Model
    dense: Model
    tables: tuple[DlrmTable, ...]
    held_rows: tuple[int, ...]


def build_models(spec: Spec, grouping: Grouping, max_rows: int, backend: ShardBackend, folder: Path) -> Models:
    """Build them below `folder`. `rows` holds at most some `max_rows` rows: of all tables, or where the grouping is
    `per_table` of the largest.
    """
    served = spec.tables if grouping == "tiered" else (max(spec.tables, key=lambda table: table.rows),)
    held = _held_rows(served, max_rows)
    rows_of = {table.name: rows for table, rows in zip(served, held, strict=True)}
    even = PowerLawHotness(locality=0.0, seed=0)  # all rows alike: the hotness order is that of the ids
    tables = tuple(
        replace(table, rows=1 + rows_of.get(table.name, 0), pooling=max(table.pooling, LEAST_POOLING))
        for table in spec.tables
    )
    form = replace(spec.dlrm, tables=tables, weights=Weights("random"))
    access = Access("powerlaw", locality=even.locality)
    small = replace(spec, form=form, model=dlrm_model(spec.name, form), access=access)
    build(small, _plan(small, rows_of), even, open_weights(form), folder / "whole", shard_backend=backend)
    rows, empty, dense = (_take(folder, spec, part) for part in _PARTS)
    return Models(rows, empty, dense, served, held)


def _held_rows(tables: Sequence[DlrmTable], max_rows: int) -> tuple[int, ...]:
    """Every table's rows, or the same share of each where that is more than `max_rows` in all."""
    share = min(1.0, max_rows / sum(table.rows for table in tables))
    return tuple(max(1, int(table.rows * share)) for table in tables)


def _plan(spec: Spec, rows_of: dict[str, int]) -> Plan:
    """`rows` takes the first rows of its tables, `empty` the last one of every table."""
    rows = tuple(Shard(name, 0, rows) for name, rows in rows_of.items())
    empty = tuple(Shard(table.name, table.rows - 1, table.rows) for table in spec.tables)
    services = (_service("dense", ()), _service("rows", rows), _service("empty", empty))
    return Plan(spec.name, "tiered", services)


def _service(name: str, shards: tuple[Shard, ...]) -> Service:
    """One instance; its figures are what is to be measured."""
    kind: Kind = "embedding" if shards else "dense"
    return Service(name, kind, "cpu", instances=1, replicas=1, memory_bytes=0, gathers=0.0, qps=0.0, shards=shards)


def _take(folder: Path, spec: Spec, part: str) -> Model:
    """Move a model out of the whole repository into one of its own."""
    model = Model(model_name(spec, part), folder / part)
    model.repository.mkdir()
    (folder / "whole" / model.name).rename(model.repository / model.name)
    return model
