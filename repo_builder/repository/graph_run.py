"""A written ONNX graph, run as Triton's onnxruntime backend will, on one thread."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from repo_builder.errors import ExportError
from repo_builder.model.arrays import Arrays


class WrittenGraph:
    """A folder's `model.onnx`; what has no dimensions may be served as one of [1]."""

    def __init__(self, folder: Path) -> None:
        """Raises ExportError where it is none that onnxruntime takes."""
        from onnxruntime import InferenceSession, SessionOptions  # only where it is needed: it takes a while to import

        options = SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 4  # none: what is wrong is raised
        self._name = folder.parent.name
        try:
            self._session = InferenceSession(folder / "model.onnx", options, providers=["CPUExecutionProvider"])
        except _runtime_errors() as exc:
            raise self._wrong(exc) from exc

    def run(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Its outputs by name; raises ExportError where it does not run on these inputs."""
        ranks = {entry.name: len(entry.shape) for entry in self._session.get_inputs()}
        given = {name: each.reshape(1) if not each.ndim and ranks.get(name) else each for name, each in inputs.items()}
        names = [entry.name for entry in self._session.get_outputs()]
        try:
            return dict(zip(names, self._session.run(names, given), strict=True))
        except _runtime_errors() as exc:
            raise self._wrong(exc) from exc

    def _wrong(self, exc: Exception) -> ExportError:
        return ExportError(
            f"{self._name}: what was written does not run on samples: {exc}; please report it with the spec"
        )


def _runtime_errors() -> tuple[type[Exception], ...]:
    from onnxruntime.capi import onnxruntime_pybind11_state as errors

    return (
        errors.Fail,
        errors.InvalidArgument,
        errors.InvalidGraph,
        errors.NotImplemented,
        errors.RuntimeException,
        ValueError,
    )
