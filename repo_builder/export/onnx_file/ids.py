"""Where the ids of look-ups come from: columns of an input, or of a tensor that an ids graph makes of the inputs.

Between an input and the ids often stands work that only moves numbers: a column is taken, an axis is added. Whether
ids are columns of a tensor is seen by running that part of the graph on numbers drawn at random, in two sizes.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import mul
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from repo_builder.export.onnx_file.graph import ONE_MORE, Graph, Shape, Size
from repo_builder.export.onnx_file.probe import (
    INTEGERS,
    drawn_numbers,
    drawn_sizes,
    moved,
    numbers_at,
    session_between,
    wrapped,
    wrapped_from,
)
from repo_builder.export.onnx_file.run import RUNTIME_ERRORS
from repo_builder.export.onnx_file.sites import BoundsKind, OnnxSite
from repo_builder.export.onnx_file.tensors import node_name, values
from repo_builder.model.types import Columns, Ragged

_MOVES = {"Cast", "Flatten", "Gather", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"}
_HEAVY = {
    "Conv", "Einsum", "Gemm", "GRU", "LSTM", "MatMul", "MatMulInteger", "Multinomial", "QLinearMatMul", "RNN",
    "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli",
}  # fmt: skip
_SEEDS = (1, 2)


@dataclass(frozen=True, slots=True)
class BagShape:
    """How many bags ids make: `count` for each of the group's `rows`, of `bag` ids each.

    None: all of a last axis, which varies.
    """

    rows: Size
    count: int
    bag: int | None


@dataclass(frozen=True, slots=True)
class IdsTensor:
    """The tensor whose columns are a look-up's ids, and the one like it with their weights."""

    tensor: str
    layout: Columns | Ragged
    weights: str | None

    @property
    def tensors(self) -> Sequence[str]:
        """All that a look-up reads."""
        bounds = self.layout.bounds if isinstance(self.layout, Ragged) else None
        return [name for name in (self.tensor, bounds, self.weights) if name]


