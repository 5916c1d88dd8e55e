"""Running a graph on the processor, the types of its tensors, and queries that are drawn to try it on."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto
from onnxruntime import InferenceSession, SessionOptions
from onnxruntime.capi import onnxruntime_pybind11_state as _state

from repo_builder.export.onnx_file.graph import sized
from repo_builder.model.arrays import DTYPES, Arrays
from repo_builder.model.types import BATCH, Datatype, Ragged, Tensor

DATATYPES: Mapping[int, Datatype] = {
    TensorProto.BOOL: "BOOL",
    TensorProto.UINT8: "UINT8",
    TensorProto.UINT16: "UINT16",
    TensorProto.UINT32: "UINT32",
    TensorProto.UINT64: "UINT64",
    TensorProto.INT8: "INT8",
    TensorProto.INT16: "INT16",
    TensorProto.INT32: "INT32",
    TensorProto.INT64: "INT64",
    TensorProto.FLOAT16: "FP16",
    TensorProto.FLOAT: "FP32",
    TensorProto.DOUBLE: "FP64",
}
"""What a model's inputs and outputs can be."""

HALVES = frozenset({TensorProto.FLOAT16, TensorProto.BFLOAT16})

RUNTIME_ERRORS: tuple[type[Exception], ...] = (
    _state.EPFail,
    _state.Fail,
    _state.InvalidArgument,
    _state.InvalidGraph,
    _state.InvalidProtobuf,
    _state.NoSuchFile,
    _state.NotImplemented,
    _state.RuntimeException,
)
"""What onnxruntime raises."""


def reason(exc: Exception) -> str:
    """What onnxruntime says in an error, without its codes."""
    line = str(exc).strip().splitlines()[0]
    return re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", line).rpartition("Status Message: ")[2]


class Session:
    """A model on one thread; large initializers are mapped from files, not read."""

    def __init__(self, model: onnx.ModelProto | Path, folder: Path) -> None:
        """model: itself, or its file. folder: of external data. Raises one of RUNTIME_ERRORS where it is refused."""
        options = SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 4  # its errors are raised too
        content = str(model)
        if isinstance(model, onnx.ModelProto):
            content = model.SerializeToString()
            options.add_session_config_entry(_FOLDER_KEY, str(folder.absolute()))
        self._session = InferenceSession(content, options, providers=["CPUExecutionProvider"])
        self.inputs: Sequence[str] = [entry.name for entry in self._session.get_inputs()]
        self.outputs: Sequence[str] = [entry.name for entry in self._session.get_outputs()]

    def run(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """All outputs; inputs that the model has not are left out."""
        given = {name: np.ascontiguousarray(inputs[name]).reshape(inputs[name].shape) for name in self.inputs}
        return dict(zip(self.outputs, self._session.run(list(self.outputs), given), strict=True))


_FOLDER_KEY = "session.model_external_initializers_file_folder_path"


_BATCH_ROWS = 4
_OTHER_SIZE = 6


def sizes_of(arrays: Arrays, inputs: Sequence[Tensor]) -> Mapping[str, int]:
    """The size of each symbol in a query."""
    return {
        size: got
        for tensor in inputs
        for size, got in zip(tensor.shape, arrays[tensor.name].shape, strict=True)
        if isinstance(size, str)
    }


def first_rows(arrays: Arrays, inputs: Sequence[Tensor], rows: int) -> Arrays:
    """A query of the first rows of the batch alone; all of it where some input is not rows of the batch."""
    if any(tensor.shape[:1] != (BATCH,) or BATCH in tensor.shape[1:] for tensor in inputs):
        return arrays
    return {name: array[:rows] for name, array in arrays.items()}


def drawn(
    inputs: Sequence[Tensor], bounds: Mapping[str, Sequence[int]], ragged: Mapping[Ragged, str], below: int
) -> Arrays:
    """A query drawn from a seed: ids within their tables, other whole numbers below a bound, floats from 0 to 1.

    bounds: for an input that holds ids, what they are below, column by column. ragged: inputs of ids in a row, by what
    says where bags of them begin.
    """
    rng = np.random.default_rng(0)
    symbols = [size for tensor in inputs for size in tensor.shape if isinstance(size, str)]
    sizes = sized(symbols, lambda symbol: _BATCH_ROWS if symbol == BATCH else _OTHER_SIZE)
    arrays: dict[str, NDArray[Any]] = {}
    for tensor in inputs:
        shape = tuple(size if isinstance(size, int) else sizes[size] for size in tensor.shape)
        dtype = DTYPES[tensor.datatype]
        if dtype.kind == "f":
            arrays[tensor.name] = rng.random(shape).astype(dtype)
        elif dtype.kind == "b":
            arrays[tensor.name] = rng.random(shape) < 0.5
        else:
            highest = np.resize(np.array(bounds.get(tensor.name, [below])), int(np.prod(shape)))
            arrays[tensor.name] = rng.integers(0, highest).reshape(shape).astype(dtype)
    for layout, ids in ragged.items():
        if layout.bounds in arrays and ids in arrays:
            ends = np.sort(rng.integers(0, arrays[ids].size + 1, arrays[layout.bounds].shape))
            ends[0], ends[-1] = 0, arrays[ids].size if layout.kind == "ends" else ends[-1]
            arrays[layout.bounds] = ends.astype(arrays[layout.bounds].dtype)
    return arrays
