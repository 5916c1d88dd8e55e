"""The tour of two models: a file of weights, its repository, the real server, the right scores, and how fast.

One is a DLRM by its numbers, with its checkpoint; the other a model that no line here knows, by torch.export.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from repo_builder.access.load import load_hotness
from repo_builder.access.queries import draw_queries
from repo_builder.access.query_file import QueryFile
from repo_builder.errors import ElasticRecError, InputError
from repo_builder.export.dlrm.source import open_source
from repo_builder.export.examples import write_example_checkpoint, write_example_program
from repo_builder.model.arrays import Array
from repo_builder.partition.cost import DEFAULT_DENSE_TIME, Profile, ServiceTime
from repo_builder.partition.plan import Plan
from repo_builder.partition.planner import make_plan
from repo_builder.profiling import perf_analyzer
from repo_builder.repository.build import build
from repo_builder.repository.descriptions import MAX_BATCH_ROWS
from repo_builder.repository.manifest import verify
from repo_builder.serving.client import ModelTimes, Protocol, infer, times_by_model
from repo_builder.serving.install import installation
from repo_builder.serving.processes import memory_by_model
from repo_builder.serving.server import free_ports, running
from repo_builder.spec import Spec, load_spec
from repo_builder.words import count

TOLERANCE = 1e-5
_MARK = ".elasticrec-demo"  # the folder is a demo's own
LOAD_ROWS = 1024  # what perf_analyzer sends again and again; more only makes its JSON long


@dataclass(frozen=True, slots=True)
class Options:
    """Where to build, rows per table, rows to compare, seconds to measure."""

    folder: Path
    table_rows: int
    queries: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Report:
    """What the tour of a model found; differences by protocol, memory in bytes of PSS by model."""

    spec: Spec
    plan: Plan
    differences: Mapping[str, float]
    measurement: perf_analyzer.Measurement
    memory: Mapping[str, int]
    times: Mapping[str, ModelTimes]


class WrongScoresError(ElasticRecError):
    """Served scores differ from PyTorch's."""


def run_demo(options: Options, say: Callable[[str], None], show: Callable[[Report], None]) -> None:
    """Run the tour of both models; `say` is called with a line for each step, `show` with what was found of each.

    Raises WrongScoresError where a score differs.
    """
    perf_analyzer.find()  # before the long work: tell now that it is missing
    _own_folder(options.folder)
    for example in _EXAMPLES:
        show(_tour(example, options, say))


def _tour(example: _Example, options: Options, say: Callable[[str], None]) -> Report:
    spec = _written(example, options)
    repository = options.folder / spec.name
    say(f"1. model       {options.folder / example.file}: {example.told(options.table_rows)}")
    source, hotness = open_source(spec), load_hotness(spec)
    plan = make_plan(spec, hotness, PROFILE, "tiered", 4)
    build(spec, plan, hotness, source, repository)
    files = len(verify(repository).files)
    say(f"2. repository  {repository}: {count(len(plan.services), 'service')}, {count(files, 'file')}, verified")
    with (
        installation() as installed,
        running(installed, repository, free_ports(), options.folder / f"{spec.name}.log") as server,
    ):
        say(f"3. server      ready: http {server.http}, grpc {server.grpc}, metrics {server.metrics}")
        batch = spec.serving.batch
        rows = max(options.queries, batch)  # perf_analyzer needs one whole query
        queries = draw_queries(spec.model, hotness, 1, rows, seed=1)
        (output,) = spec.model.outputs
        expected = source.answers(queries.inputs)[output.name]
        addresses: dict[Protocol, str] = {"grpc": server.grpc, "http": server.http}
        differences: dict[str, float] = {}
        for name, address in addresses.items():
            scores = _served_scores(name, address, spec, queries)
            differences[name] = float(np.abs(scores - expected).max())
            say(f"4. {name:<12}{len(scores):,} rows, max abs difference to PyTorch {differences[name]:.1e}")
            if not differences[name] <= TOLERANCE:
                raise WrongScoresError(
                    f"{name}: expected scores within {TOLERANCE:g} of PyTorch's, got {differences[name]:g}"
                )
        data = options.folder / f"{spec.name}.json"
        perf_analyzer.write_input_data(data, QueryFile(queries.first(LOAD_ROWS)), spec.model.inputs, batch)
        say(f"5. load        perf_analyzer, 2 queries of {batch} rows in flight, {options.seconds:g} s")
        measurement = perf_analyzer.run(spec.name, server.grpc, data, 2, options.seconds)
        return Report(
            spec, plan, differences, measurement, memory_by_model(server.process.pid), times_by_model(server.http)
        )


