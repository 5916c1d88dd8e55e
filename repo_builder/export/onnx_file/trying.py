"""A query that a model takes, and its answers: recorded, or the first of some drawn ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from repo_builder.errors import ModelFileError
from repo_builder.export.onnx_file.cut import OnnxCut
from repo_builder.export.onnx_file.graph import Graph
from repo_builder.export.onnx_file.run import RUNTIME_ERRORS, Session, drawn, first_rows, reason
from repo_builder.export.queries import refused_samples
from repo_builder.model.arrays import Arrays
from repo_builder.model.types import Columns, Ragged, Tensor

_ROWS = 32  # of a query that a model is tried on, at most: each of its ids makes pages of the file resident
_BOUNDS = (100, 2, 1)


def recorded_query(samples: Path, whole: Session, inputs: Sequence[Tensor], recorded: Arrays) -> tuple[Arrays, Arrays]:
    """The first rows of samples, and their answers; raises ModelFileError where the model does not take them."""
    query = first_rows(recorded, inputs, _ROWS)
    try:
        return query, whole.run(query)
    except RUNTIME_ERRORS as exc:
        raise refused_samples(samples, query, reason(exc)) from exc


def drawn_query(
    path: Path, whole: Session, inputs: Sequence[Tensor], found: OnnxCut, graph: Graph
) -> tuple[Arrays, Arrays]:
    """A drawn query, and its answers; raises ModelFileError where the model takes none of those that are tried."""
    bounds, sources = _bounds(found, graph), [each.read.source for each in found.lookups]
    ragged = {layout: source.tensor for source in sources if isinstance(layout := source.layout, Ragged)}
    for below in (min(graph.shapes[each][0].number for of_table in found.members for each in of_table), *_BOUNDS):
        query = drawn(inputs, bounds, ragged, below)
        try:
            return query, whole.run(query)
        except RUNTIME_ERRORS as exc:
            refusal = reason(exc)
    raise ModelFileError(
        f"{path}: expected a model that takes drawn queries, got: {refusal}; "
        "give recorded ones: samples, an .npz with an array per input"
    )


def _bounds(found: OnnxCut, graph: Graph) -> Mapping[str, list[int]]:
    """What ids are below, by input and column: the rows of their tables, and 2 for columns that hold none."""
    bounds: dict[str, list[int]] = {}
    held: dict[tuple[str, int], int] = {}
    for each in found.lookups:
        source, rows = each.read.source, graph.shapes[found.members[each.table][0]][0].number
        taken, width = range(1), 1
        if isinstance(source.layout, Columns) and source.layout.width is not None:
            begin, width = source.layout.begin, source.layout.width
            taken = range(begin, begin + each.read.bags.count * source.layout.bag)
        of_input = bounds.setdefault(source.tensor, [2] * width)
        for column in taken:
            held[source.tensor, column] = min(rows, held.get((source.tensor, column), rows))
            of_input[column] = held[source.tensor, column]
    return bounds
