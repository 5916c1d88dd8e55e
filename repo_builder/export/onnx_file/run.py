"""Running a graph on the processor, and the types of its tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto
from onnxruntime import InferenceSession, SessionOptions
from onnxruntime.capi import onnxruntime_pybind11_state as _state

from repo_builder.model.types import Datatype

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

Arrays = Mapping[str, NDArray[Any]]


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
