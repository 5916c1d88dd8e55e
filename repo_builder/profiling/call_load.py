"""Load on an embedding service as a front end's router makes it: by the router's own gRPC client, in C, which sends
nothing but the calls themselves and takes next to no processor time from who is measured.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Mapping, Sequence
from ctypes import POINTER, c_bool, c_char, c_char_p, c_int32, c_int64, c_uint64, c_void_p
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repo_builder.profiling.perf_analyzer import LoadTestError, Measurement
from repo_builder.serving.server import Server
from triton_backends.call_load import LIBRARY

PATIENCE_S = 60.0
_PROBLEM_BYTES = 512
_MOST_LATENCIES = 1 << 20
_DATATYPES = {"int32": b"INT32", "float32": b"FP32"}


class _Tensor(ctypes.Structure):
    """`LoadTensor` of call_load.c."""

    _fields_ = (("name", c_char_p), ("datatype", c_char_p), ("numbers", c_void_p), ("count", c_int64))


class _Query(ctypes.Structure):
    """`LoadQuery` of call_load.c."""

    _fields_ = (("tensors", POINTER(_Tensor)), ("count", c_int64))


class _Load(ctypes.Structure):
    """`Load` of call_load.c."""

    _fields_ = (
        ("address", c_char_p),
        ("host", c_char_p),
        ("port", c_char_p),
        ("model", c_char_p),
        ("version", c_char_p),
        ("queries", POINTER(_Query)),
        ("query_count", c_int64),
        ("in_flight", c_int64),
        ("duration_ns", c_uint64),
        ("patience_ns", c_uint64),
        ("latencies_ns", c_void_p),
        ("room", c_int64),
        ("stop", c_int32),
        ("calls", c_int64),
        ("took_ns", c_uint64),
        ("problem", c_char * _PROBLEM_BYTES),
    )


@dataclass(frozen=True, slots=True, eq=False)
class CallLoad:
    """What is sent to an embedding service: these tensors in turn, (n,) int32 or float32 by name, `in_flight` calls
    always under way, which bring `joined` queries each.
    """

    queries: Sequence[Mapping[str, NDArray[Any]]]
    in_flight: int
    joined: int = 1

    def run(self, server: Server, model: str, seconds: float) -> Measurement:
        """Measure it for about `seconds`; raises LoadTestError where a call fails."""
        return run(server.calls, model, "", self.queries, self.in_flight, seconds)


def check() -> None:
    """Raise LoadTestError where a load cannot begin, with the remedy."""
    problem = ctypes.create_string_buffer(_PROBLEM_BYTES)
    if not _library().elasticrec_call_load_ready(problem):
        raise LoadTestError(problem.value.decode(errors="replace"))


def run(
    address: str,
    model: str,
    version: str,
    queries: Sequence[Mapping[str, NDArray[Any]]],
    in_flight: int,
    seconds: float,
    patience_s: float = PATIENCE_S,
) -> Measurement:
    """Call `model` at a numeric HOST:PORT for about `seconds`, so many calls always under way, each on a connection of
    its own, and once before: the connections' time is no call's.

    version: "" for whichever the server has; patience_s: with answers that are due. Raises LoadTestError where a call
    fails.
    """
    host, _, port = address.rpartition(":")
    pointed = [_pointed(query) for query in queries]
    latencies = np.empty(_MOST_LATENCIES, np.uint64)
    load = _Load(
        address=address.encode(),
        host=host.strip("[]").encode(),
        port=port.encode(),
        model=model.encode(),
        version=version.encode(),
        queries=(_Query * len(queries))(*(query for query, _ in pointed)),
        query_count=len(queries),
        in_flight=in_flight,
        duration_ns=round(1e9 * seconds),
        patience_ns=round(1e9 * patience_s),
        latencies_ns=latencies.ctypes.data,
        room=latencies.size,
    )
    load.kept = pointed, latencies  # it points there, also where a second signal ends the wait for it
    if not _interruptible(load):
        raise LoadTestError(f"{model} at {address}: {load.problem.decode(errors='replace')}")
    p50_ms, p95_ms, p99_ms = np.percentile(latencies[: load.calls], (50, 95, 99)) / 1e6
    return Measurement(in_flight, 1e9 * load.calls / load.took_ns, float(p50_ms), float(p95_ms), float(p99_ms))


def _interruptible(load: _Load) -> bool:
    """Whether it went well. In a thread of its own: a signal's handler runs once Python has the main thread again."""
    call, done = _library().elasticrec_call_load, []
    thread = threading.Thread(target=lambda: done.append(call(load)))
    thread.start()
    try:
        thread.join()
    finally:
        load.stop = 1
        thread.join()
    return done == [True]


def _pointed(query: Mapping[str, NDArray[Any]]) -> tuple[_Query, list[NDArray[Any]]]:
    """The query as C has it, and the arrays that it points to, which are to be kept as long."""
    arrays = [np.ascontiguousarray(array) for array in query.values()]
    tensors = [
        _Tensor(name.encode(), _DATATYPES[array.dtype.name], array.ctypes.data, array.size)
        for name, array in zip(query, arrays, strict=True)
    ]
    return _Query((_Tensor * len(tensors))(*tensors), len(tensors)), arrays


@cache
def _library() -> ctypes.CDLL:
    """Other threads of Python run during its calls."""
    library = ctypes.CDLL(str(LIBRARY))
    library.elasticrec_call_load.argtypes = (POINTER(_Load),)
    library.elasticrec_call_load_ready.argtypes = (c_char_p,)
    for function in (library.elasticrec_call_load, library.elasticrec_call_load_ready):
        function.restype = c_bool
    return library
