"""Running a model's ids graph in this process."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from numpy.typing import NDArray
from onnxruntime import InferenceSession, SessionOptions

from repo_builder.model.source import Source


class IdsRunner:
    """The tensors that look-ups name, of one query after another; the graph is written once, when the first comes."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._session: InferenceSession | None = None

    def __call__(self, inputs: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
        """See Source.ids."""
        graph = self._source.model.ids_graph
        if graph is None:
            return inputs
        if self._session is None:
            self._session = self._opened()
        names = [tensor.name for tensor in graph.outputs]
        found = self._session.run(names, {tensor.name: inputs[tensor.name] for tensor in graph.inputs})
        return {**inputs, **dict(zip(names, found, strict=True))}

    def _opened(self) -> InferenceSession:
        options = SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3  # errors only
        with TemporaryDirectory(prefix="elasticrec-") as folder:
            self._source.write_ids(Path(folder))
            return InferenceSession(str(Path(folder) / "model.onnx"), options, providers=["CPUExecutionProvider"])
