"""Tables whose rows a checkpoint has in fewer bits: they are taken as they are, never by way of float32.

A row is a byte a number (int8, int8_half), or one for two of them, an even one's in the low bits (int4); a number is
scale * byte + bias, both float32 (int8) or float16 (int8_half, int4). Where scale and bias stand differs:

    beside  in two tensors of their own, KEY_qscale and KEY_qbias (TorchRec's, where its state dict is split)
    front   before the numbers, in float16, and the row is filled up to a multiple of 16 bytes (TorchRec's)
    end     behind them: as services store rows (FBGEMM's fused rowwise tensors, and
            torch.ops.quantized.embedding_bag_byte_prepack)

Those in float16 may be read as int8 too, which holds them as exactly in four more bytes a row.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from repo_builder.errors import CheckpointError
from repo_builder.export.stored import CHUNK_BYTES, Checkpoint
from repo_builder.model.types import RowDtype, RowFormat

Place = Literal["beside", "front", "end"]
QUANTIZED: tuple[RowDtype, ...] = ("int8_half", "int8", "int4")
"""The formats of such tables; of the two with a byte a number, where either fits, that with fewer bytes comes first."""

BESIDE = ("_qscale", "_qbias")
"""What the keys of scales and biases add to the table's."""

_ALIGNMENT = 16  # bytes of a row of fbgemm_gpu's, on any device
_FRONT_BYTES = 4
_SIDES: Mapping[str, np.dtype[Any]] = {
    "int8_half": np.dtype("<f2"),
    "int8": np.dtype("<f4"),
    "int4": np.dtype("<f2"),
}
_BESIDE_DTYPES = {"int8_half": ("float16",), "int8": ("float32", "float16"), "int4": ("float16",)}


@dataclass(frozen=True, slots=True)
class QuantizedTable:
    """A table's tensor in a checkpoint, and where its rows have scale and bias."""

    key: str
    format: RowFormat
    place: Place

    def blocks(self, checkpoint: Checkpoint) -> Iterator[NDArray[np.uint8]]:
        """The rows (n, row_bytes) as `format` says, in blocks; raises CheckpointError as `Checkpoint.blocks` does."""
        rows, width = checkpoint.tensors[self.key].shape
        step = max(1, CHUNK_BYTES // width)
        beside = [checkpoint.raw_blocks(self.key + end, step) for end in BESIDE] if self.place == "beside" else []
        begin = 0
        for raw in checkpoint.raw_blocks(self.key, step):
            sides = [next(side).reshape(-1, 1) for side in beside]
            block = self._row(raw, sides)
            self._refuse_non_finite(checkpoint, block, begin)
            begin += len(block)
            yield block
        if begin != rows:
            raise ValueError(f"{self.key}: expected {rows} rows, got {begin}")

    def _row(self, raw: NDArray[np.uint8], beside: list[NDArray[Any]]) -> NDArray[np.uint8]:
        if self.place == "end":
            return raw
        count, kind = numbers_bytes(self.format), _SIDES[self.format.dtype]
        begin = _FRONT_BYTES if self.place == "front" else 0
        sides = np.hstack(beside) if beside else np.ascontiguousarray(raw[:, :begin]).view("<f2")
        return np.hstack([raw[:, begin : begin + count], np.ascontiguousarray(sides, kind).view(np.uint8)])

    def _refuse_non_finite(self, checkpoint: Checkpoint, block: NDArray[np.uint8], begin: int) -> None:
        sides = np.ascontiguousarray(block[:, numbers_bytes(self.format) :]).view(_SIDES[self.format.dtype])
        bad = np.flatnonzero(~np.isfinite(sides).all(axis=1))
        if len(bad):
            scale, bias = sides[bad[0]]
            raise CheckpointError(
                f"{checkpoint.path}: {self.key}: expected a finite scale and bias, got {scale} and {bias} at row "
                f"{begin + bad[0]}; the rows are laid out otherwise or the file is damaged: save the float weights"
            )


def numbers_bytes(row_format: RowFormat) -> int:
    """Bytes of a row without scale and bias."""
    return (row_format.dim + 1) // 2 if row_format.dtype == "int4" else row_format.dim


def find_quantized(checkpoint: Checkpoint, key: str, row_format: RowFormat, in_front: bool) -> QuantizedTable | None:
    """How a tensor of bytes has the rows of a table of that format; None where it does not.

    in_front: rows may have scale and bias in front, as TorchRec writes them; those of a width that may mean either do.
    """
    fits = (each for each in _fits(checkpoint, key, row_format.dim, in_front) if each.format == row_format)
    return next(fits, None)


def fitting_dtype(checkpoint: Checkpoint, key: str, dim: int, in_front: bool) -> RowDtype | None:
    """As what a tensor of bytes is to be read where a row has `dim` numbers; None where it has no such rows.

    TorchRec's rows of up to 12 numbers are as wide in int4 as with a byte a number: what fills them up is zeros. Raises
    CheckpointError where the file ends before it.
    """
    fits = list(_fits(checkpoint, key, dim, in_front))
    if len(fits) > 1 and fits[0].place == "front":
        narrow = QuantizedTable(key, RowFormat(dim, "int4"), "front")
        if narrow in fits and _is_filled(checkpoint, narrow):
            return "int4"
    return fits[0].format.dtype if fits else None


def _is_filled(checkpoint: Checkpoint, table: QuantizedTable) -> bool:
    """Whether the first rows have zeros behind their numbers."""
    tensor, end = checkpoint.tensors[table.key], _FRONT_BYTES + numbers_bytes(table.format)
    if tensor.flaw is not None:
        return False
    blocks = islice(checkpoint.raw_blocks(table.key, max(1, CHUNK_BYTES // tensor.shape[1])), 1)
    return not any(block[:, end:].any() for block in blocks)


def _fits(checkpoint: Checkpoint, key: str, dim: int, in_front: bool) -> Iterator[QuantizedTable]:
    tensor = checkpoint.tensors[key]
    if tensor.dtype != "uint8" or len(tensor.shape) != 2:
        return
    places: tuple[Place, ...] = ("beside", "front", "end") if in_front else ("beside", "end")
    for place in places:
        for row_format in (RowFormat(dim, dtype) for dtype in QUANTIZED):
            has_sides = place != "beside" or _has_sides(checkpoint, key, row_format)
            if has_sides and _widths(row_format)[place] == tensor.shape[1]:
                yield QuantizedTable(key, row_format, place)


def expected_widths(key: str, rows: int, row_format: RowFormat, in_front: bool) -> str:
    """The tensors that would do, for a message."""
    widths = _widths(row_format)
    each = {widths["end"], *([widths["front"]] if in_front else [])}
    either = " or ".join(str((rows, width)) for width in sorted(each))
    beside = " and ".join(key.rpartition(".")[2] + end for end in BESIDE)
    return f"uint8 {either} with scale and bias in each row, or {(rows, widths['beside'])} with {beside} beside"


def _widths(row_format: RowFormat) -> dict[Place, int]:
    count = numbers_bytes(row_format)
    filled = -(-(count + _FRONT_BYTES) // _ALIGNMENT) * _ALIGNMENT
    return {"beside": count, "front": filled, "end": row_format.row_bytes}


def _has_sides(checkpoint: Checkpoint, key: str, row_format: RowFormat) -> bool:
    rows = checkpoint.tensors[key].shape[0]
    sides = [checkpoint.tensors.get(key + end) for end in BESIDE]
    return all(
        side is not None
        and side.flaw is None
        and side.dtype in _BESIDE_DTYPES[row_format.dtype]
        and side.shape in ((rows,), (rows, 1))
        for side in sides
    )
