"""A model's tensors: where their values lie, reading them as tables, and writing them with a graph."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Protocol

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from repo_builder.errors import CheckpointError
from repo_builder.export.stored import Checkpoint, StoredTensor

_HALF_BYTES = {TensorProto.INT4, TensorProto.UINT4, TensorProto.FLOAT4E2M1}

FLOATS: Mapping[int, str] = {
    TensorProto.FLOAT: "float32",
    TensorProto.FLOAT16: "float16",
    TensorProto.BFLOAT16: "bfloat16",
    TensorProto.DOUBLE: "float64",
}
"""The types of tables, as what reads them calls them."""


def tensors(graph: onnx.GraphProto) -> Iterator[TensorProto]:
    """All tensors of a graph: initializers, and attributes of its nodes and of those of their sub-graphs."""
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        for attribute in node.attribute:
            yield from ([attribute.t] if attribute.HasField("t") else attribute.tensors)
        for inner in inner_graphs(node):
            yield from tensors(inner)


def inner_graphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """A node's sub-graphs: bodies of loops, branches."""
    for attribute in node.attribute:
        yield from ([attribute.g] if attribute.HasField("g") else attribute.graphs)


def is_external(tensor: TensorProto) -> bool:
    """Whether its values lie in a file."""
    return bool(tensor.data_location == TensorProto.EXTERNAL)


def external_place(tensor: TensorProto) -> tuple[str, int]:
    """Where an external tensor's values lie: the file's name, relative to the model's folder, and the first byte."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    return entries.get("location", ""), int(entries.get("offset", "0"))


def tensor_bytes(tensor: TensorProto) -> int:
    """Bytes of its values."""
    numbers = int(prod(tensor.dims))
    if tensor.data_type in _HALF_BYTES:
        return (numbers + 1) // 2
    return numbers * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize


def values(tensor: TensorProto, folder: Path) -> NDArray[np.generic]:
    """A tensor's values, read whole."""
    if not is_external(tensor):
        return numpy_helper.to_array(tensor)
    location, offset = external_place(tensor)
    whole = TensorProto(data_type=tensor.data_type, dims=tensor.dims)
    with (folder / location).open("rb") as file:
        file.seek(offset)
        whole.raw_data = file.read(tensor_bytes(tensor))
    return numpy_helper.to_array(whole)


def node_name(node: onnx.NodeProto) -> str:
    """What to call a node in a message: its name, else what it gives."""
    return node.name or next(iter(node.output), "") or node.op_type


def all_reads(node: onnx.NodeProto) -> Iterator[str]:
    """The names that a node reads, in its sub-graphs too, where they are the outer graph's."""
    yield from (name for name in node.input if name)
    for inner in inner_graphs(node):
        yield from _free_names(inner)


def _free_names(graph: onnx.GraphProto) -> set[str]:
    """What a sub-graph reads of the graphs around it."""
    own = {entry.name for entry in (*graph.input, *graph.initializer)}
    own |= {name for node in graph.node for name in node.output}
    read = {name for node in graph.node for name in all_reads(node)} | {entry.name for entry in graph.output}
    return read - own


class Numbers(Protocol):
    """A table whose numbers are worked out."""

    def numbers(self) -> Iterator[NDArray[np.float32]]:
        """The rows (n, dim) in blocks."""


class StoredTables:
    """Initializers of a model by name, as matrices of float32; large ones are read from their files when asked for."""

    def __init__(self, path: Path, initializers: Mapping[str, TensorProto], others: Mapping[str, Numbers]) -> None:
        """path: the model's. initializers: of one or two dimensions; one of one dimension is a column. others: those of
        them that are no floats.
        """
        self._initializers, self._folder, self._others = initializers, path.parent, others
        floats = {name: tensor for name, tensor in initializers.items() if name not in others}
        stored = {name: _stored(tensor, path.parent) for name, tensor in floats.items() if is_external(tensor)}
        self._checkpoint = Checkpoint(path, stored, ordered=False)

    def chunks(self, members: Sequence[str]) -> Iterator[NDArray[np.float32]]:
        """Rows in id order, in consecutive blocks (n, all members' columns) of about CHUNK_BYTES."""
        if len(members) == 1:
            yield from self._blocks(members[0])
            return
        readers = [self._blocks(member) for member in members]
        blocks = [next(reader) for reader in readers]
        while True:
            count = min(len(block) for block in blocks)
            yield np.concatenate([block[:count] for block in blocks], axis=1)
            blocks = [block[count:] for block in blocks]
            for i, reader in enumerate(readers):
                if not len(blocks[i]):
                    following = next(reader, None)
                    if following is None:
                        return
                    blocks[i] = following

    def _blocks(self, member: str) -> Iterator[NDArray[np.float32]]:
        if member in self._others:
            yield from self._others[member].numbers()
            return
        if member in self._checkpoint.tensors:
            yield from self._checkpoint.blocks(member)
            return
        matrix = self._held(member)
        if not np.isfinite(matrix).all():
            row, column = np.argwhere(~np.isfinite(matrix))[0]
            raise CheckpointError(
                f"{self._checkpoint.path}: {member}: expected finite float32 values, got {matrix[row, column]} at row "
                f"{row}, column {column}; the training diverged or the file is damaged: use an earlier model"
            )
        yield matrix

    def _held(self, member: str) -> NDArray[np.float32]:
        """A small table, whose values are in memory."""
        tensor = self._initializers[member]
        with np.errstate(over="ignore"):  # a value past float32's range turns infinite and is refused as such
            return np.ascontiguousarray(values(tensor, self._folder).astype(np.float32).reshape(tensor.dims[0], -1))


def _stored(tensor: TensorProto, folder: Path) -> StoredTensor:
    location, offset = external_place(tensor)
    rows, numbers = tensor.dims[0], prod(tensor.dims)
    return StoredTensor(tensor.name, FLOATS[tensor.data_type], (rows, numbers // rows), folder / location, offset)


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
