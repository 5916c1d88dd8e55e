"""Opening an `.onnx` file: its look-ups found, the model described, and the parts that are cut kept for writing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from repo_builder.errors import ModelFileError
from repo_builder.export.bfloat16 import in_float32, refuse_bfloat16
from repo_builder.export.join import lookup_name
from repo_builder.export.onnx_file.cut import Keep, OnnxCut, OnnxLookup, cut
from repo_builder.export.onnx_file.dense_graph import dense_graph, dims, flops, ids_graph, lookup_shape, parameter_bytes
from repo_builder.export.onnx_file.file import read_without_weights
from repo_builder.export.onnx_file.graph import Graph, name_symbols
from repo_builder.export.onnx_file.loops import hoist_look_ups
from repo_builder.export.onnx_file.plain import plain
from repo_builder.export.onnx_file.run import DATATYPES, RUNTIME_ERRORS, Session, reason, sizes_of
from repo_builder.export.onnx_file.source import OnnxSource
from repo_builder.export.onnx_file.trying import drawn_query, recorded_query
from repo_builder.export.queries import read_samples, refuse_ids
from repo_builder.model.arrays import Arrays, difference
from repo_builder.model.lookups import read_bags
from repo_builder.model.source import TOLERANCE
from repo_builder.model.types import (
    BATCH,
    Dense,
    Group,
    Ids,
    IdsGraph,
    Lookup,
    Model,
    Ragged,
    Table,
    Tensor,
)


def open_onnx(
    path: Path, name: str, samples: Path | None, keep_under_bytes: int, keep: Mapping[str, Keep]
) -> OnnxSource:
    """Open a model and cut it at its look-ups; tables stay in the file.

    samples: an .npz with an array per input; without, queries are drawn. keep_under_bytes: smaller tables stay in the
    dense graph. keep: tables that stay, or do not, whatever their size. Raises ModelFileError, a line per problem,
    where the file or its model cannot be served.
    """
    path = path.resolve() if path.is_symlink() else path  # what lies in it is read from its folder
    lean = read_without_weights(path)
    refuse_bfloat16(path, _bfloat16_ends(lean.graph))
    widened = in_float32(lean)
    model = plain(lean, path)
    hoist_look_ups(model.graph, path.parent)
    graph = Graph(model, path.parent, name_symbols(model.graph, path))
    inputs = tuple(_tensor(path, graph, entry) for entry in model.graph.input)
    whole = _session(lean, path)
    try:
        found = cut(graph, path, keep_under_bytes, keep)
    except ModelFileError as exc:
        raise ModelFileError(*(f"{path}: {problem}" for problem in exc.problems)) from exc
    _refuse_none(path, found)
    recorded = None
    if samples is None:
        query, answers = drawn_query(path, whole, inputs, found, graph)
    else:
        tables, recorded = _tables(graph, found), read_samples(samples, inputs)
        refuse_ids(samples, tuple(_lookups(found, tables)), tables, recorded)
        query, answers = recorded_query(samples, whole, inputs, recorded)
    source = _source(path, name, graph, found, inputs, whole, query, answers, recorded)
    source.is_as_filed = not widened
    return source


def _bfloat16_ends(graph: onnx.GraphProto) -> list[str]:
    given = {tensor.name for tensor in graph.initializer}  # old files list weights as inputs too
    ends = (entry for entry in (*graph.input, *graph.output) if entry.name not in given)
    return [entry.name for entry in ends if entry.type.tensor_type.elem_type == onnx.TensorProto.BFLOAT16]


def _tensor(path: Path, graph: Graph, entry: onnx.ValueInfoProto) -> Tensor:
    """An input or output; raises ModelFileError where it is none that a server can take."""
    kind = entry.type.tensor_type.elem_type
    if kind not in DATATYPES:
        named = onnx.TensorProto.DataType.Name(kind) if kind else "no tensor"
        raise ModelFileError(
            f"{path}: input {entry.name}: expected numbers, got {named}; do what takes them before the model"
        )
    if not entry.type.tensor_type.HasField("shape"):
        raise ModelFileError(f"{path}: input {entry.name}: expected a shape, got none; export the model with shapes")
    return Tensor(entry.name, DATATYPES[kind], tuple(size.dimension for size in graph.shapes[entry.name]))


def _session(lean: onnx.ModelProto, path: Path) -> Session:
    try:
        return Session(lean, path.parent)
    except RUNTIME_ERRORS as exc:
        raise ModelFileError(f"{path}: expected a model that onnxruntime loads, got: {reason(exc)}") from exc


def _refuse_none(path: Path, found: OnnxCut) -> None:
    if found.lookups:
        return
    if not found.kept:
        raise ModelFileError(
            f"{path}: expected look-ups, Gather nodes on axis 0 of an initializer of floats, found none; "
            "it has no embedding tables: serve it as it is"
        )
    raise ModelFileError(
        f"{path}: expected a table to cut off, found {len(found.kept)} that all stay in the dense graph",
        *(f"{path}: table {kept.name} ({kept.rows} x {kept.dim}): {kept.reason}" for kept in found.kept),
    )


def _source(
    path: Path, name: str, graph: Graph, found: OnnxCut, inputs: tuple[Tensor, ...], whole: Session, query: Arrays,
    answers: Arrays, recorded: Arrays | None,
) -> OnnxSource:  # fmt: skip
    sizes = sizes_of(query, inputs)
    outputs = tuple(_output(path, graph, entry, answers[entry.name], sizes) for entry in graph.model.graph.output)
    cut_off, before = dense_graph(graph, found, outputs), ids_graph(graph, found)
    ids_session = Session(before, path.parent) if before is not None else None
    tensors = {**query, **(ids_session.run(query) if ids_session is not None else {})}
    groups = _groups(found, tensors, max(1, sizes[BATCH]))
    tables = _tables(graph, found)
    found_lookups = zip(found.lookups, _lookups(found, tables), strict=True)
    lookups = tuple(_measured(each, lookup, tables[lookup.table], tensors) for each, lookup in found_lookups)
    read = {entry.name for entry in cut_off.graph.input}
    dense = Dense(
        tuple(tensor for tensor in inputs if tensor.name in read),
        flops(cut_off, sizes) / max(1, sizes[BATCH]),
        parameter_bytes(cut_off.graph),
        batched=False,
    )
    model = Model(name, inputs, outputs, tables, groups, lookups, dense, _ids_graph(graph, before), found.kept)
    model = replace(model, dense=replace(dense, batched=_is_batched(model, cut_off, query, path.parent)))
    return OnnxSource(path, model, graph, found, (cut_off, before), (whole, ids_session), query, recorded)


def _output(
    path: Path, graph: Graph, entry: onnx.ValueInfoProto, answer: NDArray[Any], sizes: Mapping[str, int]
) -> Tensor:
    """An output; a dimension that cannot be told is the batch where it is the first and as large, or another."""
    kind = graph.types.get(entry.name, entry.type.tensor_type.elem_type)
    if kind not in DATATYPES:
        raise ModelFileError(f"{path}: output {entry.name}: expected numbers, got another type; leave it out")
    shape = graph.shapes.get(entry.name)
    if shape is None or [size.at(sizes) for size in shape] != list(answer.shape):
        dimensions: list[int | str] = [
            BATCH if axis == 0 and size == sizes[BATCH] else f"{entry.name}_{axis}"
            for axis, size in enumerate(answer.shape)
        ]
        if shape is not None and len(shape) == len(dimensions):
            told = [size.at(sizes) == got for size, got in zip(shape, answer.shape, strict=True)]
            dimensions = [s.dimension if t else d for s, t, d in zip(shape, told, dimensions, strict=True)]
        return Tensor(entry.name, DATATYPES[kind], tuple(dimensions))
    return Tensor(entry.name, DATATYPES[kind], tuple(size.dimension for size in shape))


def _axes(found: OnnxCut) -> list[int | str]:
    """What look-ups go along, the batch first."""
    axes = dict.fromkeys(each.read.bags.rows.dimension for each in found.lookups)
    return sorted(axes, key=lambda dimension: dimension != BATCH)


def _groups(found: OnnxCut, tensors: Arrays, batch: int) -> tuple[Group, ...]:
    """The axes that look-ups go along, and how many rows they have."""
    rows: dict[int | str, int] = {}
    for each in found.lookups:
        rows.setdefault(each.read.bags.rows.dimension, _rows(each, tensors))
    return tuple(Group(dimension, rows[dimension] / batch) for dimension in _axes(found))


def _rows(found: OnnxLookup, tensors: Arrays) -> int:
    """How many rows a look-up has in a query."""
    tensor, layout = tensors[found.read.source.tensor], found.read.source.layout
    if isinstance(layout, Ragged):
        return len(tensors[layout.bounds]) - (layout.kind == "ends")
    width = tensor.shape[-1] if layout.width is None else layout.width
    return tensor.size // max(1, width)


def _tables(graph: Graph, found: OnnxCut) -> tuple[Table, ...]:
    return tuple(
        Table(table, graph.shapes[members[0]][0].number, found.format(sum(dims(graph, found, position)), members))
        for position, (table, members) in enumerate(zip(found.names, found.members, strict=True))
    )


def _lookups(found: OnnxCut, tables: Sequence[Table]) -> Iterator[Lookup]:
    """All of them, but for how many ids they have, which only a query shows."""
    of_table: Counter[int] = Counter()
    axes = _axes(found)
    for each in found.lookups:
        of_table[each.table] += 1
        table, number = tables[each.table], of_table[each.table]
        source = each.read.source
        yield Lookup(
            table.name if number == 1 else f"{table.name}_{number}",
            each.table,
            axes.index(each.read.bags.rows.dimension),
            Ids(source.tensor, source.layout, source.weights, each.read.padding, from_end=True),
            each.read.mode,
            each.read.bags.count,
            lookup_shape(each, table.format.dim),
            0.0,
        )


def _measured(found: OnnxLookup, lookup: Lookup, table: Table, tensors: Arrays) -> Lookup:
    """With its ids in a query."""
    return replace(lookup, mean_ids=len(read_bags(lookup, table, tensors).ids) / max(1, _rows(found, tensors)))


def _ids_graph(graph: Graph, before: onnx.ModelProto | None) -> IdsGraph | None:
    if before is None:
        return None
    inputs, outputs = (
        tuple(
            Tensor(entry.name, DATATYPES[graph.types[entry.name]], tuple(d.dimension for d in graph.shapes[entry.name]))
            for entry in entries
        )
        for entries in (before.graph.input, before.graph.output)
    )
    return IdsGraph(inputs, outputs)


_TRIED_ROWS = 3


def _is_batched(model: Model, cut_off: onnx.ModelProto, query: Arrays, folder: Path) -> bool:
    """Whether all that the dense graph takes and gives has the batch first, and rows are answered alike one by one and
    together: on the query's rows, and drawn vectors in the place of looked-up ones.
    """
    shapes = [tensor.shape for tensor in (*model.dense.inputs, *model.outputs)]
    shapes += [lookup.shape for lookup in model.lookups]
    if any(shape[:1] != (BATCH,) or BATCH in shape[1:] for shape in shapes):
        return False
    rng, rows = np.random.default_rng(0), np.arange(_TRIED_ROWS)
    given = {tensor.name: np.resize(query[tensor.name], _resized(query[tensor.name])) for tensor in model.dense.inputs}
    for position, lookup in enumerate(model.lookups):
        sizes = [size for size in lookup.shape[1:] if isinstance(size, int)]
        given[lookup_name(position)] = rng.standard_normal((len(rows), *sizes), np.float32)
    session = Session(cut_off, folder)
    try:
        together = session.run(given)
        alone = [session.run({name: array[[row]] for name, array in given.items()}) for row in rows.tolist()]
    except RUNTIME_ERRORS:
        return False
    return all(
        all(each[name].shape == (1, *answers.shape[1:]) for each in alone)
        and difference(np.concatenate([each[name] for each in alone]), answers) <= TOLERANCE
        for name, answers in together.items()
    )


def _resized(array: NDArray[Any]) -> tuple[int, ...]:
    return (_TRIED_ROWS, *array.shape[1:])
