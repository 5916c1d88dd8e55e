"""Look-ups taken out of loops: torch's older exporter writes EmbeddingBag as a loop that looks up a bag at a time.

In a loop's body Gather(table, Slice(ids)) becomes Slice(rows), where rows is Gather(table, ids), before the loop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from repo_builder.export.join import all_names, free_prefix
from repo_builder.export.onnx_file.graph import Graph, Size
from repo_builder.export.onnx_file.ids import reads_inputs
from repo_builder.export.onnx_file.probe import INTEGERS, drawn_sizes, moved, session_between
from repo_builder.export.onnx_file.run import RUNTIME_ERRORS
from repo_builder.export.onnx_file.sites import BoundsKind, OnnxSite, only_reader
from repo_builder.export.onnx_file.tensors import all_reads, inner_graphs, values
from repo_builder.model.types import PoolingMode


def hoist_look_ups(graph: onnx.GraphProto, folder: Path) -> None:
    """Change the graph so that what loops look up in parts is looked up whole before them."""
    initializers = {tensor.name: tensor for tensor in graph.initializer}
    prefix = free_prefix("rows_of_", all_names(graph))
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        for body in inner_graphs(node) if node.op_type == "Loop" else ():
            nodes += _hoisted(body, initializers, prefix, folder)
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)


def _hoisted(
    body: onnx.GraphProto, initializers: Mapping[str, TensorProto], prefix: str, folder: Path
) -> Iterator[onnx.NodeProto]:
    made_by = {name: node for node in body.node for name in node.output}
    own = {*made_by, *(entry.name for entry in (*body.input, *body.initializer))}
    for node in body.node:
        part = made_by.get(node.input[1]) if node.op_type == "Gather" else None
        is_table = part is not None and node.input[0] in initializers and not any(each.i for each in node.attribute)
        if part is None or not is_table or part.op_type != "Slice" or part.input[0] in own:
            continue
        axes = initializers.get(part.input[3]) if len(part.input) > 3 else None
        if axes is None or values(axes, folder).reshape(-1).tolist() != [0]:
            continue
        rows = f"{prefix}{node.output[0]}"
        yield helper.make_node("Gather", [node.input[0], part.input[0]], [rows], rows)
        node.CopyFrom(helper.make_node("Slice", [rows, *part.input[1:]], list(node.output), node.name))


_BAGS: Sequence[Sequence[int]] = ((0, 3, 1, 2), (2, 0, 4, 1, 3))
"""Sizes of bags, some of none, that a loop is tried on."""


@dataclass(frozen=True, slots=True)
class _Way:
    """From a Gather to what a loop makes of its rows. weights: of an id each, (n, 1), where they are no constants."""

    loop: onnx.NodeProto
    weights: str | None
    output: str


def looped(graph: Graph, site: OnnxSite, weighable: Callable[[str], bool]) -> OnnxSite:
    """The look-up with the sum or mean that a loop makes of its bags, or as it is where there is none."""
    in_a_row = len(graph.shapes.get(site.ids, ())) == 1 and len(graph.shapes[site.table]) == 2
    plain = site.type == TensorProto.FLOAT and site.output == graph.nodes[site.node].output[0]
    way = _way(graph, site) if in_a_row and plain else None
    if way is None or (way.weights is not None and not weighable(way.weights)):
        return site
    for bounds, kind in _bounds(graph, way.loop):
        found = replace(site, output=way.output, weights=way.weights, bounds=bounds, kind=kind)
        if not reads_inputs(graph, bounds):
            found = replace(found, bounds=None, bag=_fixed_bag(graph, bounds))
        if found.bounds is None and not found.bag:
            continue
        if found.bounds is None or weighable(bounds):
            made = _tried(graph, found, _paddings(graph, way.loop))
            if made is not None:
                return made
    return site


def _way(graph: Graph, site: OnnxSite) -> _Way | None:
    tensor, weights = site.output, None
    while True:
        positions = graph.read_by.get(tensor, ())
        if len(positions) != 1 or tensor in graph.outputs:
            return None
        node = graph.nodes[positions[0]]
        if node.op_type == "Loop" and tensor not in node.input:
            output = next((end for each in node.output if (end := _end_of(graph, each)) is not None), None)
            return _Way(node, weights, output) if output is not None else None
        if node.op_type == "Mul" and weights is None:
            other = next((name for name in node.input if name != tensor), tensor)
            if other == tensor or graph.shapes.get(other, ())[1:] != (Size(1),):
                return None
            weights = other if reads_inputs(graph, other) else None
        elif node.op_type != "Identity":
            return None
        tensor = node.output[0]


def _end_of(graph: Graph, sequence: str) -> str | None:
    """The matrix of all that a loop has made: it stacked it itself, or put it in a sequence."""
    if graph.types.get(sequence) == TensorProto.FLOAT:
        return sequence
    node = only_reader(graph, sequence)
    if node is None or node.op_type != "ConcatFromSequence":
        return None
    tensor = node.output[0]
    following = only_reader(graph, tensor)
    while following is not None and following.op_type in ("Cast", "Identity"):
        tensor = following.output[0]
        following = only_reader(graph, tensor)
    return tensor if graph.types.get(tensor) == TensorProto.FLOAT else None


def _bounds(graph: Graph, loop: onnx.NodeProto) -> Iterator[tuple[str, BoundsKind]]:
    """Which tensors may say where bags begin: those of whole numbers that the loop's body reads."""
    for name in dict.fromkeys(all_reads(loop)):
        tensor = name
        while _made_by(graph, tensor, "Identity") is not None:
            tensor = graph.nodes[graph.made_by[tensor]].input[0]
        if name in loop.input or graph.types.get(tensor) not in INTEGERS or len(graph.shapes.get(tensor, ())) != 1:
            continue
        joined = _made_by(graph, tensor, "Concat")
        if joined is not None and len(joined.input) == 2:
            yield joined.input[0], "offsets"
        yield tensor, "ends"