# In one server a service costs a process instead of a container: some 40 MB (see benchmarks/README.md). Slow times, so
# that tables small enough for a demo are cut in three.
PROFILE = Profile("one server: 40 MB a service", ServiceTime(5e-4, 5e-8), 40_000_000, DEFAULT_DENSE_TIME)


@dataclass(frozen=True, slots=True)
class _Example:
    """A model to show: its file, what is told of it, its spec, and how its file is written."""

    file: str
    told: Callable[[int], str]
    document: Callable[[int], dict[str, Any]]
    write: Callable[[Path, Path, int], None]


_TRAFFIC = {
    "access": {"source": "powerlaw", "locality": 0.9},
    "serving": {"target_qps": 800, "batch": 32, "sla_ms": 400},
}


def _dlrm(rows: int) -> dict[str, Any]:
    return {
        "name": "demo",
        "dense_features": 13,
        "bottom_mlp": [256, 128, 32],
        "top_mlp": [256, 64, 1],
        "tables": [{"name": "C", "rows": rows, "dim": 32, "pooling": 128, "count": 10}],
        "weights": {"source": "dlrm", "path": "demo.pt"},
        **_TRAFFIC,
    }


def _write_dlrm(spec: Path, path: Path, _: int) -> None:
    write_example_checkpoint(load_spec(spec).dlrm, path)


def _dcn_v2(_: int) -> dict[str, Any]:
    model = {"source": "exported", "path": "dcn_v2.pt2"}
    return {"name": "dcn_v2", "model": model, "keep_under_bytes": 65_536, **_TRAFFIC}


def _write_dcn_v2(_: Path, path: Path, rows: int) -> None:
    write_example_program(_PROGRAM_ROWS * rows, path)


_PROGRAM_ROWS = 4  # times those of a DLRM's table: it has two tables, not ten
_EXAMPLES = (
    _Example("demo.pt", lambda rows: f"a DLRM's checkpoint, ten tables of {rows:,} rows", _dlrm, _write_dlrm),
    _Example(
        "dcn_v2.pt2",
        lambda rows: f"a DCN-v2 by torch.export, two tables of {_PROGRAM_ROWS * rows:,} rows",
        _dcn_v2,
        _write_dcn_v2,
    ),
)


def _written(example: _Example, options: Options) -> Spec:
    """The example's file and spec, in the demo's folder."""
    document = example.document(options.table_rows)
    spec = options.folder / f"{document['name']}.yaml"
    spec.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    example.write(spec, options.folder / example.file, options.table_rows)
    return load_spec(spec)


def _own_folder(folder: Path) -> None:
    """An empty folder becomes the demo's; raises InputError where there are other files."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()) and not (folder / _MARK).is_file():
            raise InputError(
                f"{folder}: expected an empty folder, or that of a former demo, got other files; choose another with -o"
            )
        (folder / _MARK).touch()
    except OSError as exc:
        raise InputError(f"{folder}: cannot be a folder: {exc.strerror}; choose another with -o") from exc


def _served_scores(protocol: Protocol, address: str, spec: Spec, queries: QueryFile) -> Array:
    """The scores (rows, 1) of any number of rows, in queries of at most what the server takes at once."""
    parts = range(-(-(queries.rows or 0) // MAX_BATCH_ROWS))
    answers = [infer(protocol, address, spec.name, queries.query(part, MAX_BATCH_ROWS)) for part in parts]
    return np.concatenate([answer[spec.model.outputs[0].name] for answer in answers])
