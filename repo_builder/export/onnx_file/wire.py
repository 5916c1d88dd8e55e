"""An ONNX file's protobuf message, walked through without its large tensors' values.

These are left where they are: the tensor says instead that its values lie in the file, as external data do in others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto

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
