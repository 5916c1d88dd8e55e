"""The native backends called as Triton calls them, in this process, by a stand-in for its API (`fake_triton.c`)."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from ctypes import POINTER, Structure, byref, c_char, c_char_p, c_int32, c_int64, c_uint32, c_uint64, c_void_p
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import triton_backends.native

LIBRARIES = Path(triton_backends.native.__file__).parent
TYPES = {
    np.dtype(kind): number
    for kind, number in {
        np.bool_: 1,
        np.uint8: 2,
        np.uint16: 3,
        np.uint32: 4,
        np.uint64: 5,
        np.int8: 6,
        np.int16: 7,
        np.int32: 8,
        np.int64: 9,
        np.float16: 10,
        np.float32: 11,
        np.float64: 12,
    }.items()
}
BYTES = 13  # what else a tensor may hold
GPU = 2
CPU_KIND, GPU_KIND = 1, 2  # of instance groups


class _Input(Structure):
    _fields_ = (
        ("name", c_char_p),
        ("datatype", c_int32),
        ("memory_type", c_int32),
        ("shape", POINTER(c_int64)),
        ("dims", c_uint32),
        ("buffer_count", c_uint32),
        ("byte_size", c_uint64),
        ("buffers", POINTER(c_void_p)),
        ("sizes", POINTER(c_uint64)),
    )


class _Output(Structure):
    _fields_ = (
        ("name", c_char * 256),
        ("datatype", c_int32),
        ("dims", c_uint32),
        ("shape", c_int64 * 8),
        ("byte_size", c_uint64),
        ("memory", c_void_p),
    )


class _Request(Structure):
    _fields_ = (
        ("inputs", POINTER(_Input)),
        ("input_count", c_uint32),
        ("output_count", c_uint32),
        ("output_memory_type", c_int32),
        ("output_offset", c_int32),
        ("outputs", _Output * 64),
        ("error", c_char * 1024),
        ("sent", c_int32),
        ("released", c_int32),
        ("code", c_int32),
    )


class _Model(Structure):
    _fields_ = (("location", c_char_p), ("version", c_uint64), ("state", c_void_p), ("config", c_char_p))


class Instance(Structure):
    """A model's instance, and what it has reported: requests, executions, and the requests of these."""

    _fields_ = (
        ("model", POINTER(_Model)),
        ("good", c_uint64),
        ("bad", c_uint64),
        ("executions", c_uint64),
        ("executed", c_uint64),
        ("state", c_void_p),
        ("kind", c_int32),
        ("device", c_int32),
    )


@dataclass(frozen=True)
class Given:
    """An input as Triton may hand it over: in pieces, at an odd address, on a GPU, of a size that it is not."""

    array: np.ndarray
    pieces: int = 1
    offset: int = 0
    memory_type: int = 0
    byte_size: int | None = None
    shape: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Asked:
    """Where outputs shall go."""

    memory_type: int = 0
    offset: int = 0


class BackendError(Exception):
    """What the backend said."""


def compile_fake(folder: Path) -> Path:
    """The stand-in's library."""
    here = Path(__file__).parent
    return compile_library(here / "fake_triton.c", folder, str(here / "fake_server.c"))


def compile_library(source: Path, folder: Path, *flags: str) -> Path:
    """A library of one C file."""
    library = folder / f"lib{source.stem}.so"
    compiler = [sys.executable, "-m", "ziglang", "cc", "-mcpu=x86_64_v2", "-g0", "-Wall", "-Wextra", "-Werror"]
    if words := os.environ.get("SANITIZED_CC"):  # of `make sanitize`
        compiler = words.split()
    flags = ("-O1", "-pthread", "-shared", "-fPIC", *flags)
    environment = {**os.environ, "LD_PRELOAD": ""}  # a sanitizer looks at us, not at the compiler
    subprocess.run([*compiler, *flags, str(source), "-o", str(library)], env=environment, check=True)
    return library


class Backend:
    """One of the libraries; `fake` must live in the process already, its names visible to all."""

    def __init__(self, fake: ctypes.CDLL, name: str) -> None:
        self.fake = fake
        self.library = ctypes.CDLL(str(LIBRARIES / f"libtriton_{name}.so"))
        for function in ("Initialize", "ModelInitialize", "ModelFinalize", "ModelInstanceExecute"):
            getattr(self.library, f"TRITONBACKEND_{function}").restype = c_void_p
        self.instance_initialize = getattr(self.library, "TRITONBACKEND_ModelInstanceInitialize", None)
        if self.instance_initialize is not None:
            self.instance_initialize.restype = c_void_p
        self.fake.TRITONSERVER_ErrorMessage.restype = c_char_p

    def check(self, error: int | None) -> None:
        """Raise an error that a function of the backend returned."""
        if error:
            message = self.fake.TRITONSERVER_ErrorMessage(c_void_p(error)).decode(errors="backslashreplace")
            self.fake.TRITONSERVER_ErrorDelete(c_void_p(error))
            raise BackendError(message)

    def initialize(self) -> None:
        self.check(self.library.TRITONBACKEND_Initialize(None))