def bags_of(graph: Graph, site: OnnxSite) -> BagShape | None:
    """How a look-up's ids are bags of rows; None where their shape cannot be told.

    The rows are the ids' varying dimensions, or the first where none varies; what stands after them are bags of a row.
    """
    shape = graph.shapes.get(site.ids)
    if shape is None:
        return None
    if site.bounds is not None:
        return BagShape(_rows_between(graph, site.bounds, site.kind), 1, None)
    if site.bag:
        (ids,) = shape
        return BagShape(Size(ids.number // site.bag, ids.symbols), 1, site.bag) if ids.number % site.bag == 0 else None
    rows_shape, bag = shape[: len(shape) - site.bag_axes], product(shape[len(shape) - site.bag_axes :])
    if bag.symbols:
        return BagShape(product(rows_shape), 1, None)
    varying = [axis for axis, size in enumerate(rows_shape) if size.symbols]
    after = varying[-1] + 1 if varying else 1
    rows, count = product(rows_shape[:after]), product(rows_shape[after:]).number
    if after == 1 and varying:
        rows, count = Size(1, rows.symbols), count * rows.number
    return BagShape(rows, count, bag.number)


def _rows_between(graph: Graph, bounds: str, kind: BoundsKind) -> Size:
    """How many bags there are between bounds."""
    (size,) = graph.shapes[bounds]
    if kind == "offsets":
        return size
    if size.number == 1 and len(size.symbols) == 1 and size.symbols[0].endswith(ONE_MORE):
        return Size(1, (size.symbols[0].removesuffix(ONE_MORE),))
    return Size(1, (f"{bounds}_bags",))


def product(shape: Shape) -> Size:
    """How many numbers there are in it."""
    return reduce(mul, shape, Size(1))


def reason_against(graph: Graph, site: OnnxSite, looked_up: Collection[int]) -> str | None:
    """Why a look-up must stay in the dense graph; None where it need not. looked_up: the nodes of all look-ups."""
    node = node_name(graph.nodes[site.node])
    made_by = graph.needed([site.ids])
    before = next((graph.nodes[position] for position in made_by if position in looked_up), None)
    if before is not None:
        return f"the ids of node {node} depend on what node {node_name(before)} looks up"
    heavy = next((graph.nodes[position] for position in made_by if graph.nodes[position].op_type in _HEAVY), None)
    if heavy is not None:
        return f"the ids of node {node} are computed by node {node_name(heavy)} ({heavy.op_type})"
    if not reads_inputs(graph, site.ids):
        return f"the ids of node {node} are the same in every query of a size"
    if site.ids not in graph.shapes:
        return f"the shape of the ids of node {node} cannot be told before a query comes"
    return None


def reads_inputs(graph: Graph, tensor: str, given: str | None = None) -> bool:
    """Whether a tensor depends on an input's values, not on its shape alone, nor through one that is given."""
    seen, todo = {given}, [tensor]
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        if name in graph.inputs:
            return True
        if name not in graph.made_by:
            continue
        seen.add(name)
        position = graph.made_by[name]
        if graph.nodes[position].op_type not in ("Shape", "Size"):
            todo += graph.reads[position]
    return False


def may_come_before(graph: Graph, tensor: str, looked_up: Collection[int]) -> bool:
    """Whether a tensor can be made in the ids graph."""
    positions = graph.needed([tensor])
    return not any(position in looked_up or graph.nodes[position].op_type in _HEAVY for position in positions)


def ids_tensor_of(graph: Graph, site: OnnxSite, bags: BagShape) -> IdsTensor | None:
    """Where a look-up's ids, and their weights, lie: the farther up from the Gather the better.

    None where its weights are no tensor like that of its ids.
    """
    if site.bounds is not None:
        return _ragged_tensor(graph, site)
    weights = moved_from(graph, site.weights) if site.weights else []
    last, table_rows = graph.shapes[site.ids][-1:], graph.shapes[site.table][0].number
    for tensor in reversed(moved_from(graph, site.ids, table_rows)):
        layout = _columns(graph, tensor, site.ids, bags, last, table_rows)
        if layout is None:
            continue
        if site.weights is None:
            return IdsTensor(tensor, layout, None)
        if layout.begin or (layout.width is not None and layout.width != bags.count * (bags.bag or 1)):
            continue
        for other in reversed(weights):
            one, two = graph.shapes[other], graph.shapes[tensor]
            alike = product(one) == product(two) and one[-1:] == two[-1:]
            if alike and _columns(graph, other, site.weights, bags, last) == layout:
                return IdsTensor(tensor, layout, other)
    return None


def _ragged_tensor(graph: Graph, site: OnnxSite) -> IdsTensor | None:
    """Where ids in a row lie, their bounds, and their weights, all of them as they are."""
    found = []
    for name in (site.ids, site.weights):
        each_one = BagShape(product(graph.shapes[name]), 1, 1) if name else None
        whole = Columns(0, 1, 1)
        alike = (
            tensor
            for tensor in reversed(moved_from(graph, name) if name else [])
            if each_one is not None
            and len(graph.shapes[tensor]) == 1
            and _columns(graph, tensor, name or "", each_one, ()) == whole
        )
        found.append(next(alike, None))
    ids, weights = found
    if ids is None or (site.weights is not None and weights is None) or site.bounds is None:
        return None
    bounds = site.bounds
    return IdsTensor(ids, Ragged(bounds, site.kind), weights)


def moved_from(graph: Graph, tensor: str, rows: int | None = None) -> list[str]:
    """A tensor, and those that it is moved from, each through the next, up to the first that is computed.

    rows: of the table that the tensor's ids are of; to add them to ids below zero is to move these too.
    """
    chain = [tensor]
    while True:
        source = _moved_once(graph, chain[-1])
        if source is None and rows is not None:
            source = wrapped_from(graph, chain[-1], rows)
        if source is None:
            return chain
        chain.append(source)


def _moved_once(graph: Graph, tensor: str) -> str | None:
    node = graph.nodes[graph.made_by[tensor]] if tensor in graph.made_by else None
    source = node.input[0] if node is not None and node.op_type in _MOVES else ""
    if node is None or source in graph.initializers or source not in graph.shapes or source not in graph.types:
        return None
    is_integer = graph.types[tensor] in INTEGERS
    if (graph.types[source] in INTEGERS) != is_integer or (not is_integer and node.op_type == "Cast"):
        return None
    return source


def _columns(
    graph: Graph, tensor: str, ids: str, bags: BagShape, last: Shape, table_rows: int | None = None
) -> Columns | None:
    """Which columns of a tensor some ids (or weights) are, where they are.

    last: the ids' last dimension. table_rows: what may have been added to ids below zero.
    """
    if reads_inputs(graph, ids, tensor):  # another input says which they are
        return None
    found, sizes = [], None
    try:
        session = None if tensor == ids else session_between(graph, [tensor], ids)
    except RUNTIME_ERRORS:  # what lies between cannot be run alone
        return None
    for seed in _SEEDS:
        rng = np.random.default_rng(seed)
        sizes = drawn_sizes(graph, rng, sizes)
        rows, shape = bags.rows.at(sizes), numbers_at(graph.shapes[tensor], sizes)
        if tensor == ids and (rows is None or shape is None):
            return Columns(0, bags.bag or 0, None if bags.bag is None else bags.count * bags.bag)
        if rows is None or shape is None:
            return None
        drawn = drawn_numbers(graph, tensor, shape, rng)
        got = drawn if session is None else moved(graph, session, {tensor: drawn}, sizes)
        at = None if got is None else _found_in(drawn, got, rows)
        if at is None and got is not None and table_rows is not None:
            at = _found_in(wrapped(drawn, table_rows), got, rows)
        found.append(at)
    first, other = found
    if first is None or other is None:
        return None
    begin, taken, width = first
    if bags.bag is None:
        whole = begin == 0 and taken == width and other[1] == other[2]
        return Columns(0, 0, None) if whole and graph.shapes[tensor][-1:] == last else None
    return Columns(begin, bags.bag, width) if first == other and taken == bags.count * bags.bag else None


def _found_in(drawn: NDArray[Any], got: NDArray[Any], rows: int) -> tuple[int, int, int] | None:
    """The first column, how many, and of how many, where one matrix of so many rows is columns of the other."""
    if drawn.size % rows or got.size % rows:
        return None
    all_columns, columns = drawn.reshape(rows, -1), got.reshape(rows, -1)
    taken, width = columns.shape[1], all_columns.shape[1]
    for begin in np.flatnonzero(all_columns[0] == columns[0, 0]).tolist():
        if np.array_equal(all_columns[:, begin : begin + taken], columns):
            return begin, taken, width
    return None


_MASK_TURNS = 8  # at least
_MOST_MARKS = 512  # constants of what makes a mask


def masked(graph: Graph, site: OnnxSite) -> OnnxSite:
    """The look-up with a padding in the place of its weights, or as it is where they are no mask of one id.

    Seen, not read: what makes the weights of the ids is run on drawn ids, and on each number that it could ask for.
    """
    if site.weights is None or site.padding is not None:
        return site
    source = moved_from(graph, site.ids)[-1]
    positions = graph.needed([site.weights], [source])
    read = {name for position in positions for name in graph.reads[position]}
    if source not in read or any(name in graph.inputs and name != source for name in read):
        return site
    marks = _marks(graph, read, graph.shapes[site.table][0].number)
    try:
        session = session_between(graph, [source], site.weights)
    except RUNTIME_ERRORS:
        return site
    left, unseen, turns = list(marks), list(marks), 0
    while left and (unseen or turns < _MASK_TURNS):
        rng = np.random.default_rng(turns)
        sizes = drawn_sizes(graph, rng)
        shape = numbers_at(graph.shapes[source], sizes)
        if shape is None:
            return site
        ids = drawn_numbers(graph, source, shape, rng)
        places = rng.permutation(ids.size)[: max(1, ids.size // 3)]
        ids.reshape(-1)[places] = np.resize([*unseen[: len(places)], *marks], len(places))
        got = moved(graph, session, {source: ids}, sizes)
        if got is None or got.size != ids.size:
            return site
        left = [each for each in left if np.array_equal(got.reshape(-1), (ids != each).reshape(-1))]
        unseen, turns = unseen[len(places) :], turns + 1
    return replace(site, weights=None, padding=left[0]) if len(left) == 1 else site


def _marks(graph: Graph, read: Collection[str], rows: int) -> Sequence[int]:
    """The numbers that a mask of ids may compare them with, and those beside them; none where there are too many."""
    constants = [graph.initializers[name] for name in read if name in graph.initializers]
    if sum(math.prod(each.dims) for each in constants) > _MOST_MARKS or any(
        each.data_type == TensorProto.STRING for each in constants
    ):
        return []
    found = {0, rows - 2, rows - 1}
    for each in constants:
        for number in values(each, graph.folder).astype(np.float64).reshape(-1).tolist():
            if abs(number) < 2**31:  # and no NaN
                found |= {math.floor(number) + step for step in (-1, 0, 1)}
    return sorted(found)
