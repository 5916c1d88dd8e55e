"""Measuring a spec's services on real Triton servers, one server at a time, each with one instance of one model, on a
core of its own: the load generator has the others. The front end of a fleet is measured besides (`front.py`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from repo_builder.access.hotness import Hotness
from repo_builder.errors import ServerError
from repo_builder.machine import machine_facts
from repo_builder.output import Progress, silent
from repo_builder.profiling import call_load, perf_analyzer
from repo_builder.profiling.call_load import CallLoad
from repo_builder.profiling.capacity import most_in_flight, on_cores, split_cores
from repo_builder.profiling.front import measure_front
from repo_builder.profiling.front_fleets import FRONT_LOADS
from repo_builder.profiling.loads import measure_loads, serving
from repo_builder.profiling.models import Models, Served, build_models
from repo_builder.profiling.points import (
    CALLS,
    Accesses,
    DensePoint,
    Effort,
    EmbeddingLoad,
    EmbeddingPoint,
    LoadFigures,
    Measured,
    ProfileOptions,
    RemoteCall,
    ServiceLoad,
    is_busy,
)
from repo_builder.profiling.queries import Query, dense_load, draw_queries, gathered_row_bytes, one_row_a_bag
from repo_builder.profiling.row_prices import cache_levels, measure_row_points
from repo_builder.serving.client import times_by_model
from repo_builder.serving.faults import version_of
from repo_builder.serving.install import Installation, installation
from repo_builder.serving.processes import memory_alone
from repo_builder.serving.server import Server
from repo_builder.spec import Spec


def measure(
    spec: Spec, hotness: Hotness, options: ProfileOptions, folder: Path, progress: Progress = silent
) -> Measured:
    """Build the models below `folder`, serve each alone and measure it; `progress` counts measurements.

    Raises LoadTestError without perf_analyzer or nghttp2, ServerError without tritonserver, or what a failure of them
    raises.
    """
    perf_analyzer.find()  # before the long work: tell now that it is missing, or what a load of calls needs
    call_load.check()
    own, others = split_cores()
    caches = cache_levels()
    loads = options.effort.embedding_loads(caches)
    bench = _Bench(folder, options.effort, spec.serving.sla_ms, own, _counter(options.effort, len(loads), progress))
    with installation() as installed, on_cores(others):
        models = build_models(spec, options.grouping, options.max_rows, options.backend, folder)
        embedding = bench.embedding(installed, models, hotness, spec, loads)
        dense = bench.dense(installed, models, spec, hotness)
        with serving(installed, models.empty.repository, own) as server:
            query = one_row_a_bag(spec.model, models.wired("empty"), spec.serving.batch)
            remote = measure_remote_call(server, models.empty.name, _joinable(query), 3 * options.effort.rounds)
            CallLoad([query], CALLS).run(server, models.empty.name, 1.0)  # the memory that it serves with
            memory_bytes = memory_alone(server.process.pid)
            version = version_of(server.http) or "unknown"
        front = measure_front(installed, options.effort, own, folder / "front", bench.tick)
    with on_cores(own):
        rows = measure_row_points(caches)
    facts = machine_facts(version)
    row_bytes = gathered_row_bytes(spec.model, models.wired("rows"))
    held_rows = models.held_rows.values()
    held = len(held_rows), sum(held_rows)
    return Measured(embedding, caches, rows, row_bytes, dense, front, remote, memory_bytes, *held, facts)


def measure_dense(spec: Spec, hotness: Hotness, options: ProfileOptions, folder: Path) -> tuple[DensePoint, ...]:
    """The same of the dense service alone."""
    own, others = split_cores()
    bench = _Bench(folder, options.effort, spec.serving.sla_ms, own, lambda: None)
    with installation() as installed, on_cores(others):
        models = build_models(spec, options.grouping, options.max_rows, options.backend, folder)
        return bench.dense(installed, models, spec, hotness)


@dataclass(frozen=True, slots=True)
class _Bench:
    """Where queries are written, what is measured within which SLA, servers' cores, and whom to tell of each
    measurement.
    """

    folder: Path
    effort: Effort
    sla_ms: float
    cores: Set[int]
    tick: Callable[[], None]

    def embedding(
        self, installed: Installation, models: Models, hotness: Hotness, spec: Spec, asked: Sequence[EmbeddingLoad]
    ) -> tuple[EmbeddingPoint, ...]:
        """The embedding service at all its loads; a capacity is the best of those within the SLA."""
        held, batch, effort = models.wired("rows"), spec.serving.batch, self.effort

        @cache
        def drawn(accesses: Accesses, gathers: int, joined: int, within_bytes: int | None) -> list[Query]:
            query = batch * joined, gathers * joined, accesses, within_bytes
            return list(draw_queries(hotness, spec.model, held, models.held_rows, *query))

        loads = [
            CallLoad(drawn(load.accesses, load.gathers, load.joined, load.within_bytes), load.in_flight, load.joined)
            for load in asked
        ]
        with serving(installed, models.rows.repository, self.cores) as server:
            seconds = effort.seconds / effort.rounds
            found = measure_loads(server, models.rows.name, loads, effort.rounds, seconds, self.tick)
        points = [EmbeddingPoint(load, figures) for load, figures in zip(asked, found, strict=True)]
        best = {self._best([point for point in points if point.load.gathers == gathers]) for gathers in effort.gathers}
        return tuple(replace(point, capacity=point in best) for point in points)

    def _best(self, points: Sequence[EmbeddingPoint]) -> EmbeddingPoint | None:
        """The one whose core answers most per second, of the busy ones within the SLA."""
        within = [point for point in points if is_busy(point) and point.figures.p95_ms <= self.sla_ms]
        return max(within, key=lambda point: point.figures.core_qps, default=None)

    def dense(self, installed: Installation, models: Models, spec: Spec, hotness: Hotness) -> tuple[DensePoint, ...]:
        """The dense service at all its loads, and at those of its capacities."""
        loads = {
            dense_load(models, hotness, self.folder, rows, in_flight): rows
            for rows, in_flight in self.effort.dense_loads
        }
        sought = [load for load in loads if load.in_flight == max(self.effort.dense_in_flight)]
        described = {_asked(load): rows for load, rows in loads.items()}
        found, best = self._found(installed, models.dense, list(loads), sought)
        return tuple(
            DensePoint(rows := described[_asked(load)], _flops(spec, rows), load.in_flight, figures, load in best)
            for load, figures in found.items()
        )

    def _found(
        self, installed: Installation, model: Served, loads: Sequence[ServiceLoad], sought: Sequence[ServiceLoad]
    ) -> tuple[Mapping[ServiceLoad, LoadFigures], Set[ServiceLoad]]:
        """The figures at `loads`, and at those that the search for a capacity tries from each of `sought` on; and at
        which of them the capacities are.
        """
        rounds, best = self.effort.rounds, set()
        with serving(installed, model.repository, self.cores) as server:

            def measured(loads: Sequence[ServiceLoad]) -> list[LoadFigures]:
                return measure_loads(server, model.name, loads, rounds, self.effort.seconds / rounds, self.tick)

            found = dict(zip(loads, measured(loads), strict=True))
            for load in sought:

                def ask(in_flight: int, load: ServiceLoad = load) -> LoadFigures:
                    tried = replace(load, in_flight=in_flight)
                    if tried not in found:
                        found[tried] = measured([tried])[0]
                    return found[tried]

                in_flight = most_in_flight(ask, load.in_flight, self.sla_ms)
                if in_flight is not None:
                    best.add(replace(load, in_flight=in_flight))
        return found, best


def _asked(load: ServiceLoad) -> ServiceLoad:
    """What a load asks, however many at a time."""
    return replace(load, in_flight=0)


def _counter(effort: Effort, embedding_loads: int, progress: Progress) -> Callable[[], None]:
    """Tells `progress` of one measurement more; how many a search takes is not known before."""
    searches = 2 * len(effort.dense_rows)
    points = embedding_loads + len(effort.dense_loads) + len(FRONT_LOADS)
    done, total = 0, effort.rounds * (points + searches)
    progress(done, total)

    def tick() -> None:
        nonlocal done
        done += 1
        progress(min(done, total), total)

    return tick


def _flops(spec: Spec, rows: int) -> int:
    return round(rows * spec.model.dense.flops_per_row)


def _joinable(query: Query) -> Query:
    """The query with the axis that joins queries."""
    return {name: array[np.newaxis] for name, array in query.items()}


_CALLS = 100  # between two looks at the server's statistics


def measure_remote_call(server: Server, model: str, inputs: Mapping[str, NDArray[Any]], rounds: int) -> RemoteCall:
    """Call `model` from this process, one call at a time; the least over rounds of 100 calls, after one to warm up:
    what others do on the machine only adds.

    inputs: by name, with the batch's axis. Raises ServerError with Triton's own message.
    """
    tensors = []
    for name, array in inputs.items():
        tensor = tritonclient.grpc.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
        tensor.set_data_from_numpy(array)
        tensors.append(tensor)
    try:
        with tritonclient.grpc.InferenceServerClient(server.grpc) as client:
            found = [_round(server, model, lambda: client.infer(model, tensors)) for _ in range(rounds + 1)][1:]
    except InferenceServerException as exc:
        raise ServerError(f"{model}: {exc.message()}") from exc
    return RemoteCall(*(float(figure) for figure in np.min(found, axis=0)))


def _round(server: Server, model: str, call: Callable[[], object]) -> tuple[float, float]:
    """A call's mean seconds beyond the server's, and mean CPU seconds of this process."""
    served_s = _served_s(server, model)
    start_s, start_cpu_s = time.perf_counter(), time.process_time()
    for _ in range(_CALLS):
        call()
    took_s, cpu_s = time.perf_counter() - start_s, time.process_time() - start_cpu_s
    return (took_s - (_served_s(server, model) - served_s)) / _CALLS, cpu_s / _CALLS


def _served_s(server: Server, model: str) -> float:
    """What the model's requests have taken in the server so far, in seconds: from their arrival to the answer."""
    times = times_by_model(server.http)[model]
    return times.requests * (times.queue_ms + times.compute_ms) / 1000
