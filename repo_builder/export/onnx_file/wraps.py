"""Ids below zero, counted from the end of a table: TensorFlow's exporter adds the table's rows to them before a Gather.

The Gather does the same itself, and so do we: the ids as they were are taken.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from repo_builder.export.onnx_file.graph import Graph
from repo_builder.export.onnx_file.probe import INTEGERS, drawn_numbers, drawn_sizes, moved, numbers_at, session_between
from repo_builder.export.onnx_file.read import values
from repo_builder.export.onnx_file.run import RUNTIME_ERRORS

_STEPS = {"Add", "Cast", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Mul", "Not", "Sub", "Where"}
_SEEDS = range(4)
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
    for seed in _SEEDS:
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
