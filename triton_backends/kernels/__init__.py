"""Bindings of the C kernels: routing ids to shards, and summing the rows of bags. Needs numpy alone."""

from __future__ import annotations

import ctypes
from ctypes import POINTER, c_int64, c_void_p
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

MAX_SHARDS = 16

LIBRARY = Path(__file__).with_name("kernels.so")


class RouteTable(ctypes.Structure):
    """`Table` of kernels.h: a table's id map and where its shards' rows lie."""

    _fields_ = (
        ("map", c_void_p),
        ("rows", c_int64),
        ("pooling", c_int64),
        ("bits", c_int64),
        ("base", c_int64 * MAX_SHARDS),
        ("service", c_int64 * MAX_SHARDS),
        ("place", c_int64 * MAX_SHARDS),
    )


class RouteService(ctypes.Structure):
    """`Service` of kernels.h: where a service's ids and lengths are written."""

    _fields_ = (("ids", c_void_p), ("lengths", c_void_p), ("tables", c_int64), ("count", c_int64))


def _load() -> ctypes.CDLL:
    library = ctypes.CDLL(str(LIBRARY))
    library.elasticrec_route.argtypes = (
        POINTER(RouteTable),
        c_int64,
        c_void_p,
        c_int64,
        c_int64,
        POINTER(RouteService),
    )
    library.elasticrec_check_bags.argtypes = (c_int64, c_void_p, c_int64, c_void_p, c_int64)
    library.elasticrec_sum_bags.argtypes = (c_void_p, c_int64, c_int64, c_void_p, c_int64, c_void_p, c_int64, c_void_p)
    for function in (library.elasticrec_route, library.elasticrec_check_bags, library.elasticrec_sum_bags):
        function.restype = c_int64
    return library


_library = _load()
route = _library.elasticrec_route


def check_bags(rows: int, ids: NDArray[np.int32], lengths: NDArray[np.int32]) -> None:
    """Raise ValueError where an id is not in [0, rows) or the lengths do not add up to the number of ids.

    ids: (nnz,) int32, the bags' rows one bag after another; lengths: (bags,) int32. Both C-contiguous.
    """
    bad = _library.elasticrec_check_bags(rows, ids.ctypes.data, ids.size, lengths.ctypes.data, lengths.size)
    _raise_for(bad, rows, ids, lengths)


def sum_bags(weights: NDArray[np.float32], ids: NDArray[np.int32], lengths: NDArray[np.int32]) -> NDArray[np.float32]:
    """Each bag's sum of rows, added in the order of its ids; an empty bag is zeros.

    weights: (rows, dim) float32, C-contiguous; ids and lengths as in `check_bags`, whose errors it raises: nothing is
    read out of bounds. Returns (bags, dim) float32.
    """
    rows, dim = weights.shape
    out = np.empty((lengths.size, dim), np.float32)
    bad = _library.elasticrec_sum_bags(
        weights.ctypes.data, rows, dim, ids.ctypes.data, ids.size, lengths.ctypes.data, lengths.size, out.ctypes.data
    )
    _raise_for(bad, rows, ids, lengths)
    return out


def _raise_for(bad: int, rows: int, ids: NDArray[np.int32], lengths: NDArray[np.int32]) -> None:
    """Turn the kernels' return value into an error: -1 is none, -2 the lengths, else the place of a bad id."""
    if bad == -2:
        total = lengths.sum(dtype=np.int64)
        raise ValueError(f"lengths: expected {lengths.size} counts that add up to {ids.size} ids, got a sum of {total}")
    if bad >= 0:
        raise ValueError(f"ids: expected rows in [0, {rows}), got {ids[bad]} at place {bad}")
