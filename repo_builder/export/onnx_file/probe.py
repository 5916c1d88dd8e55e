"""Running a part of a graph on drawn numbers, to see what it does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from repo_builder.export.onnx_file.graph import Graph, Shape, sized
from repo_builder.export.onnx_file.run import RUNTIME_ERRORS, Session
from repo_builder.export.onnx_file.tensors import values
from repo_builder.model.arrays import Arrays

INTEGERS = (TensorProto.INT32, TensorProto.INT64)
_SMALL = 0.5  # of drawn whole numbers


def session_between(graph: Graph, given: Sequence[str], made: str) -> Session:
    """What makes a tensor of others; it may read inputs too."""
    read = {name for position in graph.needed([made], given) for name in graph.reads[position]}
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


_LEAST, _MOST = 2, 8  # of a drawn size


def drawn_sizes(graph: Graph, rng: np.random.Generator, unlike: Mapping[str, int] | None = None) -> dict[str, int]:
    """A size for each varying dimension of an input; one that is another's and 1 is so.

    unlike: sizes that were drawn before: none is drawn again.
    """

    def draw(symbol: str) -> int:
        size = int(rng.integers(_LEAST, _MOST + 1))
        if unlike is None or size != unlike[symbol]:
            return size
        return size + 1 if size < _MOST else _LEAST

    return sized(graph.symbols.values(), draw)


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


_STEPS = {"Add", "Cast", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Mul", "Not", "Sub", "Where"}
_WRAP_SEEDS = range(4)
_AT_ENDS = 0.4  # of the drawn ids


def wrapped(ids: NDArray[Any], rows: int) -> NDArray[Any]:
    """Ids with the rows of their table added to those below zero."""
    return np.where(ids < 0, ids + rows, ids).astype(ids.dtype)


def wrapped_from(graph: Graph, tensor: str, rows: int) -> str | None:
    """The ids that a tensor is but for that; None where it is none.

    Only steps that compare, add and choose, with the numbers 0, 1 and the rows, are run to see it.
    """
    sources, todo, seen = set[str](), [tensor], set[str]()
    while todo:
        name = todo.pop()
        if name in graph.initializers:
            number = graph.initializers[name]
            if any(size != 1 for size in number.dims) or values(number, graph.folder).item() not in (0, 1, rows):
                return None
        elif name in graph.made_by and graph.nodes[graph.made_by[name]].op_type in _STEPS:
            todo += [each for each in graph.reads[graph.made_by[name]] if each not in seen]
        else:
            sources.add(name)
        seen.add(name)
    source = next(iter(sources)) if len(sources) == 1 else tensor
    if source == tensor or graph.types.get(source) not in INTEGERS or graph.shapes.get(source) != graph.shapes[tensor]:
        return None
    return source if _is_wrapped(graph, source, tensor, rows) else None


def _is_wrapped(graph: Graph, source: str, tensor: str, rows: int) -> bool:
    try:
        session = session_between(graph, [source], tensor)
    except RUNTIME_ERRORS:
        return False
    for seed in _WRAP_SEEDS:
        rng = np.random.default_rng(seed)
        sizes = drawn_sizes(graph, rng)
        shape = numbers_at(graph.shapes[source], sizes)
        if shape is None:
            return False
        ends = rng.choice([-rows - 1, -rows, -1, 0, 1, rows - 1, rows], shape)
        ids = np.where(rng.random(shape) < _AT_ENDS, ends, drawn_numbers(graph, source, shape, rng))
        ids = ids.astype(graph.dtype(source))
        got = moved(graph, session, {source: ids}, sizes)
        if got is None or not np.array_equal(got, wrapped(ids, rows)):
            return False
    return True
