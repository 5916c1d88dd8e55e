"""The door for exported programs: a `.pt2` file becomes a model, cut at its look-ups."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from repo_builder.errors import ExportError, InputError, ModelFileError
from repo_builder.export.exported.costs import dense_costs
from repo_builder.export.exported.cut import Keep, ProgramCut, choose
from repo_builder.export.exported.describe import describe
from repo_builder.export.exported.graph import ProgramGraph, open_graph
from repo_builder.export.exported.looked_up import LookedUp, look_up
from repo_builder.export.exported.probe import probes
from repo_builder.export.exported.program import read_program
from repo_builder.export.exported.programs import dense_program, ids_program
from repo_builder.export.exported.proof import check_dense, check_ids, check_lookups, tolerance
from repo_builder.export.exported.queries import (
    Query,
    example_query,
    feeds_of,
    query_problems,
    read_samples,
    to_numpy,
    whole_answers,
)
from repo_builder.export.exported.sites import find_sites
from repo_builder.export.exported.sizes import Sizes, named_sizes
from repo_builder.export.exported.tables import joined_blocks, joined_rows
from repo_builder.export.join import join_partials
from repo_builder.export.torch_onnx import output_names, to_onnx, write_onnx
from repo_builder.model.source import Partial
from repo_builder.model.types import BATCH, Model, Table


def open_exported(path: Path, name: str, samples: Path | None, keep_under_bytes: int, keep: Keep) -> ExportedSource:
    """Open a program written by `torch.export.save`, and cut it at its look-ups; nothing of its file is run.

    samples: an .npz with an array an input, else the program's example inputs. Tables of less than keep_under_bytes
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
            "record a query of it, an array an input, and name the .npz as model.samples in the spec"
        )
    choice = choose(graph, find_sites(graph), probes(graph, feeds_of(graph, query)), keep_under_bytes, keep)
    return ExportedSource(name, graph, sizes, choice, query)


class ExportedSource:
    """An opened program, as a `Source`."""

    def __init__(self, name: str, graph: ProgramGraph, sizes: Sizes, choice: ProgramCut, query: Query) -> None:
        self.notes: Sequence[str] = ()
        self._graph, self._choice, self._query = graph, choice, query
        self._path = graph.program.path
        self._cut, read = dense_program(graph, choice, sizes)
        described = describe(name, graph, choice, sizes, _output_names(graph), read)
        self._computed = described.computed
        self.model = self._measured(described.model)
        self._onnx: onnx.ModelProto | None = None

    def _measured(self, model: Model) -> Model:
        """With what only a query shows: how many ids and rows there are, and what the dense graph costs."""
        try:
            tensors = self.ids(self._query)
            found = self._look_up(model, tensors)
            answers = whole_answers(self._graph, self._query)
        except InputError as exc:
            raise ModelFileError(
                *(f"{self._path}: its samples are none that it can score: {problem}" for problem in exc.problems)
            ) from exc
        check_lookups(self._graph, self._choice, model, self._query, found)
        batch = _batch(model, self._query, answers)
        groups = list(model.groups)
        lookups = []
        for lookup, got in zip(model.lookups, found, strict=True):
            rows = len(got.sums)
            lookups.append(replace(lookup, mean_ids=got.ids / max(rows, 1)))
            groups[lookup.group] = replace(groups[lookup.group], mean_rows=rows / max(batch, 1))
        model = replace(model, lookups=tuple(lookups), groups=tuple(groups))
        return replace(model, dense=dense_costs(self._graph.program, self._cut, model, tensors, found, batch))

    def table_chunks(self, table: Table) -> Iterator[NDArray[np.float32]]:
        """As `Source` says."""
        joined = self._choice.tables[self.model.tables.index(table)]
        return joined_blocks(self._graph.program.weights, joined.members)

    def write_dense(self, partials: Sequence[Partial], folder: Path) -> Sequence[str]:
        """As `Source` says."""
        model = self.model
        if self._onnx is None:
            self._onnx = to_onnx(self._cut, model.dense.inputs, model.outputs, str(self._path))
        files = write_onnx(join_partials(self._onnx, model, partials), folder)
        tensors = self.ids(self._query)
        found = self._look_up(model, tensors)
        check_dense(
            folder / files[0], model, partials, tensors, found, self.answers(self._query), tolerance(self._graph)
        )
        return files

    def write_ids(self, folder: Path) -> Sequence[str]:
        """As `Source` says."""
        if self.model.ids_graph is None:
            return []
        program = ids_program(self._graph, list(self._computed.values()))
        made = to_onnx(program, self.model.ids_graph.inputs, self.model.ids_graph.outputs, str(self._path))
        files = write_onnx(made, folder)
        check_ids(folder / files[0], self.model.ids_graph, self._query, self.ids(self._query))
        return files

    def write_whole(self, folder: Path) -> Sequence[str]:
        """As `Source` says: a program is no ONNX."""
        return []

    def ids(self, inputs: Query) -> Query:
        """As `Source` says."""
        values = self._graph.run(self._computed.values(), feeds_of(self._graph, inputs)) if self._computed else {}
        computed = {
            name: to_numpy(values[node]).astype(
                np.float32 if values[node].is_floating_point() else values[node].numpy().dtype
            )
            for name, node in self._computed.items()
        }
        return {**inputs, **computed}

    def answers(self, inputs: Query) -> Mapping[str, NDArray[Any]]:
        """As `Source` says."""
        problems = list(query_problems(self.model.inputs, inputs))
        if problems:
            raise InputError(*problems)
        names = [output.name for output in self.model.outputs]
        return dict(zip(names, whole_answers(self._graph, inputs), strict=True))

    def samples(self) -> Query:
        """As `Source` says."""
        return self._query

    def _look_up(self, model: Model, tensors: Query) -> list[LookedUp]:
        rows = [joined_rows(self._graph, joined.members) for joined in self._choice.tables]
        return [look_up(model, i, tensors, rows[lookup.table]) for i, lookup in enumerate(model.lookups)]


def _output_names(graph: ProgramGraph) -> list[str]:
    """What the whole program's outputs are called where torch exports it to ONNX; else as its nodes are."""
    try:
        return output_names(graph.program.exported, str(graph.program.path))
    except ExportError:
        return [node.name for node in graph.outputs]


def _batch(model: Model, query: Query, answers: Sequence[NDArray[Any]]) -> int:
    """How many rows a query has."""
    shapes = [(tensor, query[tensor.name]) for tensor in model.inputs]
    shapes += list(zip(model.outputs, answers, strict=True))
    return next(array.shape[tensor.shape.index(BATCH)] for tensor, array in shapes if BATCH in tensor.shape)
