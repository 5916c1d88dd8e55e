"""The doors for model files: each opens one kind of file as a `Source`, and is imported only where it is needed."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from repo_builder.model.source import FileSource, ModelFile, Source


def open_model_file(name: str, file: ModelFile) -> Source:
    """Open and cut the model that serves as `name`; raises ModelFileError with a line per problem."""
    return _DOORS[file.source](name, file)


def _exported(name: str, file: ModelFile) -> Source:
    from repo_builder.export.exported import open_exported

    return open_exported(file.path, name, file.samples, file.keep_under_bytes, file.keep)


def _onnx(name: str, file: ModelFile) -> Source:
    from repo_builder.export.onnx_file import open_onnx

    return open_onnx(file.path, name, file.samples, file.keep_under_bytes, file.keep)


_DOORS: Mapping[FileSource, Callable[[str, ModelFile], Source]] = {"exported": _exported, "onnx": _onnx}
