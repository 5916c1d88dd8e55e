"""Load tests of a served repository: their queries, their runs, and what came out, side by side."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import MappingProxyType

import numpy as np

from elasticrec.loading import StrPath, Watch, load_hotness, load_plan, load_spec, log, unwatched
from loadtest.clients import Protocol
from loadtest.perf_run import Load, Recording, concurrencies
from loadtest.perf_run import search as search_rate
from loadtest.perf_run import sweep as sweep_loads
from loadtest.queries import load_queries
from loadtest.run import Percentile, Run, read_run, write_run
from loadtest.servers import PORTS, behind
from loadtest.service_rows import service_rows
from loadtest.target import LoadTarget
from loadtest.workload import draw_workload, replay_workload, samples, write_workload
from repo_builder.access.hotness import Hotness
from repo_builder.access.queries import draw_queries
from repo_builder.access.query_file import QueryFile
from repo_builder.errors import InputError
from repo_builder.extras import named_extras
from repo_builder.machine import machine_facts
from repo_builder.model.arrays import Arrays
from repo_builder.output import Tell
from repo_builder.profiling import perf_analyzer
from repo_builder.profiling.perf_analyzer import LoadTestError
from repo_builder.repository.manifest import PLAN, QUERIES, load_manifest
from repo_builder.spec import Spec
from repo_builder.words import count
from repo_builder.writing import write_whole


@named_extras()
def workload(
    repository: StrPath,
    target: StrPath,
    *,
    queries: int = 200,
    seed: int = 0,
    trace: StrPath | None = None,
    spec: StrPath | None = None,
    expected: int = 0,
    watch: Watch = unwatched,
    tell: Tell = log,
) -> QueryFile:
    """Write queries for load tests, whole or not at all, and return them.

    target: .npz for locust, .json for perf_analyzer's --input-data, none for its folder of binary files; trace: replay
    this one instead of drawing; spec: the file of the model's, for accesses that lie in a file; expected: of so many
    queries the whole model's answers too, which needs the spec.

    >>> built = elasticrec.build(elasticrec.load_spec("rm1.yaml"), "model_repository/rm1")
    >>> elasticrec.workload("model_repository/rm1", "workload.npz", queries=20).inputs["indices"].shape
    (640, 40)
    """
    folder, path = Path(repository), Path(target)
    if path.suffix not in ("", ".npz", ".json"):
        raise InputError(f"{target}: expected a name ending in .npz or .json, or a folder's")
    if queries < 1:
        raise InputError(f"queries: expected at least 1, got {queries}")
    if expected and not (spec and path.suffix == ".npz"):
        raise InputError("--expected: expected --spec with it, whose weights give the answers, and a .npz file with -o")
    manifest = load_manifest(folder)
    if trace:
        drawn = replay_workload(folder, manifest, Path(trace), queries, seed)
    elif spec:
        drawn = _of_spec(Path(spec), folder, queries, seed, expected, watch, tell)
    else:
        drawn = draw_workload(folder, manifest, queries, seed)
    write_workload(path, drawn, manifest.inputs, manifest.batch)
    return drawn


def _of_spec(
    path: Path, repository: Path, queries: int, seed: int, expected: int, watch: Watch, tell: Tell
) -> QueryFile:
    spec, manifest = load_spec(path), load_manifest(repository)
    model = spec.queried
    if (manifest.inputs, manifest.tables, manifest.lookups) != (model.inputs, model.tables, model.lookups):
        raise InputError(
            f"{path}: expected the inputs, tables and look-ups of {repository}, got others; give its own spec"
        )
    known = samples(repository, manifest)
    hotness = load_hotness(spec, watch=watch, tell=tell)
    drawn = draw_queries(model, hotness, queries, manifest.batch, seed, known)
    asked = [drawn.query(number, manifest.batch) for number in range(min(expected, queries))]
    if not asked:
        return drawn
    stored = manifest.proof is not None and manifest.proof.score_error is not None
    answers = _of_stored_rows(spec, repository, hotness, asked, watch) if stored else _answers(spec, asked)
    return replace(drawn, expected={name: np.stack([answer[name] for answer in answers]) for name in answers[0]})


def _answers(spec: Spec, queries: Sequence[Arrays]) -> Sequence[Arrays]:
    """The whole model's, by output."""
    from repo_builder.export.dlrm.source import open_source  # torch is slow to import: only where it is needed

    source = open_source(spec)
    return [source.answers(query) for query in queries]


def _of_stored_rows(
    spec: Spec, repository: Path, hotness: Hotness, queries: Sequence[Arrays], watch: Watch
) -> Sequence[Arrays]:
    """The whole model's, its rows as the repository's services store them: in fewer bits than they came in."""
    from repo_builder.export.dlrm.source import open_source
    from repo_builder.repository.row_error import RowTrial
    from repo_builder.repository.samples import SampleQueries

    plan = load_plan(repository / PLAN, spec)
    with watch("reading tables") as progress:
        return RowTrial(open_source(spec), hotness, SampleQueries(tuple(queries), {}, ""), progress).answers(plan)


