"""Tables whose rows an ONNX file has in fewer bits, as DequantizeLinear reads them: (number - zero point) * scale.

Where scale and zero point are those of the table or of its row, such a row is one of ours: the number counted from the
least that its type has, times the scale, plus (least - zero point) * scale. It is stored so where that is as exact as
float32 has it; else the numbers are worked out, and rows are float32.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from repo_builder.errors import CheckpointError, ModelFileError
from repo_builder.export.onnx_file.graph import Graph
from repo_builder.export.onnx_file.tensors import external_place, is_external, values
from repo_builder.export.stored import rows_per_chunk
from repo_builder.model.types import RowDtype, RowFormat

LEAST: Mapping[int, int] = {TensorProto.INT8: -128, TensorProto.UINT8: 0, TensorProto.INT4: -8, TensorProto.UINT4: 0}
"""The types of such numbers, and the least of each."""

HALF_BYTES = (TensorProto.INT4, TensorProto.UINT4)
_WIDE = 2  # numbers of a row: with a scale and a bias they take no less than as float32
_MOST_ERROR = 2e-6
"""Of a number, between our way of working it out and DequantizeLinear's, which round at other places."""


Along = Literal["table", "rows", "columns", "blocks"]
_AXES: tuple[Along, Along] = ("rows", "columns")


@dataclass(frozen=True, slots=True)
class Quantization:
    """How numbers are read. scale, zero: initializers, zero None for 0; along: what has one of each.

    of blocks: `block` columns of a row have.
    """

    scale: str
    zero: str | None
    along: Along
    block: int = 0


