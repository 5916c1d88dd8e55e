"""How a stored row's numbers are written: numbers into rows and back, by numpy alone. What bags.c must read.

Little-endian throughout, and a row's bytes follow the row's before without a gap:

    fp32, fp16, bf16  the numbers
    int8              a byte a number, the row's scale and bias in float32: a number is scale * byte + bias
    int8_half         likewise, with scale and bias in float16
    int4              a number every four bits, an even one's low; scale and bias in float16

The last three are FBGEMM's fused rowwise layouts and its arithmetic, to the bit but for the signs of zeros
(`pytorch/FBGEMM`, src/QuantUtils.cc: FloatOrHalfToFused8BitRowwiseQuantizedSBFloatRef,
FloatOrHalfToFusedNBitRowwiseQuantizedSBHalfRef of 8 and 4 bits): the bias is the least number, the scale a 255th or
15th of the way to the greatest one, and each number becomes the nearest step.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

ROW_DTYPES = ("fp32", "fp16", "bf16", "int8", "int8_half", "int4")  # in the order of `RowDtype` of kernels.h
_PLAIN: dict[str, np.dtype[Any]] = {"fp32": np.dtype("<f4"), "fp16": np.dtype("<f2"), "bf16": np.dtype("<u2")}
_HALF = np.dtype("<f2")
_SIDES: dict[str, np.dtype[Any]] = {"int8": np.dtype("<f4"), "int8_half": _HALF, "int4": _HALF}  # of scale and bias
_BLOCK_NUMBERS = 1 << 16  # so many at once stay in a core's own caches
_NO_RANGE = np.float32(1e-8)  # FBGEMM's, added to the range of an int8 row, so that a constant row divides by it


def row_bytes(dim: int, dtype: str) -> int:
    """Bytes of a stored row of `dim` numbers; raises ValueError for a dtype that there is not."""
    if dtype not in ROW_DTYPES:
        raise ValueError(f"dtype of rows: expected one of {', '.join(ROW_DTYPES)}, got {dtype!r}")
    if dtype in _PLAIN:
        return dim * _PLAIN[dtype].itemsize
    return ((dim + 1) // 2 if dtype == "int4" else dim) + 2 * _SIDES[dtype].itemsize


def encode_rows(rows: NDArray[np.float32], dtype: str) -> NDArray[np.uint8]:
    """Rows (n, dim) float32 as they are stored: (n, row_bytes); those of fp32 share their memory.

    Rounds to the nearest, of two the even one. Raises ValueError where a number is finite and stored would not be, and
    for those with a scale where one is not finite.
    """
    size = row_bytes(rows.shape[1], dtype)
    if dtype == "fp32":
        return np.ascontiguousarray(rows, "<f4").view(np.uint8).reshape(len(rows), size)
    stored = np.empty((len(rows), size), np.uint8)
    step = max(1, _BLOCK_NUMBERS // max(1, rows.shape[1]))
    for begin in range(0, len(rows), step):
        with np.errstate(over="ignore", invalid="ignore"):
            fits = _ENCODERS[dtype](np.ascontiguousarray(rows[begin : begin + step]), stored[begin : begin + step])
        if not fits.all():
            raise ValueError(f"rows in {dtype}: expected {_FITTING[dtype]}, got others in row {begin + fits.argmin()}")
    return stored


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


def _encode_fp16(rows: NDArray[np.float32], stored: NDArray[np.uint8]) -> NDArray[np.bool_]:
    halves = rows.astype("<f2")
    stored[:] = halves.view(np.uint8)
    fits: NDArray[np.bool_] = (np.isfinite(halves) | ~np.isfinite(rows)).all(axis=1)
    return fits


def _encode_bf16(rows: NDArray[np.float32], stored: NDArray[np.uint8]) -> NDArray[np.bool_]:
    bits = rows.view(np.uint32)
    rounded = bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))
    finite = np.isfinite(rows)
    if not finite.all():  # what a NaN's bits are rounded to may be infinite
        rounded = np.where(np.isnan(rows), bits | np.uint32(0x400000), rounded)
    halves = (rounded >> np.uint32(16)).astype("<u2")
    stored[:] = halves.view(np.uint8)
    fits: NDArray[np.bool_] = ((halves & 0x7F80 != 0x7F80) | ~finite).all(axis=1)
    return fits


def _ends(rows: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Each row's least and greatest number, (n, 1) each; no zero is negative, so that all processors agree."""
    columns = np.ascontiguousarray(rows.T)  # numpy is several times as fast along long axes
    return columns.min(axis=0)[:, None] + np.float32(0), columns.max(axis=0)[:, None] + np.float32(0)


def _encode_int8(rows: NDArray[np.float32], stored: NDArray[np.uint8]) -> NDArray[np.bool_]:
    low, high = _ends(rows)
    span = high - low
    steps = rows - low
    steps *= np.float32(255) / (span + _NO_RANGE)
    stored[:, :-8] = np.rint(steps, out=steps)
    stored[:, -8:] = np.hstack([span / np.float32(255), low]).astype("<f4").view(np.uint8)
    fits: NDArray[np.bool_] = np.isfinite(span)[:, 0]
    return fits


def _steps_of_halves(rows: NDArray[np.float32], last: int, stored: NDArray[np.uint8]) -> tuple[Any, NDArray[np.bool_]]:
    """Each number's step, (n, dim) float32 of 0 ... last; scale and bias are stored, in float16."""
    least, high = _ends(rows)
    bias = least.astype(_HALF)
    low = bias.astype(np.float32)
    span = high - low
    scale = np.where(span == 0, np.float32(1), span / np.float32(last)).astype(_HALF)
    scale[scale == 0] = 1  # of a span below float16's least number
    steps = rows - low
    steps *= np.float32(1) / scale.astype(np.float32)
    stored[:, -4:] = np.hstack([scale, bias]).view(np.uint8)
    fits: NDArray[np.bool_] = (np.isfinite(bias) & np.isfinite(scale))[:, 0]
    return np.rint(steps, out=steps).clip(0, last, out=steps), fits


def _encode_int8_half(rows: NDArray[np.float32], stored: NDArray[np.uint8]) -> NDArray[np.bool_]:
    stored[:, :-4], fits = _steps_of_halves(rows, 255, stored)
    return fits


def _encode_int4(rows: NDArray[np.float32], stored: NDArray[np.uint8]) -> NDArray[np.bool_]:
    steps, fits = _steps_of_halves(rows, 15, stored)
    pairs = np.zeros((len(rows), rows.shape[1] + rows.shape[1] % 2), np.uint8)
    pairs[:, : rows.shape[1]] = steps
    both = pairs.view("<u2")
    stored[:, :-4] = both | both >> 4  # the higher byte is dropped
    return fits


_ENCODERS = {
    "fp16": _encode_fp16,
    "bf16": _encode_bf16,
    "int8": _encode_int8,
    "int8_half": _encode_int8_half,
    "int4": _encode_int4,
}
"""Each fills the stored rows of a block, and says which rows fit."""

_FITTING = {
    "fp16": "numbers within its range",
    "bf16": "numbers within its range",
    "int8": "finite numbers whose range is finite",
    "int8_half": "finite numbers within float16's range",
    "int4": "finite numbers within float16's range",
}
