"""What one call of a service in another server adds: to the latency, and in the caller's processor time."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tritonclient.grpc
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from repo_builder.errors import ServerError
from repo_builder.profiling.points import RemoteCall
from repo_builder.serving.client import times_by_model
from repo_builder.serving.server import Server

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
