"""Queries that a model is tried on: recorded by its owner, or drawn."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repo_builder.errors import InputError, ModelFileError
from repo_builder.export.onnx_file.graph import sized
from repo_builder.export.onnx_file.run import Arrays
from repo_builder.model.types import BATCH, Ragged, Tensor

NUMPY: Mapping[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "FP16": np.dtype(np.float16),
    "FP32": np.dtype(np.float32),
    "FP64": np.dtype(np.float64),
    **{f"{kind.upper()}{bits}": np.dtype(f"{kind}{bits}") for kind in ("int", "uint") for bits in (8, 16, 32, 64)},
}
_BATCH_ROWS = 4
_OTHER_SIZE = 6


def read_samples(path: Path, inputs: Sequence[Tensor]) -> Arrays:
    """The arrays of an .npz, one an input. Raises ModelFileError where they are none of the model's."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: np.asarray(file[name]) for name in file.files}
    except FileNotFoundError as exc:
        raise ModelFileError(f"{path}: expected samples, found no file; check model.samples") from exc
    except (OSError, ValueError, zipfile.BadZipFile, AttributeError) as exc:
        raise ModelFileError(f"{path}: expected an .npz with an array an input, got another or a damaged file") from exc
    problems = list(_problems(arrays, inputs))
    if problems:
        raise ModelFileError(*(f"{path}: {problem}" for problem in problems))
    return arrays


def check_query(arrays: Arrays, inputs: Sequence[Tensor]) -> None:
    """Raises InputError where arrays are no query of the model."""
    problems = list(_problems(arrays, inputs))
    if problems:
        raise InputError(*problems)


def _problems(arrays: Arrays, inputs: Sequence[Tensor]) -> Iterator[str]:
    names = [tensor.name for tensor in inputs]
    unknown = [name for name in arrays if name not in names]
    if unknown:
        yield f"expected arrays {names}, the model's inputs, got {unknown} too"
    sizes: dict[str, tuple[int, str]] = {}
    for tensor in inputs:
        array = arrays.get(tensor.name)
        if array is None:
            yield f"{tensor.name}: expected an array for this input, got none"
            continue
        if array.dtype != NUMPY[tensor.datatype]:
            yield f"{tensor.name}: expected {NUMPY[tensor.datatype]}, got {array.dtype}"
        fits = array.ndim == len(tensor.shape) and all(
            isinstance(size, str) or size == got for size, got in zip(tensor.shape, array.shape, strict=True)
        )
        if not fits:
            yield f"{tensor.name}: expected the shape {list(tensor.shape)}, got {list(array.shape)}"
            continue
        for size, got in zip(tensor.shape, array.shape, strict=True):
            if isinstance(size, str) and sizes.setdefault(size, (got, tensor.name))[0] != got:
                yield f"{tensor.name}: expected {sizes[size][0]} for {size}, as {sizes[size][1]} has, got {got}"


def sizes_of(arrays: Arrays, inputs: Sequence[Tensor]) -> Mapping[str, int]:
    """The size of each symbol in a query."""
    return {
        size: got
        for tensor in inputs
        for size, got in zip(tensor.shape, arrays[tensor.name].shape, strict=True)
        if isinstance(size, str)
    }


def first_rows(arrays: Arrays, inputs: Sequence[Tensor], rows: int) -> Arrays:
    """A query of the first rows of the batch alone; all of it where some input is not rows of the batch."""
    if any(tensor.shape[:1] != (BATCH,) or BATCH in tensor.shape[1:] for tensor in inputs):
        return arrays
    return {name: array[:rows] for name, array in arrays.items()}


def drawn(
    inputs: Sequence[Tensor], bounds: Mapping[str, Sequence[int]], ragged: Mapping[Ragged, str], below: int
) -> Arrays:
    """A query drawn from a seed: ids within their tables, other whole numbers below a bound, floats from 0 to 1.

    bounds: for an input that holds ids, what they are below, column by column. ragged: inputs of ids in a row, by what
    says where bags of them begin.
    """
    rng = np.random.default_rng(0)
    symbols = [size for tensor in inputs for size in tensor.shape if isinstance(size, str)]
    sizes = sized(symbols, lambda symbol: _BATCH_ROWS if symbol == BATCH else _OTHER_SIZE)
    arrays: dict[str, NDArray[Any]] = {}
    for tensor in inputs:
        shape = tuple(size if isinstance(size, int) else sizes[size] for size in tensor.shape)
        dtype = NUMPY[tensor.datatype]
        if dtype.kind == "f":
            arrays[tensor.name] = rng.random(shape).astype(dtype)
        elif dtype.kind == "b":
            arrays[tensor.name] = rng.random(shape) < 0.5
        else:
            highest = np.resize(np.array(bounds.get(tensor.name, [below])), int(np.prod(shape)))
            arrays[tensor.name] = rng.integers(0, highest).reshape(shape).astype(dtype)
    for layout, ids in ragged.items():
        if layout.bounds in arrays and ids in arrays:
            ends = np.sort(rng.integers(0, arrays[ids].size + 1, arrays[layout.bounds].shape))
            ends[0], ends[-1] = 0, arrays[ids].size if layout.kind == "ends" else ends[-1]
            arrays[layout.bounds] = ends.astype(arrays[layout.bounds].dtype)
    return arrays