def _made_by(graph: Graph, tensor: str, op_type: str) -> onnx.NodeProto | None:
    node = graph.nodes[graph.made_by[tensor]] if tensor in graph.made_by else None
    return node if node is not None and node.op_type == op_type else None


def _fixed_bag(graph: Graph, bounds: str) -> int:
    """The size of all bags where bounds depend on sizes alone; 0 where it is none."""
    sizes = drawn_sizes(graph, np.random.default_rng(0))
    got = moved(graph, session_between(graph, [], bounds), {}, sizes)
    steps = set(np.diff(got).tolist()) if got is not None else set()
    return int(steps.pop()) if len(steps) == 1 and min(steps) > 0 else 0


def _same_ids(graph: Graph, site: OnnxSite) -> list[str]:
    """The tensors that a look-up's ids in a row are, under several names: a loop reads the size of any."""
    names = [site.ids]
    while names[-1] in graph.made_by:
        node = graph.nodes[graph.made_by[names[-1]]]
        if node.op_type not in ("Cast", "Identity", "Reshape") or len(graph.shapes.get(node.input[0], ())) != 1:
            break
        names.append(node.input[0])
    return names


def _paddings(graph: Graph, loop: onnx.NodeProto) -> list[int | None]:
    """Which ids may stand for none: no id, or a whole number that the loop reads."""
    found = [graph.initializers[name] for name in all_reads(loop) if name in graph.initializers]
    numbers = (values(each, graph.folder) for each in found if each.data_type in INTEGERS and not each.dims)
    return [None, *dict.fromkeys(int(number) for number in numbers)]


def _tried(graph: Graph, site: OnnxSite, paddings: Sequence[int | None]) -> OnnxSite | None:
    """The look-up with what the loop makes of bags: the sum or the mean of what is no padding; None where neither."""
    made_of = graph.nodes[site.node].output[0]
    given = [made_of, *_same_ids(graph, site), *(name for name in (site.bounds, site.weights) if name)]
    try:
        session = session_between(graph, given, site.output)
    except RUNTIME_ERRORS:
        return None
    modes: tuple[PoolingMode, ...] = ("sum",) if site.weights else ("sum", "mean")
    left = [replace(site, mode=mode, padding=padding) for padding in paddings for mode in modes]
    for seed, bags in enumerate(_BAGS):
        rng = np.random.default_rng(seed)
        sizes = drawn_sizes(graph, rng)
        if site.bounds is None:
            bags = [site.bag] * ((graph.shapes[site.ids][0].at(sizes) or 0) // site.bag)
        drawn = _drawn(graph, site, bags, paddings, rng)
        got = moved(graph, session, drawn, sizes)
        if got is None:
            return None
        left = [each for each in left if _is_close(got, _pooled(each, bags, drawn, drawn[made_of]))]
    return left[0] if left else None


def _drawn(
    graph: Graph, site: OnnxSite, bags: Sequence[int], paddings: Sequence[int | None], rng: np.random.Generator
) -> dict[str, NDArray[Any]]:
    """Rows for so many ids, with what else the loop reads of them."""
    count, ends = sum(bags), np.cumsum([0, *bags])
    rows, dim = (size.number for size in graph.shapes[site.table])
    ids = rng.choice([*(each for each in paddings if each is not None), *rng.integers(0, rows, 3)], count)
    drawn: dict[str, NDArray[Any]] = {
        graph.nodes[site.node].output[0]: rng.standard_normal((count, dim), np.float32),
    }
    for name in _same_ids(graph, site):
        drawn[name] = ids.astype(graph.dtype(name))
    if site.bounds is not None:
        bounds = ends if site.kind == "ends" else ends[:-1]
        drawn[site.bounds] = bounds.astype(graph.dtype(site.bounds))
    if site.weights is not None:
        drawn[site.weights] = rng.standard_normal((count, 1), np.float32)
    return drawn


def _pooled(site: OnnxSite, bags: Sequence[int], drawn: Mapping[str, NDArray[Any]], rows: NDArray[Any]) -> NDArray[Any]:
    """What a look-up would make of the drawn rows."""
    counted = (drawn[site.ids] != site.padding)[:, np.newaxis]
    weighted = rows * counted * drawn.get(site.weights or "", np.ones(1, np.float32))
    begins = np.cumsum(bags)[:-1]
    sums = np.stack([part.sum(axis=0) for part in np.split(weighted, begins)])
    sizes = np.stack([part.sum(axis=0) for part in np.split(counted, begins)])
    return np.asarray(sums / np.maximum(sizes, 1) if site.mode == "mean" else sums)


def _is_close(got: NDArray[Any], expected: NDArray[Any]) -> bool:
    return got.shape == expected.shape and np.allclose(got, expected, 1e-5, 1e-5)
