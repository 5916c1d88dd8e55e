"""Reading an `.onnx` file without its weights, and seeing that they lie where they may.

The protobuf message is walked through without its large tensors' values. These are left where they are: the tensor says
instead that its values lie in the file, as external data do in others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path, PurePosixPath
from typing import Any

import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto, inliner

from repo_builder.errors import ModelFileError
from repo_builder.export.onnx_file.plain import MAX_OPSET, opset_of
from repo_builder.export.onnx_file.tensors import (
    external_place,
    inner_graphs,
    is_external,
    node_name,
    tensor_bytes,
    tensors,
)

LEFT_IN_FILE_BYTES = 4096
"""Messages below it are taken as they are, with the tensors in them."""

# Which fields of a message hold messages with tensors, and what these are; None stands for a tensor itself.
_GRAPH: dict[int, Any] = {5: None}
_ATTRIBUTE: dict[int, Any] = {5: None, 6: _GRAPH, 10: None, 11: _GRAPH}
_GRAPH[1] = {5: _ATTRIBUTE}
_MODEL: dict[int, Any] = {7: _GRAPH}

_VARINT, _EIGHT_BYTES, _LENGTH_DELIMITED, _FOUR_BYTES = 0, 1, 2, 5
_RAW_DATA, _FLOAT_DATA, _DOUBLE_DATA = 9, 4, 10
_PACKED = {_FLOAT_DATA: TensorProto.FLOAT, _DOUBLE_DATA: TensorProto.DOUBLE}  # little-endian too, as raw data are


def lean_message(path: Path) -> bytes:
    """The bytes of a model file's message, tensors' values left out. Raises ValueError where it is no message."""
    with path.open("rb") as file:
        return _lean(file, 0, path.stat().st_size, _MODEL, path.name)


@dataclass(frozen=True, slots=True)
class _Field:
    """A field of a message: its places in the file are of its tag, of its value, and of what follows."""

    number: int
    kind: int
    begin: int
    value: int
    end: int


def _lean(file: BufferedReader, begin: int, end: int, inner: Mapping[int, Any], name: str) -> bytes:
    parts = []
    for field in _fields(file, begin, end):
        if field.number not in inner or field.kind != _LENGTH_DELIMITED or field.end - field.value < LEFT_IN_FILE_BYTES:
            parts.append(_bytes(file, field.begin, field.end))
            continue
        fields = inner[field.number]
        value = _lean_tensor(file, field, name) if fields is None else _lean(file, field.value, field.end, fields, name)
        parts += [_varint(field.number << 3 | _LENGTH_DELIMITED), _varint(len(value)), value]
    return b"".join(parts)


def _lean_tensor(file: BufferedReader, tensor: _Field, name: str) -> bytes:
    """A tensor whose values stay where they are; as it is where they stand in several pieces."""
    fields = list(_fields(file, tensor.value, tensor.end))
    values = [field for field in fields if field.number in {_RAW_DATA, *_PACKED} and field.kind == _LENGTH_DELIMITED]
    if len(values) != 1 or values[0].end - values[0].value < LEFT_IN_FILE_BYTES:
        return _bytes(file, tensor.value, tensor.end)
    (value,) = values
    lean = TensorProto.FromString(
        b"".join(_bytes(file, field.begin, field.end) for field in fields if field is not value)
    )
    if value.number in _PACKED and lean.data_type != _PACKED[value.number]:
        return _bytes(file, tensor.value, tensor.end)
    place = {"location": name, "offset": str(value.value), "length": str(value.end - value.value)}
    lean.data_location = TensorProto.EXTERNAL
    lean.external_data.extend(onnx.StringStringEntryProto(key=key, value=text) for key, text in place.items())
    return bytes(lean.SerializeToString())


def _fields(file: BufferedReader, begin: int, end: int) -> Iterator[_Field]:
    while begin < end:
        file.seek(begin)
        tag = _read_varint(file)
        kind = tag & 7
        if kind == _VARINT:
            value = file.tell()
            _read_varint(file)
            after = file.tell()
        elif kind in (_EIGHT_BYTES, _FOUR_BYTES):
            value = file.tell()
            after = value + (8 if kind == _EIGHT_BYTES else 4)
        elif kind == _LENGTH_DELIMITED:
            size_bytes = _read_varint(file)
            value = file.tell()
            after = value + size_bytes
        else:
            raise ValueError(f"field of kind {kind} at byte {begin}")
        if after > end:
            raise ValueError(f"field at byte {begin} ends at {after}, after its message, which ends at {end}")
        yield _Field(tag >> 3, kind, begin, value, after)
        begin = after


def _bytes(file: BufferedReader, begin: int, end: int) -> bytes:
    file.seek(begin)
    return file.read(end - begin)


def _read_varint(file: BufferedReader) -> int:
    number = 0
    for shift in range(0, 64, 7):
        byte = file.read(1)
        if not byte:
            raise ValueError("the file ends within a number")
        number |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return number
    raise ValueError("a number of more than ten bytes")


def _varint(number: int) -> bytes:
    parts = bytearray()
    while number >= 0x80:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*parts, number])


MIN_OPSET = 7
_DOMAINS = {"", "ai.onnx", "ai.onnx.ml", "com.microsoft"}


def read_without_weights(path: Path) -> onnx.ModelProto:
    """Parse a model; large tensors are external ones, in the file itself or in others of its folder.

    Raises ModelFileError where the file is none of ONNX, a tensor lies elsewhere, or an operator or opset is one that
    Triton cannot serve.
    """
    try:
        model: onnx.ModelProto = onnx.ModelProto.FromString(lean_message(path))
    except FileNotFoundError as exc:
        raise ModelFileError(f"{path}: expected an ONNX file, found none; check model.path") from exc
    except OSError as exc:
        raise ModelFileError(f"{path}: cannot be read: {exc.strerror}") from exc
    except (DecodeError, ValueError, RecursionError) as exc:
        raise ModelFileError(f"{path}: expected an ONNX file, got another or a damaged one; copy it again") from exc
    if not model.graph.node or not model.opset_import:
        raise ModelFileError(f"{path}: expected an ONNX model with nodes, got none; export it again")
    _refuse(path, (problem for tensor in tensors(model.graph) for problem in _misplaced(tensor, path)))
    _refuse(path, _unknown_operators(inliner.inline_local_functions(model) if model.functions else model))
    _refuse(path, _wrong_opset(model))
    return model


def _refuse(path: Path, problems: Iterator[str]) -> None:
    found = list(problems)
    if found:
        raise ModelFileError(*(f"{path}: {problem}" for problem in found))


def _misplaced(tensor: TensorProto, path: Path) -> Iterator[str]:
    if not is_external(tensor):
        return
    try:
        location, offset = external_place(tensor)
        expected_bytes = tensor_bytes(tensor)
        got = {entry.key: entry.value for entry in tensor.external_data}.get("length", expected_bytes)
        size_bytes = int(got)
    except (ValueError, KeyError):
        yield f"{tensor.name}: expected whole numbers for the place of its external data; export the model again"
        return
    place, pure = path.parent / location, PurePosixPath(location)
    if not location or pure.is_absolute() or ".." in pure.parts or "\\" in location or "\0" in location:
        yield f"{tensor.name}: expected external data in the model's folder, got {location!r}; save the model with it"
    elif not place.is_file():
        yield f"{tensor.name}: expected its external data in {place}, found no such file; copy it beside the model"
    elif place != path and not place.resolve().is_relative_to(path.parent.resolve()):
        yield f"{tensor.name}: expected external data in the model's folder, got {place}, a link out; copy it"
    elif offset < 0 or min(tensor.dims, default=0) < 0 or size_bytes != expected_bytes:
        yield f"{tensor.name}: expected {expected_bytes} bytes from a place of {place}, got {size_bytes} from {offset}"
    elif place.stat().st_size < offset + size_bytes:
        there = place.stat().st_size
        yield f"{tensor.name}: expected {offset + size_bytes} bytes in {place}, got {there}; copy it again"


def _unknown_operators(model: onnx.ModelProto) -> Iterator[str]:
    for node in _all_nodes(model.graph):
        known = node.domain in _DOMAINS
        if known and node.domain != "com.microsoft":
            known = onnx.defs.has(node.op_type, "" if node.domain == "ai.onnx" else node.domain)
        if not known:
            domain = f"{node.domain}." if node.domain else ""
            yield (
                f"node {node_name(node)}: expected operators of ONNX or onnxruntime, got {domain}{node.op_type}; "
                "Triton has no such custom operator: export the model without it"
            )


def _all_nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for inner in inner_graphs(node):
            yield from _all_nodes(inner)


def _wrong_opset(model: onnx.ModelProto) -> Iterator[str]:
    opset = opset_of(model)
    if not MIN_OPSET <= opset <= MAX_OPSET:
        yield (
            f"opset_import: expected opset {MIN_OPSET} to {MAX_OPSET}, the newest of Triton 2.51's onnxruntime 1.19, "
            f"got {opset}; export the model with opset_version=18"
        )