def read_quantization(graph: Graph, table: str, sides: Sequence[str], axis: int, block: int) -> Quantization | str:
    """What a node says of a table's numbers; in words where it is none that can be read.

    sides: its scale, and its zero point if there is one. axis: of the table, along which scales stand.
    """
    scale, zero = sides[0], sides[1] if len(sides) > 1 and sides[1] else None
    if any(name is not None and name not in graph.initializers for name in (scale, zero)):
        return "its scale or zero point is computed"
    rows, dim = _matrix(graph.initializers[table])
    shape = tuple(graph.initializers[scale].dims)
    if zero is not None and tuple(graph.initializers[zero].dims) != shape and prod(shape) != 1:
        return f"expected a zero point for each scale, got {list(graph.initializers[zero].dims)} and {list(shape)}"
    if prod(shape) == 1:
        return Quantization(scale, zero, "table")
    if block and axis == 1 and shape == (rows, -(-dim // block)):
        return Quantization(scale, zero, "rows" if shape[1] == 1 else "blocks", block)
    if not block and axis in (0, 1) and shape == ((rows, dim)[axis],):
        return Quantization(scale, zero, _AXES[axis])
    return f"expected scales of rows or columns, got {list(shape)} along axis {axis} of [{rows}, {dim}]"


def _matrix(tensor: TensorProto) -> tuple[int, int]:
    return int(tensor.dims[0]) if tensor.dims else 1, prod(tensor.dims[1:])


class QuantizedInitializer:
    """A table of such numbers, its scales in memory, its numbers read when they are asked for."""

    def __init__(self, path: Path, graph: Graph, table: str, quantization: Quantization) -> None:
        """path: the model's. Raises ModelFileError where a scale is not finite."""
        self._path, self._tensor, self._along = path, graph.initializers[table], quantization.along
        self._rows, self._dim = _matrix(self._tensor)
        self._block = quantization.block
        scale, zero = graph.initializers[quantization.scale], quantization.zero
        self._scale: NDArray[Any] = values(scale, graph.folder)
        self._single = scale.data_type == TensorProto.FLOAT
        self._zero = self._integers(graph.initializers[zero], graph.folder) if zero else np.zeros(1, np.int16)
        with np.errstate(over="ignore"):
            numbers = self._scale.astype(np.float32).reshape(-1)
        if not np.isfinite(numbers).all():
            place = int(np.flatnonzero(~np.isfinite(numbers))[0])
            raise ModelFileError(
                f"{path}: {quantization.scale}: expected finite scales of {table}, got {numbers[place]} at {place}; "
                "the file is damaged or the quantization failed: quantize the model again"
            )

    @property
    def size_bytes(self) -> int:
        """Of its rows as they are stored."""
        return self._rows * self.format.row_bytes

    @property
    def note(self) -> str:
        """How its rows are stored, and where that is not as they came, why."""
        dtype = self.format.dtype
        if dtype != "fp32":
            return f"its rows are quantized, and stored as {dtype}, with a scale and a bias each"
        if self._along in ("columns", "blocks"):
            return f"its numbers have a scale for {self._along} of a row: they are stored as fp32"
        if not self._single:
            return "its scales are not float32: its numbers are stored as fp32"
        reason = "they would take no less" if self._dim <= _WIDE else f"as int8 they would be off by over {_MOST_ERROR}"
        return f"its numbers are stored as fp32: {reason}"

    @property
    def format(self) -> RowFormat:
        """The smallest format in which its rows are exact."""
        least_to_zero = (LEAST[self._tensor.data_type] - self._zero.astype(np.float64)).reshape(-1)
        scale = self._scale.astype(np.float64).reshape(-1)
        span = 15 if self._tensor.data_type in HALF_BYTES else 255
        bias = least_to_zero * scale
        error = 0.0 if not bias.any() else 2.0**-24 * 4 * span * float(np.abs(scale).max())
        wide = RowFormat(self._dim)
        if self._along not in ("table", "rows") or not self._single or error > _MOST_ERROR:
            return wide
        with np.errstate(over="ignore"):
            halves = all(np.array_equal(each.astype(np.float16).astype(np.float64), each) for each in (scale, bias))
        smallest: RowDtype = "int8" if not halves else "int4" if span == 15 else "int8_half"
        narrow = RowFormat(self._dim, smallest)
        return narrow if narrow.row_bytes < wide.row_bytes else wide

    def numbers(self) -> Iterator[NDArray[np.float32]]:
        """The rows (n, dim) in blocks, as DequantizeLinear works them out."""
        for begin, codes in self._blocks():
            scale, zero = (self._spread(each, begin, len(codes)) for each in (self._scale, self._zero))
            with np.errstate(over="ignore"):
                block = (codes - zero).astype(np.float32) * scale.astype(np.float32)
                found = block if self._single else block.astype(self._scale.dtype).astype(np.float32)
            if not np.isfinite(found).all():
                row = begin + int(np.argwhere(~np.isfinite(found))[0][0])
                raise CheckpointError(
                    f"{self._path}: {self._tensor.name}: expected finite float32 values, got others at row {row}; "
                    "the quantization failed or the file is damaged: quantize the model again"
                )
            yield found

    def stored(self, row_format: RowFormat) -> Iterator[NDArray[np.uint8]]:
        """The rows (n, row_bytes) in blocks, in the format that `format` tells."""
        least, side = LEAST[self._tensor.data_type], "<f4" if row_format.dtype == "int8" else "<f2"
        for begin, codes in self._blocks():
            scale, zero = (self._spread(each, begin, len(codes)) for each in (self._scale, self._zero))
            scale = np.broadcast_to(scale.astype(np.float64), (len(codes), 1))
            sides = np.hstack([scale, (least - zero) * scale]).astype(side)
            numbers: NDArray[Any] = (codes - least).astype(np.uint8)
            if row_format.dtype == "int4":
                numbers = np.pad(numbers, ((0, 0), (0, self._dim % 2)))
                numbers = numbers[:, ::2] | numbers[:, 1::2] << 4
            yield np.hstack([numbers, np.ascontiguousarray(sides).view(np.uint8)])

    def _spread(self, each: NDArray[Any], begin: int, rows: int) -> NDArray[Any]:
        """Scales or zero points of a block's rows, as they multiply it: (1 or rows, 1 or dim)."""
        if each.size == 1:
            return each.reshape(1, 1)
        if self._along == "columns":
            return each.reshape(1, -1)
        of_rows = each.reshape(self._rows, -1)[begin : begin + rows]
        return of_rows if self._along == "rows" else np.repeat(of_rows, self._block, axis=1)[:, : self._dim]

    def _blocks(self) -> Iterator[tuple[int, NDArray[np.int16]]]:
        """Its numbers as they are, (n, dim), and the first row of each block."""
        step = rows_per_chunk(self._dim)
        if not is_external(self._tensor):
            whole = self._integers(self._tensor, self._path.parent).reshape(self._rows, self._dim)
            yield from ((begin, whole[begin : begin + step]) for begin in range(0, self._rows, step))
            return
        location, offset = external_place(self._tensor)
        with (self._path.parent / location).open("rb") as file:
            for begin in range(0, self._rows, step):
                yield begin, self._read(file, offset, begin, min(step, self._rows - begin))

    def _read(self, file: Any, offset: int, begin: int, rows: int) -> NDArray[np.int16]:
        first, count, kind = begin * self._dim, rows * self._dim, self._tensor.data_type
        half = kind in HALF_BYTES
        start, end = (first // 2, (first + count + 1) // 2) if half else (first, first + count)
        file.seek(offset + start)
        raw: NDArray[Any] = np.frombuffer(file.read(end - start), np.uint8)
        if len(raw) != end - start:
            raise CheckpointError(
                f"{file.name}: {self._tensor.name}: expected {end - start - len(raw)} more bytes, got the file's end"
            )
        if half:
            raw = np.stack([raw & 15, raw >> 4], axis=1).reshape(-1)[first % 2 :][:count]
        codes = raw.view(np.int8).astype(np.int16) if kind == TensorProto.INT8 else raw.astype(np.int16)
        codes = (codes ^ 8) - 8 if kind == TensorProto.INT4 else codes
        return codes.reshape(rows, self._dim)

    @staticmethod
    def _integers(tensor: TensorProto, folder: Path) -> NDArray[np.int16]:
        return values(tensor, folder).astype(np.int16)
