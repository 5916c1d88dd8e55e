"""The fleets whose front ends are measured: one small DLRM, cut into few or many services, with few or many ids a row.

They differ in nothing else. The model is ours, not the spec's, so that its dense layers are next to nothing and the
front end's own work shows; rows and tables are RM1's, so that a service answers a query with 32 KB, all services'
sums of it. The shards are always native: the front end is the same one, whatever serves them, and however they are
grouped. No table stands in one service alone, for its ids need no map then: they cost half of what they do in two
services or in six. The id maps fit the processor's caches, which those of the largest tables do not.

The dense model takes queries one by one. It would join those that wait for it, which are not as many at each point,
and what that spares it would pass for the price of ids and calls. All else is as in any fleet: calls that would wait
for a service go together, as they do at a front end that is loaded fully.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from repo_builder.access.powerlaw import PowerLawHotness
from repo_builder.access.queries import draw_queries
from repo_builder.export.dlrm.source import open_source
from repo_builder.model.arrays import wired
from repo_builder.model.dlrm import Dlrm, DlrmTable, Weights
from repo_builder.model.source import Partial, Source
from repo_builder.model.types import Model
from repo_builder.partition.plan import Plan, Shard
from repo_builder.profiling import perf_analyzer
from repo_builder.profiling.models import RandomRows, planned_service, write_files
from repo_builder.repository.configs import dense_config, to_text
from repo_builder.repository.design import Design
from repo_builder.spec import Access, Serving, Spec

FRONT_LOADS = ((2, 8), (2, 80), (8, 8), (8, 80))
"""Embedding services, and ids of a row in each table, of every fleet."""

ROWS = 32  # of a query
_TABLES = [f"T{i}" for i in range(8)]
_TABLE_ROWS, _DIM = 10_000, 32
_QUERIES = 16  # different ones: no bag is that of the row before, which would be asked for once
_DEADLINE_MS = 60_000.0  # a query that misses its deadline would not be measured


@dataclass(frozen=True, slots=True)
class FrontFleet:
    """A fleet to measure: the model that its front end serves, its services' names, and its queries of so many ids."""

    model: str
    services: tuple[str, ...]
    ids: int
    queries: Path


@dataclass(frozen=True, slots=True)
class FrontFleets:
    """All of them: their front ends in one repository, and their embedding services in another."""

    fleets: tuple[FrontFleet, ...]
    frontends: Path
    shards: Path


def build_fleets(folder: Path) -> FrontFleets:
    """Build a fleet for each of FRONT_LOADS below `folder`, and write their queries there."""
    fleets = FrontFleets((), folder / "frontends", folder / "shards")
    for made in (folder, fleets.frontends, fleets.shards):
        made.mkdir()
    (folder / "dense").mkdir()
    first = _spec(*FRONT_LOADS[0])
    source = open_source(first)
    exported = source.write_dense(Design.of(first, _plan(first, 1), "fleet").sums, folder / "dense")
    found = []
    for services, bag in FRONT_LOADS:
        spec = _spec(services, bag)
        design = Design.of(spec, _plan(spec, services), "fleet")
        copied = _CopiedDense(source, spec.model, [folder / "dense" / name for name in exported])
        _write(design, copied, folder / spec.name, fleets)
        names = tuple(held.name for held in design.wiring)
        found.append(FrontFleet(spec.name, names, round(spec.gathers), _write_queries(spec, folder / f"{bag}.json")))
    return FrontFleets(tuple(found), fleets.frontends, fleets.shards)


class _CopiedDense(RandomRows):
    """A model whose dense layers were exported before, into these files: that takes seconds."""

    def __init__(self, source: Source, model: Model, files: Sequence[Path]) -> None:
        super().__init__(source, model)
        self._files = files

    def write_dense(self, partials: Sequence[Partial], folder: Path) -> Sequence[str]:
        return [Path(shutil.copy(path, folder)).name for path in self._files]


def _spec(services: int, bag: int) -> Spec:
    tables = tuple(DlrmTable(name, _TABLE_ROWS, _DIM, bag) for name in _TABLES)
    form = Dlrm(1, (_DIM,), (1,), tables, "int64", Weights("random"), keep_under_bytes=0)
    serving = Serving(target_qps=1.0, batch=ROWS, sla_ms=_DEADLINE_MS)
    return Spec.of_dlrm(f"front_{services}_{bag}", form, Access("powerlaw", locality=0.0), serving)


def _plan(spec: Spec, services: int) -> Plan:
    """Each service holds as many rows of every table. All fleets share a file of addresses, so no name comes twice."""
    cuts = [_TABLE_ROWS * i // services for i in range(services + 1)]
    held = [
        planned_service(f"{spec.name}_{i}", tuple(Shard(name, cuts[i], cuts[i + 1]) for name in _TABLES))
        for i in range(services)
    ]
    return Plan(spec.name, "tiered", (planned_service("dense", ()), *held))


def _write(design: Design, source: Source, folder: Path, fleets: FrontFleets) -> None:
    """Write the fleet to `folder`, and move its models to the repositories that are served."""
    write_files(design, source, "native", folder)
    config = dense_config(design)
    config.max_batch_size = ROWS  # one query fills it
    (folder / "frontend" / config.name / "config.pbtxt").write_text(to_text(config), encoding="utf-8")
    for model in (folder / "frontend").iterdir():
        model.rename(fleets.frontends / model.name)
    for held in design.wiring:
        for model in (folder / held.name).iterdir():
            model.rename(fleets.shards / model.name)


def _write_queries(spec: Spec, path: Path) -> Path:
    """Their ids are as likely as any other: the same for all fleets with as many."""
    if not path.exists():
        queries = draw_queries(spec.model, PowerLawHotness(locality=0.0, seed=0), _QUERIES, ROWS, seed=0)
        whole = (queries.query(number, ROWS) for number in range(_QUERIES))
        perf_analyzer.write_queries(path, (wired(query, spec.model.inputs) for query in whole))
    return path
