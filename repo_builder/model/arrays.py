"""A model's inputs and outputs as numpy arrays: in hand and in files, and as they go over the wire."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from repo_builder.model.types import BATCH, Datatype, Tensor

Array = NDArray[Any]
Arrays = Mapping[str, Array]
"""By the tensors' names."""

DTYPES: Mapping[Datatype, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype(np.uint16),
    "UINT32": np.dtype(np.uint32),
    "UINT64": np.dtype(np.uint64),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype(np.int16),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "FP16": np.dtype(np.float16),
    "FP32": np.dtype(np.float32),
    "FP64": np.dtype(np.float64),
    "BF16": np.dtype(np.float32),
}
"""In hand and in files. numpy has no BF16: float32 holds all of its numbers."""
_BF16 = np.dtype(ml_dtypes.bfloat16)


def held(array: Array, datatype: Datatype) -> Array:
    """As it is in hand: of BF16 numbers that it has."""
    exact = array.astype(_BF16) if datatype == "BF16" else array
    return exact.astype(DTYPES[datatype], copy=False)


def to_wire(array: Array, datatype: Datatype) -> Array:
    """As a server takes it: contiguous, of the datatype itself; a scalar as one number of shape (1,)."""
    sent: Array = np.ascontiguousarray(array, _BF16 if datatype == "BF16" else DTYPES[datatype])  # makes (1,) of ()
    return sent


def wired(query: Arrays, inputs: tuple[Tensor, ...]) -> dict[str, Array]:
    """A query as a server takes it."""
    return {tensor.name: to_wire(query[tensor.name], tensor.datatype) for tensor in inputs}


def from_wire(array: Array, tensor: Tensor) -> Array:
    """What a server gave for an output, as it is in hand."""
    found = held(array, tensor.datatype)
    return found.reshape(()) if tensor.shape == () and found.shape == (1,) else found


def has_rows(tensor: Tensor) -> bool:
    """Whether its first dimension is the batch: queries are joined and cut along it."""
    return tensor.shape[:1] == (BATCH,)


def mismatches(arrays: Arrays, tensors: tuple[Tensor, ...]) -> Iterator[str]:
    """What is wrong with arrays that should be these tensors, a line each: missing ones, dtypes, ranks, sizes.

    Dimensions that vary are not compared.
    """
    for tensor in tensors:
        if tensor.name not in arrays:
            yield f"{tensor.name}: expected this array, got none"
            continue
        array, dtype = arrays[tensor.name], DTYPES[tensor.datatype]
        if array.dtype != dtype:
            yield f"{tensor.name}: expected {dtype} for {tensor.datatype}, got {array.dtype}"
        elif not fits(array.shape, tensor.shape):
            yield f"{tensor.name}: expected shape {shape_text(tensor.shape)}, got {shape_text(array.shape)}"


def difference(found: Array, expected: Array, size: Array | None = None) -> float:
    """The largest difference, as a share of the expected number's size, or of 1 where that is smaller.

    size: of the numbers where it is another than their own, as that of sums of numbers of both signs. Infinite where
    shapes differ; NaN where one of the two alone is not a number.
    """
    if found.shape != expected.shape:
        return float("inf")
    one, other = found.astype(np.float64), expected.astype(np.float64)
    with np.errstate(invalid="ignore"):  # of infinities
        apart = np.abs(one - other) / np.maximum(np.abs(other) if size is None else size, 1)
    same = (found == expected) | (np.isnan(one) & np.isnan(other))
    return float(np.where(same, 0, apart).max(initial=0))


def fits(shape: tuple[int, ...], expected: tuple[int | str, ...]) -> bool:
    """Whether an array's shape is a tensor's, but for the dimensions that vary."""
    pairs = zip(shape, expected, strict=False)
    return len(shape) == len(expected) and all(size == each for size, each in pairs if isinstance(each, int))


def shape_text(shape: tuple[int | str, ...]) -> str:
    """[batch, 23]."""
    return f"[{', '.join(map(str, shape))}]"