def loadtest(
    repository: StrPath,
    target: StrPath,
    loads: Sequence[Load] = (),
    *,
    search: bool = False,
    address: str | None = None,
    protocol: Protocol = "grpc",
    headers: Mapping[str, str] = MappingProxyType({}),
    sla_ms: float | None = None,
    percentile: Percentile = 95,
    shared_memory: bool = False,
    seconds: float = 6.0,
    workload: StrPath | None = None,
    title: str | None = None,
    command: Sequence[str] = (),
    watch: Watch = unwatched,
    tell: Tell = log,
) -> Run:
    """Measure a served repository with perf_analyzer at each load; the run's file is written after every one of them.

    search: also for the highest request rate whose percentile stays within the SLA; with neither, one and two queries
    in flight; address: the server's, by default that of a running fleet's first front end, or of this machine;
    workload: an .npz of `workload`; command: what gives the same again, for the run's file.

    Of a server that `serve` yielded:

    >>> run = elasticrec.loadtest("model_repository/rm1", "run.json", address=server.grpc, seconds=0.5)
    >>> [point.load for point in run.points]
    [1.0, 2.0]
    >>> elasticrec.report(["run.json"], "report.html") == [run]
    True
    """
    folder = Path(repository)
    loads = list(loads) or ([] if search else list(concurrencies("1:2")))
    manifest = load_manifest(folder)
    asked = Path(workload) if workload else folder / QUERIES
    queries = load_queries(asked, manifest.batch, manifest.inputs, manifest.outputs)
    perf_analyzer.find()  # tell now that it is missing
    with tempfile.TemporaryDirectory() as scratch:
        data = Path(scratch) / "queries.json"
        addresses, servers = behind(folder, manifest, protocol, _checked_address(address, protocol))
        first, *others = addresses.split(",")
        if others:
            tell(f"asking {first}, one of {1 + len(others)} front ends: locust asks all")
        served = LoadTarget(
            manifest.name, protocol, first, data, seconds, percentile, shared_memory, servers, dict(headers)
        )
        version = served.check()
        perf_analyzer.write_input_data(data, queries.file, manifest.inputs, manifest.batch)
        run = Run(
            title=title or f"{manifest.name}, {manifest.layout}",
            tool="perf_analyzer",
            started=datetime.now(UTC).isoformat(timespec="seconds"),
            command=tuple(command),
            model=manifest.name,
            layout=manifest.layout,
            batch=manifest.batch,
            sla_ms=sla_ms or manifest.sla_ms,
            percentile=percentile,
            machine=machine_facts(version),
            rows=service_rows(folder, manifest),
            score_error=manifest.proof.score_error if manifest.proof else None,
        )
        recording = Recording(run, partial(write_run, Path(target)), served.servers.look)
        with watch("measuring"):
            _measure(served, loads, search, recording, Path(target))
    return recording.run


def _checked_address(address: str | None, protocol: Protocol) -> str | None:
    if address:
        host, _, port = address.rpartition(":")
        if not host or not port.isdigit() or not 0 < int(port) < 65536:
            raise InputError(f"--url: expected HOST:PORT, such as 127.0.0.1:{PORTS[protocol]}, got {address}")
    return address


def _measure(served: LoadTarget, loads: Sequence[Load], search: bool, recording: Recording, path: Path) -> None:
    """All that was asked for; what was measured until an interruption or a failure stays in the file."""
    try:
        sweep_loads(served, loads, recording)
        recording.finish(search_rate(served, recording.run.sla_ms or 0.0, recording) if search else None)
    except KeyboardInterrupt as exc:
        recording.cut_off("interrupted")
        raise LoadTestError(f"interrupted; {path} holds {count(len(recording.run.points), 'point')}") from exc
    except LoadTestError as exc:
        recording.cut_off(str(exc))
        raise


@named_extras()
def report(
    runs: Sequence[StrPath], target: StrPath, *, json: StrPath | None = None, csv: StrPath | None = None
) -> list[Run]:
    """Write one HTML page of load tests, side by side, and return them; json, csv: also write all figures there."""
    found = _read_runs(runs)
    from loadtest.report.page import page  # plotly is slow to import
    from loadtest.report.summary import report_csv, report_json

    write_whole(Path(target), page(found))
    if json:
        write_whole(Path(json), report_json(found))
    if csv:
        write_whole(Path(csv), report_csv(found))
    return found


def _read_runs(paths: Sequence[StrPath]) -> list[Run]:
    """Every run, or every problem of all of the files."""
    runs: list[Run] = []
    problems: list[str] = [] if paths else ["runs: expected at least one to report, got none"]
    for path in paths:
        try:
            found = read_run(Path(path))
        except InputError as exc:
            problems += exc.problems
            continue
        if not found.points and not found.timeline:
            why = f" ({found.why})" if found.why else ""
            problems.append(f"{path}: points: expected at least one, or a timeline, got neither{why}; measure again")
        runs.append(found)
    if problems:
        raise InputError(*problems)
    return runs
