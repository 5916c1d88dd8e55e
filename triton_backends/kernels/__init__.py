"""Bindings of the C kernels that sum the rows of bags, and of the limits of those that route. Needs numpy alone."""

from __future__ import annotations

import ctypes
from ctypes import POINTER, c_int64, c_void_p
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from triton_backends.kernels.row_formats import ROW_DTYPES

MAX_SHARDS = 16

LIBRARY = Path(__file__).with_name("kernels.so")


class BadIdError(ValueError):
    """An id that is no row of its matrix: which one, and its index."""

    def __init__(self, rows: int, row: int, index: int) -> None:
        super().__init__(f"ids: expected rows in [0, {rows}), got {row} at index {index}")
        self.rows, self.row, self.index = rows, row, index


class _Sums(ctypes.Structure):
    """`Sums` of kernels.h."""

    _fields_ = (
        ("matrix", c_void_p),
        ("rows", c_int64),
        ("dim", c_int64),
        ("dtype", c_int64),
        ("ids", c_void_p),
        ("count", c_int64),
        ("weights", c_void_p),
        ("lengths", c_void_p),
        ("bags", c_int64),
        ("out", c_void_p),
        ("side", c_int64),
        ("stride", c_int64),
    )


def _load() -> ctypes.CDLL:
    library = ctypes.CDLL(str(LIBRARY))
    library.elasticrec_check_bags.argtypes = (POINTER(_Sums),)
    library.elasticrec_sum_bags.argtypes = (POINTER(_Sums),)
    library.elasticrec_take_rows.argtypes = (POINTER(_Sums),)
    summing = library.elasticrec_check_bags, library.elasticrec_sum_bags, library.elasticrec_take_rows
    for function in summing:
        function.restype = c_int64
    return library


_library = _load()


def check_bags(rows: int, ids: NDArray[np.int32], lengths: NDArray[np.int32]) -> None:
    """Raise ValueError where an id is not in [0, rows) or the lengths do not add up to the number of ids.

    ids: (nnz,) int32, the bags' rows one bag after another; lengths: (bags,) int32. Both C-contiguous.
    """
    asked = _Sums(rows=rows, ids=ids.ctypes.data, count=ids.size, lengths=lengths.ctypes.data, bags=lengths.size)
    _raise_for(_library.elasticrec_check_bags(asked), rows, ids, lengths)


def sum_bags(
    matrix: NDArray[Any],
    ids: NDArray[np.int32],
    lengths: NDArray[np.int32],
    weights: NDArray[np.float32] | None = None,
    out: NDArray[np.float32] | None = None,
    row: tuple[int, str] | None = None,
) -> NDArray[np.float32]:
    """Each bag's sum of rows, added in the order of its ids; an empty bag is zeros.

    matrix: (rows, dim) float32, C-contiguous; or with `row`, the numbers of one and their dtype, as `encode_rows` gives
    it. ids and lengths as in `check_bags`, whose errors it raises: nothing is read out of bounds. weights: (nnz,)
    float32, by which the rows are multiplied. Returns (bags, dim) float32; or out (n, bags / n * dim), filled, whose
    rows may be columns of a wider matrix.
    """
    dim, dtype = row or (matrix.shape[1], "fp32")
    if out is None:
        out = np.empty((lengths.size, dim), np.float32)
    asked = _Sums(
        matrix=matrix.ctypes.data,
        rows=len(matrix),
        dim=dim,
        dtype=ROW_DTYPES.index(dtype),
        ids=ids.ctypes.data,
        count=ids.size,
        weights=None if weights is None else weights.ctypes.data,
        lengths=lengths.ctypes.data,
        bags=lengths.size,
        out=out.ctypes.data,
        side=out.shape[1] // dim,
        stride=out.strides[0] // out.itemsize,
    )
    _raise_for(_library.elasticrec_sum_bags(asked), len(matrix), ids, lengths)
    return out


def take_rows(matrix: NDArray[Any], ids: NDArray[np.int32], row: tuple[int, str] | None = None) -> NDArray[np.float32]:
    """Each id's row, (nnz, dim) float32; raises BadIdError as `sum_bags`, which says what matrix and row are."""
    dim, dtype = row or (matrix.shape[1], "fp32")
    out = np.empty((ids.size, dim), np.float32)
    asked = _Sums(
        matrix=matrix.ctypes.data,
        rows=len(matrix),
        dim=dim,
        dtype=ROW_DTYPES.index(dtype),
        ids=ids.ctypes.data,
        count=ids.size,
        out=out.ctypes.data,
    )
    _raise_for(_library.elasticrec_take_rows(asked), len(matrix), ids, np.empty(0, np.int32))
    return out


def _raise_for(bad: int, rows: int, ids: NDArray[np.int32], lengths: NDArray[np.int32]) -> None:
    """Turn the kernels' return value into an error: -1 is none, -2 the lengths, else the index of a bad id."""
    if bad == -2:
        total = lengths.sum(dtype=np.int64)
        raise ValueError(f"lengths: expected {lengths.size} counts that add up to {ids.size} ids, got a sum of {total}")
    if bad >= 0:
        raise BadIdError(rows, int(ids[bad]), bad)
