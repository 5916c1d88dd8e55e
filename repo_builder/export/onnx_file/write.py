"""Writing a graph as `model.onnx`, with its weights in it, or beside it where they are large."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import onnx
from onnx import TensorProto

from repo_builder.errors import CheckpointError
from repo_builder.export.onnx_file.read import external_place, is_external, tensor_bytes, tensors

FILE = "model.onnx"
WEIGHTS_FILE = "model.onnx.data"
IN_FILE_BYTES = 256 * 1024**2
"""Of weights, the most that are written into the model's own file: more would be held in memory twice."""

_ALIGNMENT_BYTES = 4096  # so that a runtime can map a tensor
_BLOCK_BYTES = 4 * 1024**2


def write_model(model: onnx.ModelProto, weights_from: Path, folder: Path) -> Sequence[str]:
    """Write a model whose large tensors lie in files of `weights_from`; the names of the files in `folder`."""
    written = onnx.ModelProto()
    written.CopyFrom(model)
    outside = [tensor for tensor in tensors(written.graph) if is_external(tensor)]
    names = [FILE]
    if sum(tensor_bytes(tensor) for tensor in outside) <= IN_FILE_BYTES:
        for tensor in outside:
            tensor.raw_data = b"".join(_blocks(tensor, weights_from))
            tensor.ClearField("data_location")
            del tensor.external_data[:]
    else:
        names.append(WEIGHTS_FILE)
        _write_beside(outside, weights_from, folder / WEIGHTS_FILE)
    (folder / FILE).write_bytes(written.SerializeToString(deterministic=True))
    return names


def _write_beside(outside: Sequence[TensorProto], weights_from: Path, path: Path) -> None:
    with path.open("wb") as file:
        for tensor in outside:
            file.write(b"\0" * (-file.tell() % _ALIGNMENT_BYTES))
            place = {"location": path.name, "offset": str(file.tell()), "length": str(tensor_bytes(tensor))}
            for block in _blocks(tensor, weights_from):
                file.write(block)
            del tensor.external_data[:]
            tensor.external_data.extend(onnx.StringStringEntryProto(key=key, value=text) for key, text in place.items())


def _blocks(tensor: TensorProto, folder: Path) -> Iterator[bytes]:
    """A tensor's bytes, in blocks."""
    location, offset = external_place(tensor)
    left = tensor_bytes(tensor)
    with (folder / location).open("rb") as file:
        file.seek(offset)
        while left:
            block = file.read(min(left, _BLOCK_BYTES))
            if not block:
                raise CheckpointError(f"{folder / location}: {tensor.name}: expected {left} more bytes, got its end")
            left -= len(block)
            yield block
