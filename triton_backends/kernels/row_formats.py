"""How a stored row's numbers are written: numbers into rows and back, by numpy alone. What bags.c must read.

Little-endian throughout, and a row's bytes follow the row's before without a gap:

    fp32, fp16, bf16  the numbers
    int8              a byte a number, the row's scale and bias in float32: a number is scale * byte + bias
    int4              a number every four bits, an even one's low; scale and bias in float16

The last two are FBGEMM's fused rowwise layouts and its arithmetic, to the bit (`pytorch/FBGEMM`, src/QuantUtils.cc:
FloatOrHalfToFused8BitRowwiseQuantizedSBFloatRef, FloatOrHalfToFusedNBitRowwiseQuantizedSBHalfRef): the bias is the
least number, the scale a 255th or 15th of the way to the greatest one, and each number becomes the nearest step.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

ROW_DTYPES = ("fp32", "fp16", "bf16", "int8", "int4")  # in the order of `RowDtype` of kernels.h
_PLAIN: dict[str, np.dtype[Any]] = {"fp32": np.dtype("<f4"), "fp16": np.dtype("<f2"), "bf16": np.dtype("<u2")}
_SIDES: dict[str, np.dtype[Any]] = {"int8": np.dtype("<f4"), "int4": np.dtype("<f2")}  # of scale and bias
_NO_RANGE = np.float32(1e-8)  # FBGEMM's, added to the range of an int8 row, so that a constant row divides by it


def row_bytes(dim: int, dtype: str) -> int:
    """Bytes of a stored row of `dim` numbers; raises ValueError for a dtype that there is not."""
    if dtype not in ROW_DTYPES:
        raise ValueError(f"dtype of rows: expected one of {', '.join(ROW_DTYPES)}, got {dtype!r}")
    if dtype in _PLAIN:
        return dim * _PLAIN[dtype].itemsize
    return (dim if dtype == "int8" else (dim + 1) // 2) + 2 * _SIDES[dtype].itemsize


def encode_rows(rows: NDArray[np.float32], dtype: str) -> NDArray[np.uint8]:
    """Rows (n, dim) float32 as they are stored: (n, row_bytes).

    Rounds to the nearest, of two the even one. Raises ValueError where a number is finite and stored would not be, and
    for int8 and int4 where one is not finite.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        match dtype:
            case "int8":
                return _encode_bytes(rows)
            case "int4":
                return _encode_halves(rows)
            case "bf16":
                stored: NDArray[Any] = _to_bf16(rows)
                infinite = stored & 0x7FFF == 0x7F80
            case _:
                stored = np.ascontiguousarray(rows, _PLAIN[dtype])
                infinite = np.isinf(stored)
    _refuse(infinite & np.isfinite(rows), f"{dtype}: expected numbers within its range")
    return stored.view(np.uint8).reshape(len(rows), row_bytes(rows.shape[1], dtype))


def decode_rows(stored: NDArray[np.uint8], dim: int, dtype: str) -> NDArray[np.float32]:
    """Stored rows (n, row_bytes) as the kernels read them: (n, dim) float32."""
    numbers: NDArray[Any]
    if dtype in _PLAIN:
        numbers = np.ascontiguousarray(stored).view(_PLAIN[dtype]).reshape(len(stored), dim)
        return (numbers.astype(np.uint32) << 16).view(np.float32) if dtype == "bf16" else numbers.astype(np.float32)
    end = stored.shape[1] - 2 * _SIDES[dtype].itemsize
    steps, sides = stored[:, :end], np.ascontiguousarray(stored[:, end:]).view(_SIDES[dtype]).astype(np.float32)
    if dtype == "int4":
        steps = np.stack([steps & 15, steps >> 4], axis=2).reshape(len(stored), 2 * end)[:, :dim]
    numbers = steps.astype(np.float32) * sides[:, :1] + sides[:, 1:]
    return numbers


def _refuse(bad: NDArray[np.bool_], expected: str) -> None:
    if bad.any():
        row = int(bad.reshape(len(bad), -1).any(axis=1).argmax())
        raise ValueError(f"rows in {expected}, got others in row {row}")


def _to_bf16(rows: NDArray[np.float32]) -> NDArray[np.uint16]:
    bits = np.ascontiguousarray(rows, np.float32).view(np.uint32)
    rounded = bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))
    quiet = bits | np.uint32(0x400000)  # a NaN must not round to infinity
    return (np.where(np.isnan(rows), quiet, rounded) >> np.uint32(16)).astype("<u2")


def _encode_bytes(rows: NDArray[np.float32]) -> NDArray[np.uint8]:
    low = rows.min(axis=1, keepdims=True)
    span = rows.max(axis=1, keepdims=True) - low
    _refuse(~np.isfinite(span), "int8: expected finite numbers whose range is one")
    stored = np.empty((len(rows), row_bytes(rows.shape[1], "int8")), np.uint8)
    stored[:, :-8] = np.rint((rows - low) * (np.float32(255) / (span + _NO_RANGE)))
    stored[:, -8:] = np.hstack([span / np.float32(255), low]).astype("<f4").view(np.uint8)
    return stored


def _encode_halves(rows: NDArray[np.float32]) -> NDArray[np.uint8]:
    bias = rows.min(axis=1, keepdims=True).astype("<f2")
    low = bias.astype(np.float32)
    span = rows.max(axis=1, keepdims=True) - low
    scale = np.where(span == 0, np.float32(1), span / np.float32(15)).astype("<f2")
    _refuse(~np.isfinite(bias) | ~np.isfinite(scale), "int4: expected finite numbers within float16's range")
    scale[scale == 0] = 1  # of a range below float16's least number
    steps = np.rint((rows - low) * (np.float32(1) / scale.astype(np.float32))).clip(0, 15).astype(np.uint8)
    if rows.shape[1] % 2:
        steps = np.pad(steps, ((0, 0), (0, 1)))
    return np.hstack([steps[:, ::2] | steps[:, 1::2] << 4, np.hstack([scale, bias]).view(np.uint8)])
