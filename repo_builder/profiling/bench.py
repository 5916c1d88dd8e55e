"""One served model measured: by perf_analyzer at several loads in turn, and what a call of it in another server adds,
to the latency and in the caller's processor time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any

import numpy as np
import tritonclient.grpc
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from repo_builder.errors import ServerError
from repo_builder.profiling import perf_analyzer
from repo_builder.profiling.points import LoadFigures, RemoteCall, ServiceLoad
from repo_builder.serving.client import times_by_model
from repo_builder.serving.server import Server


def measure_loads(
    server: Server, model: str, loads: Sequence[ServiceLoad], rounds: int, seconds: float, tick: Callable[[], None]
) -> list[LoadFigures]:
    """Each load's figures: medians over `rounds` of all loads in turn, of `seconds` each; `tick` is called after each.

    Raises LoadTestError where perf_analyzer fails.
    """
    found: list[list[LoadFigures]] = [[] for _ in loads]
    for _ in range(rounds):
        for load, figures in zip(loads, found, strict=True):
            figures.append(_measure(server, model, load, seconds))
            tick()
    return [_median(figures) for figures in found]


def _measure(server: Server, model: str, load: ServiceLoad, seconds: float) -> LoadFigures:
    before = times_by_model(server.http)[model]
    measured = perf_analyzer.run(model, server.grpc, load.input_data, load.in_flight, seconds, load.rows)
    after = times_by_model(server.http)[model]
    queries = (after.requests - before.requests) / (after.executions - before.executions)
    return LoadFigures(measured.throughput_qps, queries, measured.p50_ms, measured.p95_ms)


def _median(figures: Sequence[LoadFigures]) -> LoadFigures:
    """The median of each figure by itself."""
    return LoadFigures(
        qps=median(each.qps for each in figures),
        queries=median(each.queries for each in figures),
        p50_ms=median(each.p50_ms for each in figures),
        p95_ms=median(each.p95_ms for each in figures),
    )


_CALLS = 100  # between two looks at the server's statistics


def measure_remote_call(server: Server, model: str, inputs: Mapping[str, NDArray[Any]], rounds: int) -> RemoteCall:
    """Call `model` from this process, one call at a time; medians over rounds of 100 calls, after one to warm up.

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
    return RemoteCall(*(float(figure) for figure in np.median(found, axis=0)))


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