@dataclass
class Pending:
    """Requests of one call, and the memory that they point at."""

    fake: ctypes.CDLL
    requests: list[_Request]
    offset: int
    kept: list[object]

    def answers(self, timeout_s: float = 20) -> list[dict[str, np.ndarray] | BackendError]:
        """What each gets, once all have been let go."""
        until = time.monotonic() + timeout_s
        while not all(request.released for request in self.requests):
            assert time.monotonic() < until, "no answer"
            time.sleep(0.0005)
        found = [_answer(request, self.offset) for request in self.requests]
        for request in self.requests:
            self.fake.fake_free_outputs(byref(request))
        return found


class Model:
    """A model of a folder, with one instance, on a GPU where `gpu` is its number; use it in a `with`."""

    def __init__(self, backend: Backend, folder: Path, config: str = "{}", gpu: int | None = None) -> None:
        self.backend = backend
        self._model = _Model(str(folder).encode(), 1, None, config.encode())
        self.instance = Instance(ctypes.pointer(self._model))
        self.instance.kind, self.instance.device = (CPU_KIND, 0) if gpu is None else (GPU_KIND, gpu)

    def __enter__(self) -> Model:
        self.backend.check(self.backend.library.TRITONBACKEND_ModelInitialize(byref(self._model)))
        try:
            self.add(self.instance)
        except BackendError:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.backend.check(self.backend.library.TRITONBACKEND_ModelFinalize(byref(self._model)))

    def add(self, instance: Instance) -> None:
        """Have the backend make one more instance, where it wants to know of them."""
        if self.backend.instance_initialize is not None:
            self.backend.check(self.backend.instance_initialize(byref(instance)))

    def submit(self, requests: Sequence[Mapping[str, Given | np.ndarray]], asked: Asked | None = None) -> Pending:
        """Hand requests over in one call; their answers may come later."""
        asked = asked or Asked()
        kept: list[object] = []
        made = [_request(inputs, asked, kept) for inputs in requests]
        pointers = (POINTER(_Request) * len(made))(*(ctypes.pointer(request) for request in made))
        self.backend.check(
            self.backend.library.TRITONBACKEND_ModelInstanceExecute(byref(self.instance), pointers, len(made))
        )
        return Pending(self.backend.fake, made, asked.offset, kept)

    def infer(self, inputs: Mapping[str, Given | np.ndarray], asked: Asked | None = None) -> dict[str, np.ndarray]:
        """The outputs of one request."""
        (answer,) = self.infer_all([inputs], asked)
        if isinstance(answer, BackendError):
            raise answer
        return answer

    def infer_all(
        self, requests: Sequence[Mapping[str, Given | np.ndarray]], asked: Asked | None = None
    ) -> list[dict[str, np.ndarray] | BackendError]:
        """What each request of one call gets: each is answered once and released."""
        answers = self.submit(requests, asked).answers()
        assert c_int32.in_dll(self.backend.fake, "fake_live_errors").value == 0
        return answers


def _request(inputs: Mapping[str, Given | np.ndarray], asked: Asked, kept: list[object]) -> _Request:
    """A request; what it points at is put into `kept`."""
    made = [_input(name, given if isinstance(given, Given) else Given(given), kept) for name, given in inputs.items()]
    array = (_Input * len(made))(*made)
    kept.append(array)
    request = _Request(array, len(made))
    request.output_memory_type, request.output_offset = asked.memory_type, asked.offset
    return request


def _input(name: str, given: Given, kept: list[object]) -> _Input:
    raw = given.array.tobytes()
    ends = [len(raw) * (i + 1) // given.pieces for i in range(given.pieces)]
    parts = [raw[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]
    # memory of exactly the part's size (and the offset), so that a sanitizer sees a read beyond it
    memory = [ctypes.create_string_buffer(bytes(given.offset) + part, given.offset + len(part)) for part in parts]
    buffers = (c_void_p * given.pieces)(*(ctypes.addressof(each) + given.offset for each in memory))
    sizes = (c_uint64 * given.pieces)(*(len(part) for part in parts))
    dims = given.array.shape if given.shape is None else given.shape
    shape = (c_int64 * len(dims))(*dims)
    kept += [memory, buffers, sizes, shape]
    size = len(raw) if given.byte_size is None else given.byte_size
    kind = TYPES.get(given.array.dtype, BYTES)
    return _Input(name.encode(), kind, given.memory_type, shape, len(dims), given.pieces, size, buffers, sizes)


def _answer(request: _Request, offset: int) -> dict[str, np.ndarray] | BackendError:
    assert (request.sent, request.released) == (1, 1)
    if request.error:
        return BackendError(request.error.decode(errors="backslashreplace"))
    kinds = {number: dtype for dtype, number in TYPES.items()}
    return {
        output.name.decode(errors="backslashreplace"): np.frombuffer(  # a damaged router.json has any names
            ctypes.string_at(output.memory + offset, output.byte_size), kinds[output.datatype]
        ).reshape(output.shape[: output.dims])
        for output in request.outputs[: request.output_count]
    }
