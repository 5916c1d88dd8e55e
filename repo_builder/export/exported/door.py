"""The door for exported programs: a `.pt2` file becomes a model, cut at its look-ups."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from repo_builder.errors import ExportError, InputError, ModelFileError
from repo_builder.export.bfloat16 import refuse_bfloat16
from repo_builder.export.exported.costs import dense_costs
from repo_builder.export.exported.cut import Keep, ProgramCut, choose
from repo_builder.export.exported.describe import describe
from repo_builder.export.exported.graph import (
    ProgramGraph,
    example_query,
    feeds_of,
    open_graph,
    to_numpy,
    values_of,
    whole_answers,
)
from repo_builder.export.exported.probe import probes
from repo_builder.export.exported.program import read_program
from repo_builder.export.exported.programs import dense_program, ids_program
from repo_builder.export.exported.sites import find_sites
from repo_builder.export.exported.sizes import Sizes, named_sizes
from repo_builder.export.join import join_partials
from repo_builder.export.quantized import QuantizedTable
from repo_builder.export.queries import check_query, read_samples, refuse_ids, refused_samples
from repo_builder.export.stored import Checkpoint, rows_per_chunk
from repo_builder.export.torch_onnx import output_names, to_onnx, write_onnx
from repo_builder.model.arrays import Arrays
from repo_builder.model.lookups import read_bags
from repo_builder.model.source import HALF_TOLERANCE, TOLERANCE, Partial
from repo_builder.model.types import BATCH, Model, Table


def open_exported(path: Path, name: str, samples: Path | None, keep_under_bytes: int, keep: Keep) -> ExportedSource:
    """Open a program written by `torch.export.save`, and cut it at its look-ups; nothing of its file is run.

    samples: an .npz with an array per input, else the program's example inputs. Tables of less than keep_under_bytes
    stay in the dense graph, but for those of bags and those that `keep` says otherwise of, by name. Raises
    ModelFileError.
    """
    graph = open_graph(read_program(path))
    sizes = named_sizes(graph)
    inputs = tuple(sizes.tensor(node, node.name) for node in graph.inputs)
    query = example_query(graph) if samples is None else read_samples(samples, inputs)
    if query is None:
        raise ModelFileError(
            f"{path}: expected example inputs in the program, found none that are plain tensors; "
            "record a query of it, an array per input, and name the .npz in the spec (samples: requests.npz)"
        )
    choice = choose(graph, find_sites(graph), probes(graph, feeds_of(graph, query)), keep_under_bytes, keep)
    return ExportedSource(name, graph, sizes, choice, query, samples or path)


class ExportedSource:
    """An opened program, as a `Source`."""

    def __init__(
        self, name: str, graph: ProgramGraph, sizes: Sizes, choice: ProgramCut, query: Arrays, query_path: Path
    ) -> None:
        """query: a query that the program takes, and its file."""
        self.notes: Sequence[str] = ()
        self.tolerance = HALF_TOLERANCE if graph.computes_in_halves else TOLERANCE
        self._graph, self._choice, self._query = graph, choice, query
        self._path = graph.program.path
        self._cut, read = dense_program(graph, choice, sizes)
        described = describe(name, graph, choice, sizes, _output_names(graph), read)
        self._computed = described.computed
        refuse_bfloat16(self._path, _bfloat16_ends(described.model))
        self.model = self._measured(described.model, query_path)
        self._onnx: onnx.ModelProto | None = None

    def _measured(self, model: Model, query_path: Path) -> Model:
        """With what only a query shows: how many ids and rows there are, and what the dense graph costs."""
        refuse_ids(query_path, model.lookups, model.tables, self._query)
        try:
            answers = whole_answers(self._graph, self._query)
            tensors = self.ids(self._query)
            found = [read_bags(lookup, model.tables[lookup.table], tensors) for lookup in model.lookups]
        except InputError as exc:
            raise refused_samples(query_path, self._query, *exc.problems) from exc
        batch = _batch(model, self._query, answers)
        groups = list(model.groups)
        lookups = []
        for lookup, bags in zip(model.lookups, found, strict=True):
            rows = bags.bags // lookup.count
            lookups.append(replace(lookup, mean_ids=len(bags.ids) / max(rows, 1)))
            groups[lookup.group] = replace(groups[lookup.group], mean_rows=rows / max(batch, 1))
        model = replace(model, lookups=tuple(lookups), groups=tuple(groups))
        return replace(
            model, dense=dense_costs(self._graph.program, self._cut, model, tensors, found, batch, self.tolerance)
        )

    def table_chunks(self, table: Table) -> Iterator[NDArray[Any]]:
        """As `Source` says."""
        members, weights = self._choice.tables[self.model.tables.index(table)].members, self._graph.program.weights
        if table.format.dtype != "fp32":
            return QuantizedTable(members[0], table.format, "end").blocks(weights)
        return _joined_blocks(weights, members)

    def write_dense(self, partials: Sequence[Partial], folder: Path) -> Sequence[str]:
        """As `Source` says."""
        model = self.model
        if self._onnx is None:
            self._onnx = to_onnx(self._cut, model.dense.inputs, model.outputs, str(self._path))
        return write_onnx(join_partials(self._onnx, model, partials), folder)

    def write_ids(self, folder: Path) -> Sequence[str]:
        """As `Source` says."""
        if self.model.ids_graph is None:
            return []
        program = ids_program(self._graph, list(self._computed.values()))
        made = to_onnx(program, self.model.ids_graph.inputs, self.model.ids_graph.outputs, str(self._path))
        return write_onnx(made, folder)

    def write_whole(self, folder: Path) -> Sequence[str]:
        """As `Source` says: a program is no ONNX."""
        return []

    def ids(self, inputs: Arrays) -> Arrays:
        """As `Source` says."""
        values = values_of(self._graph, self._computed.values(), inputs) if self._computed else {}
        computed = {
            name: to_numpy(values[node]).astype(
                np.float32 if values[node].is_floating_point() else values[node].numpy().dtype
            )
            for name, node in self._computed.items()
        }
        return {**inputs, **computed}

    def answers(self, inputs: Arrays) -> Mapping[str, NDArray[Any]]:
        """As `Source` says."""
        check_query(self.model.inputs, inputs)
        names = [output.name for output in self.model.outputs]
        return dict(zip(names, whole_answers(self._graph, inputs), strict=True))

    def samples(self) -> Arrays:
        """As `Source` says."""
        return self._query

    def tried(self) -> Arrays:
        """As `Source` says."""
        return self._query


def _bfloat16_ends(model: Model) -> list[str]:
    """What a graph of the model takes or gives in that."""
    before = model.ids_graph.inputs if model.ids_graph is not None else ()
    return [each.name for each in (*model.dense.inputs, *before, *model.outputs) if each.datatype == "BF16"]


def _output_names(graph: ProgramGraph) -> list[str]:
    """What the whole program's outputs are called where torch exports it to ONNX; else as its nodes are.

    Raises ModelFileError where two tensors of an ensemble would have one name.
    """
    try:
        names = output_names(graph.program.exported, str(graph.program.path))
    except ExportError:
        names = [node.name for node in graph.outputs]
    taken = Counter([*names, *(node.name for node in graph.inputs)])
    if doubled := [name for name in dict.fromkeys(names) if taken[name] > 1]:
        raise ModelFileError(
            *(
                f"{graph.program.path}: output {name}: expected a tensor of its own, got an input, or one twice; "
                "return each tensor once, and .clone() of an input"
                for name in doubled
            )
        )
    return names


def _batch(model: Model, query: Arrays, answers: Sequence[NDArray[Any]]) -> int:
    """How many rows a query has."""
    shapes = [(tensor, query[tensor.name]) for tensor in model.inputs]
    shapes += list(zip(model.outputs, answers, strict=True))
    return next(array.shape[tensor.shape.index(BATCH)] for tensor, array in shapes if BATCH in tensor.shape)


def _joined_blocks(weights: Checkpoint, members: Sequence[str]) -> Iterator[NDArray[np.float32]]:
    """The rows of parameters side by side, in blocks (n, sum of their dims) float32 of about CHUNK_BYTES."""
    if len(members) == 1:
        yield from weights.blocks(members[0])
        return
    rows = weights.tensors[members[0]].shape[0]
    step = rows_per_chunk(sum(weights.tensors[member].shape[1] for member in members))
    readers = [_Reader(weights.blocks(member)) for member in members]
    for begin in range(0, rows, step):
        count = min(step, rows - begin)
        yield np.concatenate([reader.take(count) for reader in readers], axis=1)


class _Reader:
    """Rows in pieces of any size, out of blocks."""

    def __init__(self, blocks: Iterator[NDArray[np.float32]]) -> None:
        self._blocks = blocks
        self._left: NDArray[np.float32] | None = None

    def take(self, count: int) -> NDArray[np.float32]:
        """The next rows."""
        pieces = [] if self._left is None else [self._left]
        while sum(map(len, pieces)) < count:
            pieces.append(next(self._blocks))
        rows = np.concatenate(pieces)
        self._left = rows[count:]
        return rows[:count]
