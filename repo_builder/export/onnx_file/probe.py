"""Running a part of a graph on drawn numbers, to see what it does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from repo_builder.export.onnx_file.graph import Graph, Shape, sized
from repo_builder.export.onnx_file.run import RUNTIME_ERRORS, Arrays, Session

INTEGERS = (TensorProto.INT32, TensorProto.INT64)
_SMALL = 0.5  # of drawn whole numbers


def session_between(graph: Graph, given: Sequence[str], made: str) -> Session:
    """What makes a tensor of others; it may read inputs too."""
    read = {name for place in graph.needed([made], given) for name in graph.reads[place]}
    names = [*given, *(name for name in graph.inputs if name in read and name not in given)]
    inputs = [graph.info(name, [None] * len(graph.shapes[name])) for name in names]
    return Session(graph.extract(inputs, [graph.info(made, None)]), graph.folder)


def moved(graph: Graph, session: Session, given: Arrays, sizes: Mapping[str, int]) -> NDArray[Any] | None:
    """What becomes of given tensors, and of zeros for other inputs; None where that is nothing, in these sizes."""
    others = {name: numbers_at(graph.shapes[name], sizes) for name in session.inputs if name not in given}
    zeros = {name: np.zeros(shape or (), graph.dtype(name)) for name, shape in others.items()}
    try:
        (got,) = session.run({**zeros, **given}).values()
    except RUNTIME_ERRORS:
        return None
    return got


def drawn_sizes(graph: Graph, rng: np.random.Generator) -> dict[str, int]:
    """A size for each varying dimension of an input; one that is another's and 1 is so."""
    return sized(graph.symbols.values(), lambda _: int(rng.integers(2, 9)))


def numbers_at(shape: Shape, sizes: Mapping[str, int]) -> tuple[int, ...] | None:
    """A shape in numbers, where the symbols have these sizes; None where one is not among them."""
    found = [size.at(sizes) for size in shape]
    return None if None in found else tuple(size for size in found if size is not None)


def drawn_numbers(graph: Graph, tensor: str, shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[Any]:
    """Values of a tensor: whole numbers are small ones and ones of all sizes."""
    if graph.types[tensor] not in INTEGERS:
        return rng.standard_normal(shape).astype(graph.dtype(tensor))
    small, large = rng.integers(-3, 30, shape), rng.integers(-(2**31), 2**31, shape)
    return np.where(rng.random(shape) < _SMALL, small, large).astype(graph.dtype(tensor))
