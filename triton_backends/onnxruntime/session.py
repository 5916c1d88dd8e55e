"""Running an ONNX model for a batch of requests, as Triton's native ONNX Runtime backend does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

Tensors = Mapping[str, NDArray[Any]]


class OnnxModel:
    """An ONNX model on the CPU; `parameters` are those of the model's config, by the native backend's names."""

    def __init__(self, path: Path, parameters: Mapping[str, str]) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(parameters.get("intra_op_thread_count", "0"))
        options.inter_op_num_threads = int(parameters.get("inter_op_thread_count", "0"))
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.inputs = [item.name for item in self._session.get_inputs()]
        self.outputs = [item.name for item in self._session.get_outputs()]

    def run(self, requests: Sequence[Tensors]) -> list[dict[str, NDArray[Any]]]:
        """The outputs of each request; their rows (first axis) go through the model together.

        Raises ValueError where a request's inputs differ in their number of rows.
        """
        rows = [self._rows(request) for request in requests]
        if len(requests) == 1:
            joined: Tensors = requests[0]
        else:
            joined = {name: np.concatenate([request[name] for request in requests]) for name in self.inputs}
        results = self._session.run(self.outputs, joined)
        ends = np.cumsum(rows)[:-1]
        parts = [np.split(result, ends) for result in results]
        return [dict(zip(self.outputs, part, strict=True)) for part in zip(*parts, strict=True)]

    def _rows(self, request: Tensors) -> int:
        rows = {name: len(request[name]) for name in self.inputs}
        if len(set(rows.values())) > 1:
            raise ValueError(f"inputs: expected the same number of rows in each, got {rows}")
        return next(iter(rows.values()))
