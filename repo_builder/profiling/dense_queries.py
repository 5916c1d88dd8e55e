"""The queries that a dense service is measured with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from repo_builder.access.hotness import Hotness
from repo_builder.model.arrays import Array, to_wire
from repo_builder.model.types import Columns, Model
from repo_builder.profiling import perf_analyzer
from repo_builder.profiling.bench import Load
from repo_builder.profiling.models import Models
from repo_builder.repository.design import Design


def dense_load(models: Models, hotness: Hotness, folder: Path, rows: int, in_flight: int) -> Load:
    """Queries of so many rows, `in_flight` of them always under way.

    Where all inputs are floats of rows that can be joined, perf_analyzer makes them; else they are written below
    `folder`: a query as the model's router and embedding services would give it, its looked-up vectors random.
    """
    design = models.design
    if design.joins and all(tensor.datatype == "FP32" for tensor in design.model.dense.inputs):
        return Load("random", in_flight, rows)
    data = folder / f"dense-{rows}.json"
    if not data.exists():
        query = dense_query(design, models.tensors(hotness, rows))
        perf_analyzer.write_queries(data, _by_row(query) if design.joins else [query])
    return Load(data, in_flight, rows if design.joins else 1)


def dense_query(design: Design, tensors: Mapping[str, Array]) -> dict[str, Array]:
    """What the dense model is given for a query; tensors: the model's inputs, and what its ids graph makes of them."""
    rng, model = np.random.default_rng(0), design.model
    query = {tensor.name: to_wire(tensors[tensor.name], tensor.datatype) for tensor in model.dense.inputs}
    for partial in design.sums:
        shape = (group_rows(model, partial.group, tensors), partial.width)
        query[partial.name] = rng.standard_normal(shape, np.float32)
    for group, (name, width) in zip(_averaged(model), design.divisors.items(), strict=True):
        query[name] = np.ones((group_rows(model, group, tensors), width), np.float32)
    return query


def group_rows(model: Model, group: int, tensors: Mapping[str, Array]) -> int:
    """How many rows of a group a query has, read off the tensors of a look-up."""
    ids = model.lookups[model.in_group(group)[0]].ids
    if isinstance(ids.layout, Columns):
        array = tensors[ids.tensor]
        return array.size // (ids.layout.width or array.shape[-1])
    bounds = tensors[ids.layout.bounds].size - (ids.layout.kind == "ends")
    return bounds // ids.layout.blocks


def _averaged(model: Model) -> list[int]:
    return [group for group in range(len(model.groups)) if model.has_means(group)]


def _by_row(query: Mapping[str, Array]) -> list[dict[str, Array]]:
    """A row a query, without the axis along which perf_analyzer joins them; [batch] is [batch, 1] there."""
    rows = len(next(iter(query.values())))
    return [{name: np.atleast_1d(array[row]) for name, array in query.items()} for row in range(rows)]
